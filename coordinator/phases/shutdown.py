"""Shutdown: tell the sites that the run is over, and let them sign the last checkpoint of its audit trail.

Bounds: 0 to roster sites; ``linger_s``. The last phase; nothing follows it.
"""

from __future__ import annotations

from coordinator.phases.phase import Context, Over, Stay, waited_for
from coordinator.progress import Moment
from coordinator.store.journal import Transaction
from fedmentor.ids import SiteId

COUNTERSIGN_GRACE_S = 10.0
"""How long a site that was told is waited for to countersign, which it does at once; one that never did in this run is not."""


def shutdown(context: Context, moment: Moment) -> Stay | Over:
    """See the module. A site that has been gone for ``straggler_grace_s`` is not waited for."""
    untold = frozenset(context.manifest.roster) - context.presence.told
    left_s = context.limits.linger_s - moment.phase_elapsed_s
    grace_s = waited_for(context, untold)
    if left_s > 0 and (grace_s is None or grace_s > 0):
        return Stay(left_s if grace_s is None else min(left_s, grace_s))
    signing_s = min(left_s, _signing_s(context))
    if signing_s > 0:
        return Stay(signing_s)
    context.spool.keep_only(())
    return Over()


def _signing_s(context: Context) -> float:
    """Seconds for which a site that was told may still be about to countersign; 0 or less where none is waited for."""
    if context.notary is None:
        return 0.0
    unsigned = context.presence.told & context.journal.run_tx("read_countersignatures", _unsigned)
    absence_s = context.presence.absence_s()
    return max((COUNTERSIGN_GRACE_S - absence_s.get(site, 0.0) for site in unsigned), default=0.0)


def _unsigned(tx: Transaction) -> frozenset[SiteId]:
    """Sites that have signed earlier checkpoints and not the newest one."""
    newest = tx.checkpoint()
    if newest is None:
        return frozenset()
    last = {item.site: item.records for item in tx.countersignatures()}  # sorted by length: the longest one stays
    return frozenset(site for site, records in last.items() if records < newest.records)

"""Shutdown: tell the sites that the run is over, and let them sign the last checkpoint of its audit trail.

Bounds: 0 to roster sites; ``linger_s``. The last phase; nothing follows it.
"""

from __future__ import annotations

from coordinator.phases.phase import Context, Over, Stay, waited_for
from coordinator.progress import Moment
from coordinator.store.journal import Transaction
from fedmentor.ids import SiteId

COUNTERSIGN_GRACE_S = 10.0
"""How long a site that was told is waited for to countersign; it does so at once or, if it has no signing key, never."""


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
    unsigned = context.presence.told - context.journal.run_tx("read_countersignatures", _signers)
    absence_s = context.presence.absence_s()
    return max((COUNTERSIGN_GRACE_S - absence_s.get(site, 0.0) for site in unsigned), default=0.0)


def _signers(tx: Transaction) -> frozenset[SiteId]:
    newest = tx.checkpoint()
    return frozenset(item.site for item in tx.countersignatures(newest.records)) if newest else frozenset()

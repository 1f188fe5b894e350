"""Shutdown: tell the sites that the run is over. Bounds: 0 to roster sites; ``linger_s``. The last phase; nothing follows it."""

from __future__ import annotations

from coordinator.phases.phase import Context, Over, Stay, waited_for
from coordinator.progress import Moment


def shutdown(context: Context, moment: Moment) -> Stay | Over:
    """See the module. A site that has been gone for ``straggler_grace_s`` is not waited for."""
    untold = frozenset(context.manifest.roster) - context.presence.told
    left_s = context.limits.linger_s - moment.phase_elapsed_s
    grace_s = waited_for(context, untold)
    if left_s > 0 and (grace_s is None or grace_s > 0):
        return Stay(left_s if grace_s is None else min(left_s, grace_s))
    context.spool.keep_only(())
    return Over()

"""Idle: wait for sites to connect. Bounds: quorum to roster sites; ``gather_s``, then the attempt fails.

Goes on once every site of the roster is connected, or the quorum is and every other site has been gone for ``straggler_grace_s``.
Sites that come later can still join while the round collects.
"""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, Stay, fail, to_phase, transition, waited_for
from coordinator.phases.short_step import enough_of
from coordinator.progress import Moment
from coordinator.state import PhaseName


def idle(context: Context, moment: Moment) -> Stay | Moved:
    """See the module."""
    manifest = context.manifest
    asked = frozenset(manifest.roster) - moment.set_aside
    missing = asked & context.presence.absence_s().keys()
    connected = len(asked) - len(missing)
    grace_s = waited_for(context, missing) if enough_of(manifest, asked - missing) else None
    if grace_s is not None and grace_s <= 0:
        return transition(context, moment, "gather_quorum", to_phase(moment, PhaseName.OPEN), fields={"connected": connected})
    left_s = context.limits.gather_s - moment.phase_elapsed_s
    if left_s <= 0:
        return fail(context, moment, f"{connected} of {manifest.needed} needed sites were connected")
    return Stay(left_s if grace_s is None else min(left_s, grace_s))

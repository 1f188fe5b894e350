"""Collect: take updates. Bounds: quorum to roster sites; ``collect_seconds``.

1. every site that was asked (in a secure run U2, else the roster) has delivered: go on at once;
2. the deadline has passed: go on with the quorum, or fail the attempt;
3. the quorum has delivered and every other site has been gone for ``straggler_grace_s``: go on without them. A site that is
   connected is waited for until the deadline; one that has been gone since an earlier round costs no time at all, and neither does
   one whose update was refused in this attempt or that sits it out;
4. without the quorum, and nothing is to come any more: fail the attempt at once.
"""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, Stay, fail, to_phase, transition, waited_for
from coordinator.phases.short_step import close_step, enough_of
from coordinator.progress import Moment
from coordinator.state import PhaseName


def collect(context: Context, moment: Moment) -> Stay | Moved:
    """See the module. The closing transaction ends acceptance; what was accepted up to it counts."""
    manifest = context.manifest
    asked = context.secure.expected(moment.state) if context.secure else frozenset(manifest.roster)
    missing = asked - moment.set_aside - moment.delivered - context.presence.refused(moment.state.ref(manifest.run))
    quorum = enough_of(manifest, moment.delivered)
    left_s = manifest.collect_seconds - moment.phase_elapsed_s
    grace_s = waited_for(context, missing) if quorum else None
    if (quorum and left_s <= 0) or (grace_s is not None and grace_s <= 0):  # 1, 2, 3: no grace where none is missing
        if context.secure:
            return close_step(context, moment, PhaseName.CONSENT)
        return transition(context, moment, "close_round", to_phase(moment, PhaseName.AGGREGATE))
    if left_s <= 0:  # 2
        return fail(context, moment, f"{len(moment.delivered)} of {manifest.needed} needed updates arrived in time")
    if not missing:  # 4
        return fail(context, moment, f"{len(moment.delivered)} of {manifest.needed} needed updates arrived, no other is to come")
    return Stay(left_s if grace_s is None else min(left_s, grace_s))

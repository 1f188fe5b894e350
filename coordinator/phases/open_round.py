"""Open: begin an attempt. Instant; a round's first attempt starts with an empty spool and the round's time at zero."""

from __future__ import annotations

from dataclasses import replace

from coordinator.phases.phase import Context, Moved, to_phase, transition
from coordinator.progress import Moment
from coordinator.state import PhaseName


def open_round(context: Context, moment: Moment) -> Moved:
    """See the module.

    Later attempts keep the spool: what sites sent for the failed one need not be sent again. Not so in a secure run: every attempt
    has other masks.

    Raises:
        BrokenStore: the model that sites would start from is damaged on disk.
    """
    context.models.open(moment.state.model).check(moment.state.model)
    secure = context.secure
    to = to_phase(moment, PhaseName.ADVERTISE if secure else PhaseName.COLLECT, reason="")
    if moment.state.attempt == 1 or secure:
        context.spool.keep_only(())
    if moment.state.attempt == 1:
        to = replace(to, round_elapsed_s=0.0)
    fields = {"model": moment.state.model, "manifest": context.manifest.digest}
    also = (lambda tx: secure.open(tx, moment.state)) if secure else None
    return transition(context, moment, "open_round", to, fields=fields, also=also)

"""Open: begin an attempt. Instant; a round's first attempt starts with an empty spool and the round's time at zero."""

from __future__ import annotations

from dataclasses import replace

from coordinator.phases.phase import Context, Moved, to_phase, transition
from coordinator.progress import Moment
from coordinator.state import PhaseName


def open_round(context: Context, moment: Moment) -> Moved:
    """See the module. Later attempts keep the spool: what sites sent for the failed one need not be sent again.

    Raises:
        BrokenStore: the model that sites would start from is damaged on disk.
    """
    context.models.open(moment.state.model).check(moment.state.model)
    to = to_phase(moment, PhaseName.COLLECT, reason="")
    if moment.state.attempt == 1:
        context.spool.keep_only(())
        to = replace(to, round_elapsed_s=0.0)
    fields = {"model": moment.state.model, "manifest": context.manifest.digest}
    return transition(context, moment, "open_round", to, fields=fields)

"""Failure: what follows a failed attempt. Instant: the next attempt, or the end of the run after ``max_attempts``."""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, to_phase, transition
from coordinator.progress import Moment
from coordinator.state import PhaseName
from fedmentor.federation import Outcome
from fedmentor.ids import Attempt


def failure(context: Context, moment: Moment) -> Moved:
    """See the module."""
    state, limit = moment.state, context.manifest.max_attempts
    if state.attempt < limit:
        to = to_phase(moment, PhaseName.IDLE, attempt=Attempt(state.attempt + 1))
        return transition(context, moment, "retry_round", to)
    reason = f"round {state.round} failed {limit} times; the last time: {state.reason}"
    to = to_phase(moment, PhaseName.SHUTDOWN, outcome=Outcome.FAILED, reason=reason)
    return transition(context, moment, "fail_run", to, fields={"reason": reason})

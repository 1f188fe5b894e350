"""Reveal: shares open the sum. Bounds: the protocol's threshold to the sites that consented; ``step_seconds``.

A site that has revealed joins no other attempt of the round, so a round that fails from here on cannot be tried again. It is void:
its model is the one that it started from, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.phases.phase import Context, Moved, Stay, to_phase, transition
from coordinator.phases.short_step import short_step
from coordinator.progress import Moment
from coordinator.state import PhaseName
from coordinator.store.journal import Transaction
from fedmentor.audit import Fields
from fedmentor.federation import Outcome


def reveal(context: Context, moment: Moment) -> Stay | Moved:
    """See the module."""
    return short_step(context, moment, PhaseName.AGGREGATE, lambda reason: void_round(context, moment, reason))


def void_round(
    context: Context,
    moment: Moment,
    reason: str,
    *,
    fields: Fields | None = None,
    also: Callable[[Transaction], None] | None = None,
) -> Moved:
    """Publish the model that the round started from; the run fails after ``max_attempts`` such rounds in a row.

    ``fields`` and ``also``: see ``transition``.
    """
    state, limit = moment.state, context.manifest.max_attempts
    rounds = context.journal.run_tx("read_rounds", lambda tx: tx.rounds())
    void = [published.model == published.base_model for published in rounds[-(limit - 1) :]] if limit > 1 else []
    if len(void) == limit - 1 and all(void):
        reason = f"{limit} rounds in a row were void; the last time: {reason}"
        to = to_phase(moment, PhaseName.SHUTDOWN, pending=None, outcome=Outcome.FAILED, reason=reason)
        return transition(context, moment, "fail_run", to, fields={**(fields or {}), "reason": reason}, also=also)
    to = to_phase(moment, PhaseName.PUBLISH, pending=state.model, reason=reason)
    said = {**(fields or {}), "reason": reason, "model": state.model}
    return transition(context, moment, "void_round", to, fields=said, also=also)

"""Evaluate: wait for the sites' scores of the last model. Bounds: 0 to roster sites; ``evaluate_seconds``.

Scores are a report, not a condition: the last model is already published, so the run is complete whoever answers.
"""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, Stay, to_phase, transition, waited_for
from coordinator.progress import Moment
from coordinator.state import PhaseName
from fedmentor.federation import Outcome


def evaluate_last(context: Context, moment: Moment) -> Stay | Moved:
    """See the module. A site that has been gone for ``straggler_grace_s`` is not waited for, nor one that sends no scores."""
    asked = context.manifest.roster if context.manifest.reports_scores else ()
    missing = frozenset(asked) - moment.set_aside - moment.scored
    left_s = context.manifest.evaluate_seconds - moment.phase_elapsed_s
    grace_s = waited_for(context, missing)
    if left_s > 0 and (grace_s is None or grace_s > 0):
        return Stay(left_s if grace_s is None else min(left_s, grace_s))
    to = to_phase(moment, PhaseName.SHUTDOWN, outcome=Outcome.COMPLETED, reason="")
    return transition(context, moment, "complete_run", to, fields={"model": moment.state.model, "scored": len(moment.scored)})

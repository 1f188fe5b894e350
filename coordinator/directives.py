"""What each site is told, as a pure function of where the run stands: a site that reconnects gets the same answer again."""

from __future__ import annotations

from dataclasses import replace

from coordinator.progress import Moment
from coordinator.state import PhaseName
from fedmentor.federation import Directive, Evaluate, Finished, ModelRef, Outcome, RunManifest, Train, Wait
from fedmentor.ids import SiteId
from fedmentor.tensors import spec_size


def directive_for(manifest: RunManifest, moment: Moment, site: SiteId) -> Directive:
    """The directive that is in force for ``site``."""
    state = moment.state
    model = ModelRef(state.model, 4 * spec_size(manifest.spec))
    match state.phase:
        case PhaseName.COLLECT if site not in moment.delivered:
            return Train(state.ref(manifest.run), model, max(0.0, manifest.collect_seconds - moment.phase_elapsed_s))
        case PhaseName.COLLECT:
            return Wait(f"round {state.round}: the update is in; waiting for other sites")
        case PhaseName.EVALUATE if site not in moment.scored:
            return Evaluate(state.ref(manifest.run), model, max(0.0, manifest.evaluate_seconds - moment.phase_elapsed_s))
        case PhaseName.EVALUATE:
            return Wait("the last model is scored; waiting for other sites")
        case PhaseName.SHUTDOWN:
            return Finished(state.outcome or Outcome.FAILED, state.reason or "all rounds are done")
        case PhaseName.AGGREGATE | PhaseName.PUBLISH:
            return Wait(f"round {state.round}: the updates are being aggregated")
        case _:
            return Wait(f"round {state.round} opens once {manifest.quorum} sites are connected")


def same_order(one: Directive | None, other: Directive) -> bool:
    """Both tell a site to do the same, whatever time is left for it."""
    return one is not None and _timeless(one) == _timeless(other)


def _timeless(directive: Directive) -> Directive:
    return replace(directive, deadline_s=0.0) if isinstance(directive, Train | Evaluate) else directive

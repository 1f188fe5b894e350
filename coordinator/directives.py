"""What each site is told, as a pure function of where the run stands: a site that reconnects gets the same answer again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from coordinator.progress import SHORT_STEPS, Moment
from coordinator.state import PhaseName, RunState
from fedmentor.federation import Directive, Evaluate, Finished, ModelRef, Outcome, RoundRef, RunManifest, SecureStep, Train, Wait
from fedmentor.ids import Round, SiteId
from fedmentor.tensors import spec_size

Asked = Callable[[RunState, SiteId], bytes | None]
"""What a site is sent in a phase of secure aggregation; None where it has no part in it."""


def directive_for(manifest: RunManifest, moment: Moment, site: SiteId, asked: Asked | None = None) -> Directive:
    """The directive that is in force for ``site``.

    Args:
        asked: coordinator.secure.SecureRounds.asked, in a run that aggregates securely.
    """
    state = moment.state
    model = ModelRef(state.model, 4 * spec_size(manifest.spec))
    if asked and (state.phase in SHORT_STEPS or (state.phase is PhaseName.COLLECT and site not in moment.delivered)):
        return _secure_directive(manifest, moment, model, site, None if site in moment.answered else asked(state, site))
    if site in moment.set_aside and state.phase is not PhaseName.SHUTDOWN:
        return Wait("this site is set aside for the rest of the run; ask the coordinator's operator for the reason")
    match state.phase:
        case PhaseName.COLLECT if site not in moment.delivered:
            return Train(state.ref(manifest.run), model, max(0.0, manifest.collect_seconds - moment.phase_elapsed_s))
        case PhaseName.COLLECT:
            return Wait(f"round {state.round}: the update is in; waiting for other sites")
        case PhaseName.GATE:
            return _gate_directive(manifest, moment, model, site)
        case PhaseName.EVALUATE if site not in moment.scored:
            return Evaluate(state.ref(manifest.run), model, max(0.0, manifest.evaluate_seconds - moment.phase_elapsed_s))
        case PhaseName.EVALUATE:
            return Wait("the last model is scored; waiting for other sites")
        case PhaseName.SHUTDOWN:
            return Finished(state.outcome or Outcome.FAILED, state.reason or "all rounds are done")
        case PhaseName.AGGREGATE | PhaseName.PUBLISH:
            return Wait(f"round {state.round}: the updates are being aggregated")
        case _:
            return Wait(f"round {state.round} opens once {manifest.needed} sites are connected")


def _gate_directive(manifest: RunManifest, moment: Moment, model: ModelRef, site: SiteId) -> Directive:
    """Score the candidate for the next round's model: towards the site it is that model already, only nobody trains from it yet."""
    state, plan = moment.state, manifest.gate
    if site in moment.scored or state.pending is None or plan is None:
        return Wait(f"round {state.round}: its model is scored; waiting for other sites")
    following = RoundRef(manifest.run, Round(state.round + 1), state.attempt)
    return Evaluate(following, replace(model, digest=state.pending), max(0.0, plan.seconds - moment.phase_elapsed_s))


def _secure_directive(manifest: RunManifest, moment: Moment, model: ModelRef, site: SiteId, message: bytes | None) -> Directive:
    """The directive of a phase of secure aggregation; ``message`` is what the site is sent, None where it has no part in it."""
    state = moment.state
    if site in moment.answered:
        return Wait(f"round {state.round}: the step {state.phase.value!r} is done here; waiting for other sites")
    if message is None:
        return Wait(f"round {state.round}: this site has no part in the step {state.phase.value!r}")
    short = SHORT_STEPS.get(state.phase)
    if short is None or manifest.secure is None:
        left_s = manifest.collect_seconds - moment.phase_elapsed_s
        return Train(state.ref(manifest.run), model, max(0.0, left_s), message)
    left_s = manifest.secure.step_seconds - moment.phase_elapsed_s
    return SecureStep(state.ref(manifest.run), model, max(0.0, left_s), short, message)


def same_order(one: Directive | None, other: Directive) -> bool:
    """Both tell a site to do the same, whatever time is left for it."""
    return one is not None and _timeless(one) == _timeless(other)


def _timeless(directive: Directive) -> Directive:
    return replace(directive, deadline_s=0.0) if isinstance(directive, Train | SecureStep | Evaluate) else directive

"""What the short phases of secure aggregation have in common: ask, wait for everybody who can still answer, close the step."""

from __future__ import annotations

from collections.abc import Callable, Collection

from coordinator.phases.phase import Context, Moved, Stay, fail, to_phase, transition, waited_for
from coordinator.progress import SHORT_STEPS, Moment
from coordinator.secure import SecureRounds
from coordinator.state import PhaseName
from fedmentor.errors import BrokenStore
from fedmentor.federation import RunManifest
from fedmentor.ids import SiteId
from fedmentor.secagg.plan import SecurePlan
from fedmentor.secagg.refusal import ProtocolRefused


def secure_parts(context: Context) -> tuple[SecurePlan, SecureRounds]:
    """The plan of a secure run and the attempts that go by it.

    Raises:
        BrokenStore: the journal is in a phase of secure aggregation, and the run does not aggregate securely.
    """
    if context.manifest.secure is None or context.secure is None:
        raise BrokenStore("the journal is in a phase of secure aggregation, but the run is none")
    return context.manifest.secure, context.secure


def short_step(context: Context, moment: Moment, to: PhaseName, give_up: Callable[[str], Moved] | None = None) -> Stay | Moved:
    """Wait for the answers of a step, then close it and go on.

    1. everybody who is asked has answered: go on at once; 2. the deadline has passed: go on with those who did; 3. enough have
    answered, and every other site has been gone for ``straggler_grace_s``: go on without them.

    Args:
        to: the phase that follows.
        give_up: what to do, with a public reason, where too few are left for the protocol; the attempt fails unless it is given.
    """
    plan, secure = secure_parts(context)
    state = moment.state
    silent = secure.expected(state) - moment.answered - context.presence.refused(state.ref(context.manifest.run))
    enough = enough_of(context.manifest, moment.answered)
    left_s = plan.step_seconds - moment.phase_elapsed_s
    grace_s = waited_for(context, silent) if enough or not silent else None
    if left_s > 0 and (grace_s is None or grace_s > 0):
        return Stay(left_s if grace_s is None else min(left_s, grace_s))
    return close_step(context, moment, to, give_up)


def enough_of(manifest: RunManifest, sites: Collection[SiteId]) -> bool:
    """Whether these sites make a model: the quorum of them, and in a secure run enough in enough groups."""
    whole = sum(len(set(group.sites) & set(sites)) >= group.terms.quorum for group in manifest.groups)
    return len(sites) >= manifest.needed and (manifest.secure is None or whole >= manifest.secure.needed_groups)


def close_step(context: Context, moment: Moment, to: PhaseName, give_up: Callable[[str], Moved] | None = None) -> Moved:
    """Close the step in force and go to the next phase; see short_step."""
    _, secure = secure_parts(context)
    # Held until the transition is on disk: no answer is taken in between that the next step would not know.
    with secure.attempt(moment.state) as attempt:
        if attempt is None:
            raise BrokenStore("the journal holds no secure attempt to go on with")
        try:
            attempt.close()
        except ProtocolRefused as error:
            reason = f"step {moment.state.phase.value!r} of secure aggregation: {error.message}"
            return give_up(reason) if give_up else fail(context, moment, reason)
        name = f"close_{moment.state.phase.value}"
        return transition(context, moment, name, to_phase(moment, to), fields={"answers": _answers(moment)})


def _answers(moment: Moment) -> int:
    return len(moment.answered) if moment.state.phase in SHORT_STEPS else len(moment.delivered)

"""Publish: make the aggregated model the model in force. Instant; one transaction ends the round and begins the next phase."""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, to_phase, transition
from coordinator.progress import Moment
from coordinator.state import PhaseName, PublishedRound, RunState
from coordinator.store.journal import Transaction
from fedmentor.errors import BrokenStore
from fedmentor.ids import Attempt, Round, SiteId


def publish(context: Context, moment: Moment) -> Moved:
    """See the module.

    Raises:
        BrokenStore: the journal names no aggregated model.
    """
    state = moment.state
    if state.pending is None:
        raise BrokenStore("the journal is in the publish phase without a model to publish")
    published = PublishedRound(
        round=state.round,
        attempt=state.attempt,
        base_model=state.model,
        model=state.pending,
        seconds=moment.round_elapsed_s,
        published_utc=context.clock.now().isoformat(),
        sites=_sites(context, state),
    )
    following = Round(state.round + 1)
    phase = PhaseName.EVALUATE if following == context.manifest.rounds else PhaseName.IDLE
    to = to_phase(moment, phase, round=following, attempt=Attempt(1), model=state.pending, pending=None)

    def write(tx: Transaction) -> None:
        tx.put_round(published)
        tx.forget_noise()

    fields = {"model": published.model, "base_model": published.base_model}
    return transition(context, moment, "publish_round", to, fields=fields, also=write)


def _sites(context: Context, state: RunState) -> tuple[SiteId, ...]:
    """Whose updates are in the pending model; nobody's where the round is void."""
    if state.pending is None or state.pending == state.model:
        return ()
    return tuple(SiteId(site) for site in context.models.record(state.pending).details["sites"])

"""What the aggregate phase does with single updates: the strategy, the search for free riders, and what follows for the sites."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.conduct import SetAside, SiteFlag, Standing, to_set_aside
from coordinator.phases.phase import Context
from coordinator.progress import Moment
from coordinator.state import AcceptedUpdate, PublishedRound
from coordinator.store.journal import COORDINATOR, Transaction
from coordinator.strategies.choice import strategy_for
from coordinator.strategies.screening import ModelChange, copied, flagged_sites, idle_sites
from coordinator.strategies.strategy import Combination, Submission
from fedmentor.audit import Fields
from fedmentor.ids import Digest, SiteId
from fedmentor.privacy.noise import KEY_BYTES
from fedmentor.robust import Flag, RobustPlan
from fedmentor.tensors import FloatVector, spec_size


def nothing_more(_tx: Transaction) -> None:
    """Write nothing more."""


@dataclass(frozen=True)
class Change:
    """What an attempt adds to the model.

    Attributes:
        blocks: consecutive float32 blocks; read once.
        fields: what the audit record of the aggregate says about it.
        record: writes what belongs to it, in the transaction that stores the aggregate.
    """

    blocks: Iterator[FloatVector]
    fields: Fields = field(default_factory=dict)
    record: Callable[[Transaction], None] = nothing_more


def combine(context: Context, moment: Moment, submissions: Sequence[Submission], updates: Sequence[AcceptedUpdate]) -> Change:
    """Combine checked updates by the manifest's rule.

    Doing it again after a crash gives the same bytes: rules draw no randomness, and noise comes from a seed that is in the journal
    before it is used.

    Args:
        submissions: the words of ``updates``.

    Raises:
        QuorumMissed: the rule needs more updates.
    """
    manifest = context.manifest
    if manifest.central_privacy is not None:
        _drop_unnamed_models(context)
    strategy = strategy_for(manifest, lambda: _noise_seed(context, moment))
    combination = strategy.combine(submissions, spec_size(manifest.spec))
    if manifest.robust is None and manifest.central_privacy is None:
        return Change(combination.blocks)
    flags = _flags(context, submissions, updates, combination) if manifest.robust is not None else []

    def record(tx: Transaction) -> None:
        tx.put_shares(moment.state.round, moment.state.attempt, combination.shares)
        if manifest.robust is not None:
            _keep_flags(context, tx, moment, flags, manifest.robust)

    return Change(combination.blocks, _fields(combination), record)


def _noise_seed(context: Context, moment: Moment) -> bytes:
    """This attempt's seed: drawn once, and on disk before anything is made of it."""
    state = moment.state

    def draw(tx: Transaction) -> bytes:
        known = tx.noise_seed(state.round, state.attempt)
        if known is not None:
            return known
        seed = context.entropy(KEY_BYTES)
        tx.put_noise_seed(state.round, state.attempt, seed)
        tx.audit(COORDINATOR, "draw_noise", {"round": state.round, "attempt": state.attempt})
        return seed

    return context.journal.run_tx("draw_noise", draw)


def _drop_unnamed_models(context: Context) -> None:
    """Remove models that the journal does not name: the same sum under other noise, which an attempt left that a crash ended."""

    def named(tx: Transaction) -> set[Digest]:
        state = tx.state()
        published = {digest for one in tx.rounds() for digest in (one.base_model, one.model)}
        return published | {context.manifest.initial_model, state.model, *((state.pending,) if state.pending else ())}

    context.models.keep_only(context.journal.run_tx("read_models", named))


def _flags(
    context: Context,
    submissions: Sequence[Submission],
    updates: Sequence[AcceptedUpdate],
    combination: Combination,
) -> list[tuple[SiteId, Flag]]:
    rounds = context.journal.run_tx("read_rounds", lambda tx: tx.rounds())
    last = rounds[-1] if rounds else None
    idle = idle_sites(submissions, spec_size(context.manifest.spec), _last_change(context, last))
    copies = copied(_digests(updates), _digests_of(context, last))
    return flagged_sites(idle, copies, combination.left_out)


def _last_change(context: Context, last: PublishedRound | None) -> ModelChange | None:
    if last is None or last.model == last.base_model:
        return None
    return ModelChange(context.models.open(last.base_model), context.models.open(last.model), context.manifest.ring)


def _digests(updates: Sequence[AcceptedUpdate]) -> dict[SiteId, Digest]:
    return {update.site: update.receipt.sha256 for update in updates}


def _digests_of(context: Context, published: PublishedRound | None) -> Mapping[SiteId, Digest]:
    if published is None or published.model == published.base_model:
        return {}  # after a void round a site with one image may well learn the very same again
    return _digests(context.journal.run_tx("read_updates", lambda tx: tx.updates(published.round, published.attempt)))


def _keep_flags(context: Context, tx: Transaction, moment: Moment, flags: Sequence[tuple[SiteId, Flag]], plan: RobustPlan) -> None:
    state, manifest = moment.state, context.manifest
    for site, flag in flags:
        if tx.put_flag(SiteFlag(state.round, state.attempt, site, flag)):
            where: Fields = {"round": state.round, "attempt": state.attempt}
            tx.audit(COORDINATOR, "flag_site", {**where, "site": site, "flag": flag.value})
    away = {entry.site for entry in tx.set_aside()}
    standing = Standing(frozenset(manifest.roster) - away, manifest.needed)
    for site in to_set_aside(plan, tx.flags(), standing):
        tx.put_set_aside(SetAside(site, state.round))
        tx.audit(COORDINATOR, "set_aside_site", {"round": state.round, "site": site})


def _fields(combination: Combination) -> Fields:
    said: dict[str, str] = {}
    if combination.left_out:
        said["left_out"] = " ".join(combination.left_out)
    if combination.scaled:
        said["scaled"] = " ".join(f"{site}={factor:.4g}" for site, factor in sorted(combination.scaled.items()))
    return {**said}

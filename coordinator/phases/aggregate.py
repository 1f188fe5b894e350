"""Aggregate: check what lies in the spool once more, sum it in the ring, write the next model. Bounded by its input, no deadline.

Doing it again after a crash gives the same bytes: the sum does not depend on the order, the model's folder is named by content.
A stored update that has changed on disk fails the attempt: its site sends it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.admission import check_masked_words, check_sum, check_words
from coordinator.averaging import changed, mean_blocks
from coordinator.phases.combining import Change, combine
from coordinator.phases.phase import Context, Moved, fail, to_phase, transition
from coordinator.phases.reveal import void_round
from coordinator.progress import Moment
from coordinator.secure import SecureRounds
from coordinator.secure_attempt import Opened
from coordinator.state import AcceptedUpdate, PhaseName
from coordinator.store.spool import SpooledUpdate
from coordinator.strategies.median import CoordinateMedian
from coordinator.strategies.strategy import Submission
from coordinator.unmasking import ClearSum
from fedmentor.errors import BrokenStore, DigestMismatch, QuorumMissed, UpdateRejected
from fedmentor.federation import UpdateHeader
from fedmentor.ids import Digest, SiteId
from fedmentor.models import ModelRecord
from fedmentor.robust import CoordinateMedian as Median
from fedmentor.tensors import spec_size


def aggregate(context: Context, moment: Moment) -> Moved:
    """See the module.

    Raises:
        BrokenStore: the model that the round starts from is damaged on disk; unlike an update, nobody can send it again.
    """
    state = moment.state
    updates = context.journal.run_tx("read_updates", lambda tx: tx.updates(state.round, state.attempt))
    if context.secure:
        return _aggregate_masked(context, moment, updates, context.secure)
    if len(updates) < context.manifest.quorum:
        return fail(context, moment, f"{len(updates)} accepted updates are fewer than the quorum of {context.manifest.quorum}")
    sources: list[SpooledUpdate] = []
    for update in updates:
        try:
            sources.append(_checked(context, state.model, update))
        except (DigestMismatch, UpdateRejected):
            context.spool.drop(update.site, update.receipt.sha256)
            return fail(context, moment, f"the stored update of site {update.site} was damaged on disk")
    submissions = [Submission(update.site, source) for update, source in zip(updates, sources, strict=True)]
    try:
        change = combine(context, moment, submissions, updates)
    except QuorumMissed as error:
        return fail(context, moment, error.message)
    return _publishable(context, moment, updates, change)


def _aggregate_masked(context: Context, moment: Moment, updates: tuple[AcceptedUpdate, ...], secure: SecureRounds) -> Moved:
    """Sum what lies masked in the spool and take the masks away. What cannot be opened now never can: then the round is void."""
    state, manifest = moment.state, context.manifest
    opened = secure.opened(state)
    if manifest.secure is None or not opened:
        raise BrokenStore("the journal does not hold the shares that open this attempt")
    by_site = {update.site: update for update in updates}
    sums: list[Submission] = []
    counted: list[AcceptedUpdate] = []
    reason = ""
    for group in opened:
        mine = [by_site[site] for site in group.survivors]
        try:
            sums.append(Submission(SiteId(group.name), _clear_sum(context, state.model, mine, group)))
            counted += mine
        except (DigestMismatch, UpdateRejected) as error:
            reason = error.message
    if len(sums) < manifest.secure.needed_groups or len(counted) < manifest.needed:
        return void_round(context, moment, reason or f"{len(counted)} updates of {manifest.needed} needed ones can be opened")
    parameters = spec_size(manifest.spec)
    single = manifest.secure.groups == 1
    blocks = mean_blocks([sums[0].words], parameters) if single else CoordinateMedian(Median()).combine(sums, parameters).blocks
    fields = {"liars": " ".join(site for group in opened for site in group.liars)}
    return _publishable(context, moment, tuple(sorted(counted, key=lambda update: update.site)), Change(blocks, fields))


def _clear_sum(context: Context, model: Digest, updates: Sequence[AcceptedUpdate], group: Opened) -> ClearSum:
    """The sum of a group's updates.

    Raises:
        DigestMismatch: an upload has changed on disk.
        UpdateRejected: it is not the sum of so many updates.
    """
    uploads = [_spooled(context, model, update) for update in updates]
    for source, header in uploads:
        check_masked_words(source, header)
    total = ClearSum([source for source, _ in uploads], group.unmasking)
    check_sum(total, spec_size(context.manifest.spec), len(updates), context.manifest.ring)
    return total


def _publishable(context: Context, moment: Moment, updates: tuple[AcceptedUpdate, ...], change: Change) -> Moved:
    """Write the next model and go on to publish it, by way of the model gate where the manifest has one."""
    state = moment.state
    base = context.models.open(state.model)
    base.check(state.model)
    model = context.models.write(changed(base, change.blocks), lambda digest: _record(context, moment, digest, updates))
    fields = {"model": model, "sites": " ".join(update.site for update in updates), **change.fields}
    to = to_phase(moment, PhaseName.GATE if context.manifest.gate else PhaseName.PUBLISH, pending=model)
    return transition(context, moment, "store_aggregate", to, fields=fields, also=change.record)


def _spooled(context: Context, model: Digest, update: AcceptedUpdate) -> tuple[SpooledUpdate, UpdateHeader]:
    header = UpdateHeader(update.receipt.round, update.receipt.sha256, update.size_bytes, model)
    return context.spool.open(update.site, header), header


def _checked(context: Context, model: Digest, update: AcceptedUpdate) -> SpooledUpdate:
    source, header = _spooled(context, model, update)
    check_words(source, header, context.manifest.ring)
    return source


def _record(context: Context, moment: Moment, digest: Digest, updates: tuple[AcceptedUpdate, ...]) -> ModelRecord:
    manifest, state = context.manifest, moment.state
    base = context.models.record(state.model)
    return ModelRecord(
        architecture=manifest.architecture,
        digest=digest,
        parents=(state.model,),
        initialisation=manifest.initialisation,
        seed=manifest.training.seed,
        teacher=base.teacher,
        run=manifest.run,
        round=state.round + 1,
        privacy=manifest.privacy_spent(state.round + 1),
        details={
            "manifest": manifest.digest,
            "sites": [update.site for update in updates],
            "attempt": state.attempt,
            **({"rule": manifest.robust.rule.model_dump(mode="json")} if manifest.robust else {}),
        },
    )

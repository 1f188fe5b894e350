"""Aggregate: check what lies in the spool once more, sum it in the ring, write the next model. Bounded by its input, no deadline.

Doing it again after a crash gives the same bytes: the sum does not depend on the order, the model's folder is named by content.
A stored update that has changed on disk fails the attempt: its site sends it again.
"""

from __future__ import annotations

from coordinator.admission import check_words
from coordinator.averaging import next_model
from coordinator.phases.phase import Context, Moved, fail, to_phase, transition
from coordinator.progress import Moment
from coordinator.state import AcceptedUpdate, PhaseName
from coordinator.store.spool import SpooledUpdate
from fedmentor.errors import DigestMismatch, UpdateRejected
from fedmentor.federation import UpdateHeader
from fedmentor.ids import Digest
from fedmentor.models import ModelRecord
from fedmentor.tensors import spec_size


def aggregate(context: Context, moment: Moment) -> Moved:
    """See the module.

    Raises:
        BrokenStore: the model that the round starts from is damaged on disk; unlike an update, nobody can send it again.
    """
    state = moment.state
    updates = context.journal.run_tx("read_updates", lambda tx: tx.updates(state.round, state.attempt))
    if len(updates) < context.manifest.quorum:
        return fail(context, moment, f"{len(updates)} accepted updates are fewer than the quorum of {context.manifest.quorum}")
    sources: list[SpooledUpdate] = []
    for update in updates:
        try:
            sources.append(_checked(context, state.model, update))
        except (DigestMismatch, UpdateRejected):
            context.spool.drop(update.site, update.receipt.sha256)
            return fail(context, moment, f"the stored update of site {update.site} was damaged on disk")
    base = context.models.open(state.model)
    base.check(state.model)
    blocks = next_model(base, sources, spec_size(context.manifest.spec))
    model = context.models.write(blocks, lambda digest: _record(context, moment, digest, updates))
    fields = {"model": model, "sites": " ".join(update.site for update in updates)}
    return transition(context, moment, "store_aggregate", to_phase(moment, PhaseName.PUBLISH, pending=model), fields=fields)


def _checked(context: Context, model: Digest, update: AcceptedUpdate) -> SpooledUpdate:
    header = UpdateHeader(update.receipt.round, update.receipt.sha256, update.size_bytes, model)
    source = context.spool.open(update.site, header)
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
        details={"manifest": manifest.digest, "sites": [update.site for update in updates], "attempt": state.attempt},
    )

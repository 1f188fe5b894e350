"""Domain values to protobuf messages and back; the only file where the two meet.

Decoding checks form (names, digests, enumerations) and raises domain errors; meaning is checked by whoever acts on the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from math import isfinite, isnan, sqrt

from fedmentor.audit.chain import AuditRecord, record_from_line, record_to_line
from fedmentor.audit.checkpoint import Checkpoint, SignedCheckpoint, signed_checkpoint
from fedmentor.errors import DataError, FedMentorError, UpdateRejected
from fedmentor.federation import (
    CHUNK_BYTES,
    Directive,
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    Offset,
    Outcome,
    Receipt,
    RoundRef,
    Scores,
    SecureStep,
    StepAnswer,
    StepName,
    Train,
    UpdateHeader,
    UpdateState,
    Wait,
    manifest_from_bytes,
)
from fedmentor.ids import Attempt, Round, digest, run_id, site_id
from fedmentor.text import one_line
from fedmentor.wire.v1 import federation_pb2 as pb

MAX_HD95 = 256 * sqrt(2)
"""Diagonal of the images on which the distance is measured."""

MAX_PATIENTS = 1_000_000
"""Held-out patients of one site; more is a mistake."""

MAX_REASON_CHARACTERS = 300
"""Of what a site says in its own words."""

MAX_MASKED_BYTES = 1024
"""Above the signed header of a masked upload."""

MAX_STEP_BYTES = 3 << 20
"""Above the largest message of secure aggregation (1,024 adverts or consents), below the cap of a gRPC message."""

_STEPS = {
    StepName.ADVERTISE: pb.SecureStep.NAME_ADVERTISE,
    StepName.SHARE: pb.SecureStep.NAME_SHARE,
    StepName.CONSENT: pb.SecureStep.NAME_CONSENT,
    StepName.REVEAL: pb.SecureStep.NAME_REVEAL,
}
_STEP_NAMES: dict[int, StepName] = {int(number): name for name, number in _STEPS.items()}

_OUTCOMES = {Outcome.COMPLETED: pb.Finished.OUTCOME_COMPLETED, Outcome.FAILED: pb.Finished.OUTCOME_FAILED}


def directive_to_wire(value: Directive) -> pb.Directive:
    """Encode any directive."""
    match value:
        case Manifest(manifest, signature):
            return pb.Directive(manifest=pb.RunManifest(json=manifest.to_bytes(), signature=signature))
        case Train(ref, model, deadline_s, delivery):
            train = pb.Train(round=round_to_wire(ref), model=model_to_wire(model), deadline_ms=_milliseconds(deadline_s))
            train.delivery = delivery
            return pb.Directive(train=train)
        case SecureStep(ref, model, deadline_s, name, asked):
            step = pb.SecureStep(round=round_to_wire(ref), model=model_to_wire(model), deadline_ms=_milliseconds(deadline_s))
            step.name, step.message = _STEPS[name], asked
            return pb.Directive(secure_step=step)
        case Evaluate(ref, model, deadline_s):
            return pb.Directive(
                evaluate=pb.Evaluate(round=round_to_wire(ref), model=model_to_wire(model), deadline_ms=_milliseconds(deadline_s))
            )
        case Wait(reason):
            return pb.Directive(wait=pb.Wait(reason=reason))
        case Finished(outcome, reason):
            return pb.Directive(finished=pb.Finished(outcome=_OUTCOMES[outcome], reason=reason))


def directive_from_wire(message: pb.Directive) -> Directive:
    """Decode any directive.

    Raises:
        FedMentorError: an unknown kind (a newer coordinator), or a malformed field.
    """
    match message.WhichOneof("kind"):
        case "manifest":
            return Manifest(manifest_from_bytes(message.manifest.json), message.manifest.signature)
        case "train":
            train = message.train
            where = round_from_wire(train.round), model_from_wire(train.model)
            return Train(*where, train.deadline_ms / 1000, train.delivery)
        case "secure_step":
            step = message.secure_step
            where = round_from_wire(step.round), model_from_wire(step.model)
            return SecureStep(*where, step.deadline_ms / 1000, _step_name(step.name), step.message)
        case "evaluate":
            evaluate = message.evaluate
            return Evaluate(round_from_wire(evaluate.round), model_from_wire(evaluate.model), evaluate.deadline_ms / 1000)
        case "wait":
            return Wait(one_line(message.wait.reason))
        case "finished":
            completed = message.finished.outcome == pb.Finished.OUTCOME_COMPLETED
            return Finished(Outcome.COMPLETED if completed else Outcome.FAILED, one_line(message.finished.reason))
        case _:
            raise FedMentorError("the coordinator sent a directive that this version does not know", cure="update this node")


def round_to_wire(value: RoundRef) -> pb.RoundRef:
    """Encode a round reference."""
    return pb.RoundRef(run=value.run, round=value.round, attempt=value.attempt)


def round_from_wire(message: pb.RoundRef) -> RoundRef:
    """Decode a round reference.

    Raises:
        ConfigError: the run's name is malformed.
    """
    return RoundRef(run_id(message.run), Round(message.round), Attempt(message.attempt))


def model_to_wire(value: ModelRef) -> pb.ModelRef:
    """Encode a model reference."""
    return pb.ModelRef(digest=value.digest, size_bytes=value.size_bytes)


def model_from_wire(message: pb.ModelRef) -> ModelRef:
    """Decode a model reference.

    Raises:
        ConfigError: malformed digest.
    """
    return ModelRef(digest(message.digest), message.size_bytes)


def header_to_wire(value: UpdateHeader) -> pb.UpdateHeader:
    """Encode an update's header."""
    return pb.UpdateHeader(
        round=round_to_wire(value.round),
        sha256=value.sha256,
        size_bytes=value.size_bytes,
        base_model=value.base_model,
        masked=value.masked,
    )


def header_from_wire(message: pb.UpdateHeader) -> UpdateHeader:
    """Decode an update's header.

    Raises:
        ConfigError: malformed name or digest.
        UpdateRejected: the signed part is longer than any is.
    """
    if len(message.masked) > MAX_MASKED_BYTES:
        raise UpdateRejected(f"the signed header of an upload is over {MAX_MASKED_BYTES} bytes")
    names = round_from_wire(message.round), digest(message.sha256)
    return UpdateHeader(*names, message.size_bytes, digest(message.base_model), message.masked)


def sit_out_to_wire(ref: RoundRef, reason: str) -> pb.SitOutNotice:
    """Encode a site's word that nothing is to come from it."""
    return pb.SitOutNotice(round=round_to_wire(ref), reason=reason)


def sit_out_from_wire(message: pb.SitOutNotice) -> tuple[RoundRef, str]:
    """Decode a site's word that nothing is to come from it; the reason becomes one line of MAX_REASON_CHARACTERS at most.

    Raises:
        ConfigError: the run's name is malformed.
    """
    return round_from_wire(message.round), one_line(message.reason[:MAX_REASON_CHARACTERS])


def answer_to_wire(value: StepAnswer) -> pb.StepAnswer:
    """Encode what a site says in a step of secure aggregation."""
    return pb.StepAnswer(round=round_to_wire(value.round), name=_STEPS[value.step], message=value.message)


def answer_from_wire(message: pb.StepAnswer) -> StepAnswer:
    """Decode what a site says in a step of secure aggregation.

    Raises:
        ConfigError: the run's name is malformed.
        UpdateRejected: an unknown step, or longer than any answer is.
    """
    if len(message.message) > MAX_STEP_BYTES:
        raise UpdateRejected(f"an answer of {len(message.message)} bytes is over {MAX_STEP_BYTES}")
    return StepAnswer(round_from_wire(message.round), _step_name(message.name), message.message)


def _step_name(number: int) -> StepName:
    name = _STEP_NAMES.get(number)
    if name is None:
        raise UpdateRejected("an unknown step of secure aggregation", cure="update this program")
    return name


def state_to_wire(value: UpdateState) -> pb.UpdateState:
    """Encode an offset or a receipt."""
    match value:
        case Offset(stored):
            return pb.UpdateState(offset=stored)
        case Receipt(ref, site, sha256, accepted_utc):
            return pb.UpdateState(receipt=pb.Receipt(round=round_to_wire(ref), site=site, sha256=sha256, accepted_utc=accepted_utc))


def state_from_wire(message: pb.UpdateState) -> UpdateState:
    """Decode an offset or a receipt.

    Raises:
        ConfigError: malformed name or digest.
        FedMentorError: neither of the two.
    """
    match message.WhichOneof("kind"):
        case "offset":
            return Offset(message.offset)
        case "receipt":
            receipt = message.receipt
            return Receipt(round_from_wire(receipt.round), site_id(receipt.site), digest(receipt.sha256), receipt.accepted_utc)
        case _:
            raise FedMentorError("the coordinator answered an offer with nothing")


def scores_to_wire(value: Scores) -> pb.Scores:
    """Encode scores."""
    return pb.Scores(
        round=round_to_wire(value.round),
        model_digest=value.model,
        patients=value.patients,
        images=value.images,
        dice=value.dice,
        iou=value.iou,
        hd95=value.hd95,
        hd95_undefined=value.hd95_undefined,
    )


def scores_from_wire(message: pb.Scores) -> Scores:
    """Decode scores and check their ranges.

    Dice and IoU in [0, 1]; HD95 NaN or 0 to MAX_HD95; patients 1 to MAX_PATIENTS, and no more than images; HD95 leaves out all
    images where it is NaN, and fewer elsewhere.

    Raises:
        ConfigError: malformed name or digest.
        UpdateRejected: a value out of range.
    """
    for name, value in (("dice", message.dice), ("iou", message.iou)):
        if not (isfinite(value) and 0.0 <= value <= 1.0):
            raise UpdateRejected(f"the reported {name} is not between 0 and 1")
    if not (isnan(message.hd95) or 0 <= message.hd95 <= MAX_HD95):
        raise UpdateRejected(f"the reported hd95 is not between 0 and {MAX_HD95:.1f} pixels")
    if not 1 <= message.patients <= min(message.images, MAX_PATIENTS):
        raise UpdateRejected("the reported counts of patients and images do not fit each other")
    undefined = message.hd95_undefined if message.HasField("hd95_undefined") else None
    if undefined is not None and (undefined > message.images or (undefined == message.images) != isnan(message.hd95)):
        raise UpdateRejected("the reported hd95 does not fit the number of images that it leaves out")
    return Scores(
        round=round_from_wire(message.round),
        model=digest(message.model_digest),
        patients=message.patients,
        images=message.images,
        dice=message.dice,
        iou=message.iou,
        hd95=message.hd95,
        hd95_undefined=undefined,
    )


def time_to_wire(value: datetime) -> pb.TimeReading:
    """Encode a time of day; timezone-aware."""
    return pb.TimeReading(unix_ms=int(value.timestamp() * 1000))


def time_from_wire(message: pb.TimeReading) -> datetime:
    """Decode a time of day, in UTC.

    Raises:
        FedMentorError: after the year 9999.
    """
    try:
        return datetime.fromtimestamp(message.unix_ms / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError) as error:
        raise FedMentorError("the coordinator tells a time that is none") from error


def checkpoint_to_wire(value: SignedCheckpoint) -> pb.Checkpoint:
    """Encode a checkpoint as it was signed."""
    return pb.Checkpoint(content=value.checkpoint.to_bytes(), signature=value.signature)


def checkpoint_from_wire(message: pb.Checkpoint) -> SignedCheckpoint:
    """Decode a checkpoint; says nothing about who signed it.

    Raises:
        DataError: malformed.
    """
    return signed_checkpoint(message.content, message.signature)


def audit_page_to_wire(page: SignedCheckpoint | Iterable[AuditRecord]) -> pb.AuditPart:
    """Encode a checkpoint or some audit records."""
    if isinstance(page, SignedCheckpoint):
        return pb.AuditPart(checkpoint=checkpoint_to_wire(page))
    return pb.AuditPart(records=pb.AuditRecords(lines=[record_to_line(record).encode() for record in page]))


def records_from_wire(message: pb.AuditRecords) -> Iterator[AuditRecord]:
    """Decode audit records; says nothing about whether they are true.

    Raises:
        DataError: malformed.
    """
    for line in message.lines:
        try:
            yield record_from_line(line.decode())
        except UnicodeDecodeError as error:
            raise DataError("an audit record is not UTF-8 text") from error


def countersignature_to_wire(checkpoint: Checkpoint, signature: bytes) -> pb.Countersignature:
    """Encode a site's signature under a checkpoint."""
    return pb.Countersignature(content=checkpoint.to_bytes(), signature=signature)


def countersignature_from_wire(message: pb.Countersignature) -> tuple[Checkpoint, bytes]:
    """Decode a site's signature and what it is under.

    Raises:
        DataError: malformed.
    """
    signed = signed_checkpoint(message.content, message.signature)
    return signed.checkpoint, signed.signature


def chunk_to_wire(offset: int, data: bytes) -> pb.Chunk:
    """Encode one chunk."""
    return pb.Chunk(offset=offset, data=data)


def check_chunk(message: pb.Chunk, expected_offset: int, remaining: int) -> bytes:
    """The bytes of a chunk that continues where the last one ended.

    Args:
        expected_offset: where the next byte belongs.
        remaining: bytes that the declared size still allows.

    Raises:
        UpdateRejected: empty, too long, out of order, or beyond the declared size.
    """
    if message.offset != expected_offset:
        raise UpdateRejected(f"a chunk starts at byte {message.offset}, expected {expected_offset}")
    if not 1 <= len(message.data) <= min(CHUNK_BYTES, remaining):
        raise UpdateRejected(
            f"a chunk of {len(message.data)} bytes does not fit", cure="send 1 MiB at most, up to the declared size"
        )
    return message.data


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))

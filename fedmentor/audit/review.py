"""The review of an audit trail by somebody who trusts nobody: is it whole, is it signed, who stands behind it?

What a sound review proves: the chain is the one that the coordinator signed and that the named sites verified and signed as well;
no record up to the newest checkpoint was changed, dropped, moved or added since. What it does not prove is in docs/audit.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fedmentor.audit.chain import AuditRecord, Fields, Head, values_of, verify
from fedmentor.audit.checkpoint import (
    AuditKeys,
    SignedCheckpoint,
    is_countersigned,
    is_signed,
    recorded_as,
)
from fedmentor.audit.export import AuditTrail
from fedmentor.audit.vocabulary import CHECKPOINT_EVENT, COORDINATOR, COUNTERSIGN_EVENT, CREATE_EVENT, site_actor
from fedmentor.ids import SiteId


@dataclass(frozen=True)
class Fault:
    """The first thing that does not hold.

    Attributes:
        reason: one sentence.
        record: number of the bad or missing record; None where it is a signature that is bad.
    """

    reason: str
    record: int | None = None


@dataclass(frozen=True)
class Review:
    """What a review found.

    Attributes:
        head: of the chain as far as it is sound.
        fault: the first thing that does not hold; None where everything does.
        checkpoints: lengths that the coordinator signed, as far as they were found good.
        countersigned: sites that signed each of these lengths.
        signatures_checked: whether keys were at hand; without them only the chain, and that everything fits it, was checked.
        noted: how many checkpoints from elsewhere the chain was held against.
    """

    head: Head
    fault: Fault | None = None
    checkpoints: tuple[int, ...] = ()
    countersigned: dict[int, tuple[SiteId, ...]] = field(default_factory=dict)
    signatures_checked: bool = False
    noted: int = 0

    @property
    def sound(self) -> bool:
        """Nothing is bad and nothing is missing."""
        return self.fault is None

    @property
    def open_records(self) -> int:
        """Records after the newest checkpoint: chained, but under nobody's signature yet."""
        return self.head.records - max(self.checkpoints, default=0)


def review(trail: AuditTrail, keys: AuditKeys | None = None, noted: Sequence[SignedCheckpoint] = ()) -> Review:
    """Check everything that can be checked, and stop at the first thing that does not hold.

    1. the chain is sound; 2. it begins with the creation of the run that the trail is said to be of;
    3. checkpoints: of this run, growing, each the head that the chain had at that length, signed by the coordinator;
    4. the chain records exactly these checkpoints; 5. countersignatures: sorted, each once, under a checkpoint, signed by its site;
    6. the chain records exactly these countersignatures; 7. checkpoints noted elsewhere: as 3, and the chain reaches them.

    Args:
        trail: what is reviewed.
        keys: whose signatures count; without them 3, 5 and 7 are done but for the signatures.
        noted: checkpoints that were kept elsewhere, e.g. at a site. Only they show that a chain was cut, or replaced together with
            every signature.
    """
    # (1)
    verdict = verify(trail.records)
    if not verdict.sound:
        return Review(verdict.head, Fault(verdict.reason, verdict.first_bad))
    found = _found(trail, keys, noted)
    by_length: dict[int, tuple[SiteId, ...]] = {item.records: () for item in trail.checkpoints}
    for item in trail.countersignatures:
        by_length[item.records] = (*by_length.get(item.records, ()), item.site)
    lengths = tuple(item.records for item in trail.checkpoints)
    fault = next(found, None)
    if fault is not None:
        return Review(verdict.head, fault, signatures_checked=keys is not None)
    return Review(verdict.head, None, lengths, by_length, keys is not None, len(noted))


def _found(trail: AuditTrail, keys: AuditKeys | None, noted: Sequence[SignedCheckpoint]) -> Iterator[Fault]:
    """Faults from step 2 on, as they are looked for."""
    # (2)
    yield from _beginning(trail)
    # (3)
    previous = 0
    for signed in trail.checkpoints:
        if signed.records <= previous:
            yield Fault(f"the checkpoint of {signed.records} records stands twice or out of order")
        previous = signed.records
        yield from _checkpoint(signed, trail, keys)
    # (4)
    made = [(item.records, item.signature) for item in trail.checkpoints]
    yield from _recorded(trail.records, CHECKPOINT_EVENT, "checkpoint", [(COORDINATOR, *one) for one in made])
    # (5)
    yield from _countersignatures(trail, keys)
    # (6)
    given = [(site_actor(item.site), item.records, item.signature) for item in trail.countersignatures]
    yield from _recorded(trail.records, COUNTERSIGN_EVENT, "countersignature", given)
    # (7)
    for signed in noted:
        yield from _checkpoint(signed, trail, keys, " that was noted elsewhere")


def _beginning(trail: AuditTrail) -> Iterator[Fault]:
    if not trail.records:
        yield Fault("the chain has no record", 0)
        return
    first = trail.records[0]
    if first.event != CREATE_EVENT or values_of(first).get("run") != trail.run:
        yield Fault(f"the chain does not begin with the creation of run {trail.run}", 0)


def _checkpoint(signed: SignedCheckpoint, trail: AuditTrail, keys: AuditKeys | None, whence: str = "") -> Iterator[Fault]:
    checkpoint = signed.checkpoint
    what = f"the checkpoint of {checkpoint.records} records{whence}"
    if checkpoint.run != trail.run or {one.checkpoint.federation for one in trail.checkpoints} - {checkpoint.federation}:
        yield Fault(f"{what} is of another run or federation")
    if keys is not None and not is_signed(signed, keys):
        yield Fault(f"{what} is not signed by this federation's coordinator")
    if checkpoint.records > len(trail.records):
        yield Fault(f"the chain ends after {len(trail.records)} records; {what} says that there were more", len(trail.records))
    elif trail.records[checkpoint.records - 1].hash != checkpoint.head:
        yield Fault(f"record {checkpoint.records - 1} is not the one that {what} names", checkpoint.records - 1)


def _countersignatures(trail: AuditTrail, keys: AuditKeys | None) -> Iterator[Fault]:
    checkpoints = {signed.records: signed.checkpoint for signed in trail.checkpoints}
    previous: tuple[int, str] = (0, "")
    for item in trail.countersignatures:
        what = f"the countersignature of site {item.site} under {item.records} records"
        if (item.records, item.site) <= previous:
            yield Fault(f"{what} stands twice or out of order")
        previous = (item.records, item.site)
        checkpoint = checkpoints.get(item.records)
        if checkpoint is None:
            yield Fault(f"{what} belongs to no checkpoint")
        elif keys is not None and not is_countersigned(checkpoint, item, keys):
            yield Fault(f"{what} is not that site's")


def _recorded(
    records: Iterable[AuditRecord], event: str, what: str, signatures: Sequence[tuple[str, int, bytes]]
) -> Iterator[Fault]:
    """Hold what the chain says of its signatures against the signatures that are there."""
    missing = {(actor, *_key(recorded_as(length, signature))): length for actor, length, signature in signatures}
    for record in records:
        if record.event != event:
            continue
        if missing.pop((record.actor, *_key(values_of(record))), None) is None:
            yield Fault(f"record {record.seq} tells of a {what} that is not there", record.seq)
    for (actor, *_), length in missing.items():
        yield Fault(f"no record tells of the {what} of the {actor} under {length} records")


def _key(fields: Fields) -> tuple[object, object]:
    return fields.get("records"), fields.get("signature_sha256")

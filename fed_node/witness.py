"""A site as a witness of the coordinator's audit trail.

It follows the chain, signs checkpoints that hold, and refuses to go on with a coordinator whose trail contradicts itself or this
site's own memory.

Asked whenever the coordinator gives an order. Each time the site fetches what is new and checks, numbered as in the code::

    1 checkpoint   signed by the coordinator on the roster, for this run
    2 no rollback  not shorter than what this site has verified before; the last record that it knows is still there
    3 no fork      where this site knows the record that a checkpoint names, it is the same one
    4 chain        every new record follows the one before; the first one names the manifest that this site has pinned
    5 no lie       no record says that this site sent an update that it did not send
    6 whole        the chain reaches its newest checkpoint, and that is over every round that was published
    7 one model    the model to train from is the one that the chain has in force
    8 one root     in a secure run, the audit root that the attempt is bound to is in the chain

Then it signs the checkpoint. What is refused is written down with both checkpoints, as evidence for others: two checkpoints of one
length and different heads, both signed by the coordinator, prove a fork to anybody who has the roster.
A coordinator that cannot be reached is nothing of all this: the round goes on, and the next order asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fed_node.events import Observer, Unwitnessed, Witnessed, WitnessOff
from fed_node.witness_store import Noted, WitnessStore
from fedmentor.audit import AuditRecord, Head, fault, head_of, record_to_line, values_of
from fedmentor.audit.checkpoint import AuditKeys, SignedCheckpoint, countersign, is_signed
from fedmentor.audit.export import checkpoint_to_line
from fedmentor.audit.vocabulary import ACCEPT_EVENT, CREATE_EVENT, PUBLISH_EVENT, site_actor
from fedmentor.errors import CoordinatorUnreachable, DataError, PolicyRefusal
from fedmentor.federation import Directive, Evaluate, Finished, RoundRef, RunManifest, SecureStep, StepName, Train
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.link import CoordinatorLink
from fedmentor.models import canonical_json, write_atomically

MAX_OPEN_RECORDS: Final = 100_000
"""Records after the newest checkpoint that a site takes: a round of a thousand sites and many attempts has fewer."""

_CURE: Final = "do not go on; give the evidence to the registrar and compare with the other sites"

Sent = Callable[[RoundRef, Digest], bool]
"""Whether this site finished an update of that content for that round, as its own memory says."""


@dataclass(frozen=True)
class WitnessIdentity:
    """Who witnesses, and whose signatures count.

    Attributes:
        site: this site.
        key: its signing key; never printed.
        keys: gives the keys on the roster that is in force now.
    """

    site: SiteId
    key: Ed25519PrivateKey
    keys: Callable[[], AuditKeys]


@dataclass(frozen=True)
class WitnessPorts:
    """Through what a witness touches the world.

    Attributes:
        link: line to the coordinator.
        store: durable memory.
        sent: what this site sent.
        evidence: folder for evidence.
        observe: is told what was witnessed, and what could not be.
    """

    link: CoordinatorLink
    store: WitnessStore
    sent: Sent
    evidence: Path
    observe: Observer


class Attendant(Protocol):
    """Somebody who is shown every directive before it is acted on. Implementations: Witness, NoWitness."""

    def attend(self, directive: Directive, manifest: RunManifest) -> None:
        """A directive came; see Witness."""
        ...

    def knows(self, head: Digest) -> bool:
        """Whether this is the hash of a verified record; see Witness."""
        ...


class NoWitness:
    """Of a site that cannot check signatures: says so once, and lets everything pass.

    Args:
        reason: why it cannot.
        observe: is told.
    """

    def __init__(self, reason: str, observe: Observer) -> None:
        self._reason = reason
        self._observe = observe
        self._said = False

    def attend(self, directive: Directive, manifest: RunManifest) -> None:
        """See Attendant."""
        del directive, manifest
        if not self._said:
            self._observe(WitnessOff(self._reason))
        self._said = True

    def knows(self, head: Digest) -> bool:
        """See Attendant; nothing was verified."""
        del head
        return False


class _Contradiction(Exception):
    """A check does not hold; ``record`` is the one that it does not hold for, where it is one."""

    def __init__(self, reason: str, record: AuditRecord | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.record = record


class Witness:
    """See the module. Belongs to the session's thread.

    Args:
        identity: who witnesses.
        ports: the world.
        max_open_records: records after the newest checkpoint that are taken.
    """

    def __init__(self, identity: WitnessIdentity, ports: WitnessPorts, max_open_records: int = MAX_OPEN_RECORDS) -> None:
        self._identity = identity
        self._ports = ports
        self._max_open_records = max_open_records
        self._manifest: RunManifest | None = None

    def attend(self, directive: Directive, manifest: RunManifest) -> None:
        """An order came: check what is new in the audit trail, and that the order's model is in it.

        Does nothing for directives that order nothing, nor for the later steps of a round.

        Raises:
            PolicyRefusal: the audit trail does not hold; the evidence is on disk.
            BrokenStore: this site's memory of it failed.
        """
        self._manifest = manifest
        if not _is_order(directive):
            return
        try:
            self._follow(manifest)
        except CoordinatorUnreachable as error:
            self._ports.observe(Unwitnessed(error.message))
            return
        if isinstance(directive, Train | SecureStep):
            self._check_order(manifest.run, directive)

    def knows(self, head: Digest) -> bool:
        """Whether this is the hash of a record in the chain that this site has verified; looks once for what is new if it is not.

        Raises:
            CoordinatorUnreachable: it is not among those known, and the coordinator does not answer.
            PolicyRefusal, BrokenStore: as ``attend``.
        """
        if not self._ports.store.knows(head) and self._manifest is not None:
            self._follow(self._manifest)
        return self._ports.store.knows(head)

    def _follow(self, manifest: RunManifest) -> None:
        """Fetch, check and keep what is new, then sign the newest checkpoint if the coordinator does not have that yet."""
        store, run = self._ports.store, manifest.run
        before = store.noted(run)
        signed: SignedCheckpoint | None = None
        # One record that is known already is fetched again: a chain that lost it must not look like one that did not grow.
        with closing(_Items(self._ports.link.fetch_audit(max(0, before.head.records - 1)))) as items:
            try:
                signed = items.checkpoint()
                if signed is not None:
                    self._check_checkpoint(signed, before, run)
                noted = store.extend(run, self._checked(items, before, signed, manifest))
            except _Contradiction as error:
                raise self._refusal(run, error, before, signed) from error
            except DataError as error:
                raise self._refusal(run, _Contradiction(error.message), before, signed) from error
            if items.broken is not None:
                raise items.broken  # what came before is kept: the next try goes on from there
        if signed is not None:
            noted = store.reach(run, signed)
        if noted.checkpoint is not None and not noted.countersigned:
            self._sign(noted.checkpoint, noted.head.records)

    def _check_checkpoint(self, signed: SignedCheckpoint, before: Noted, run: RunId) -> None:
        checkpoint = signed.checkpoint
        # (1) checkpoint
        if not is_signed(signed, self._identity.keys()):
            raise _Contradiction("the newest checkpoint is not signed by the coordinator on the roster")
        if checkpoint.run != run:
            raise _Contradiction(f"the newest checkpoint is of run {checkpoint.run}")
        # (2) no rollback
        if before.checkpoint is not None and checkpoint.records < before.checkpoint.records:
            raise _Contradiction(
                f"the newest checkpoint is over {checkpoint.records} records, an earlier one was over {before.checkpoint.records}"
            )
        # (3) no fork
        known = self._ports.store.hash_of(run, checkpoint.records - 1)
        if known not in (None, checkpoint.head):
            raise _Contradiction(f"two chains of {checkpoint.records} records: another one was shown to this site before")

    def _checked(
        self, items: _Items, before: Noted, signed: SignedCheckpoint | None, manifest: RunManifest
    ) -> Iterator[AuditRecord]:
        """The records that are new, each one checked before it is given."""
        if signed is None and before.checkpoint is not None:
            raise _Contradiction("the coordinator has no checkpoint any more")
        head = before.head
        if head.records:
            # (2) no rollback, (3) no fork
            last = next(items, None)
            if last is None and items.broken is None:
                raise _Contradiction(f"the chain is shorter than the {head.records} records that this site has verified")
            if last is not None and (head_of(last) != head or fault(Head(last.seq, last.prev_hash), last)):
                raise _Contradiction(f"record {head.records - 1} is another one than this site has verified", last)
        covered = signed.records if signed else 0
        limit = max(head.records, covered) + self._max_open_records
        for record in items:
            if head.records >= limit:
                raise _Contradiction(f"more than {self._max_open_records} records follow the newest checkpoint")
            # (4) chain
            reason = fault(head, record)
            if reason:
                raise _Contradiction(reason, record)
            self._check_record(record, covered, manifest)
            head = head_of(record)
            # (3) no fork
            if signed is not None and head.records == signed.records and head.hash != signed.checkpoint.head:
                raise _Contradiction(f"record {record.seq} is not the one that the newest checkpoint names", record)
            yield record
        # (6) whole
        if items.broken is None and head.records < max(1, covered):
            raise _Contradiction(f"the chain ends after {head.records} records, before its newest checkpoint or its beginning")

    def _check_record(self, record: AuditRecord, covered: int, manifest: RunManifest) -> None:
        values = values_of(record)
        # (4) chain
        if record.seq == 0 and (record.event, values.get("run"), values.get("manifest")) != (
            CREATE_EVENT,
            manifest.run,
            manifest.digest,
        ):
            raise _Contradiction("the chain does not begin with the run that this site has joined", record)
        # (6) whole
        if record.event == PUBLISH_EVENT and record.seq >= covered:
            raise _Contradiction(f"round {values.get('round')} was published without a checkpoint", record)
        # (5) no lie
        if record.event == ACCEPT_EVENT and record.actor == site_actor(self._identity.site):
            round_, attempt, digest = values.get("round"), values.get("attempt"), values.get("sha256")
            ref = RoundRef(manifest.run, Round(_integer(round_)), Attempt(_integer(attempt)))
            if not self._ports.sent(ref, Digest(str(digest))):
                raise _Contradiction(f"record {record.seq} says that this site sent an update that it did not send", record)

    def _check_order(self, run: RunId, order: Train | SecureStep) -> None:
        store, round_ = self._ports.store, order.round.round
        reason = ""
        # (7) one model
        if order.model.digest != store.model_before(run, round_):
            reason = f"the model of round {round_} is not the one that the audit trail has in force"
        # (8) one root
        elif isinstance(order, SecureStep) and not store.knows(Digest(order.message.hex())):
            reason = f"the audit root of round {round_} is not in the audit trail"
        if reason:
            before = store.noted(run)
            raise self._refusal(run, _Contradiction(reason), before, before.checkpoint)

    def _sign(self, signed: SignedCheckpoint, records: int) -> None:
        mine = countersign(signed.checkpoint, self._identity.site, self._identity.key)
        try:
            self._ports.link.countersign(signed.checkpoint, mine.signature)
        except PolicyRefusal as error:
            # Its loss: the site has verified the trail, and says so again with the next checkpoint.
            self._ports.observe(Unwitnessed(error.message))
            return
        self._ports.store.countersigned(signed.checkpoint.run, signed)
        self._ports.observe(Witnessed(signed.records, records))

    def _refusal(self, run: RunId, error: _Contradiction, before: Noted, received: SignedCheckpoint | None) -> PolicyRefusal:
        lines = [
            canonical_json(
                {
                    "evidence": 1,
                    "reason": error.reason,
                    "run": run,
                    "site": self._identity.site,
                    "verified_head": before.head.hash,
                    "verified_records": before.head.records,
                }
            ).decode()
        ]
        lines += [checkpoint_to_line(signed) for signed in (before.checkpoint, received) if signed is not None]
        lines += [record_to_line(error.record)] if error.record is not None else []
        content = "".join(f"{line}\n" for line in lines).encode()
        # Named by its content: a node that is started again and refuses again writes the same file.
        path = self._ports.evidence / f"audit-evidence-{sha256(content).hexdigest()[:16]}.jsonl"
        write_atomically(path, content, mode=0o600)
        return PolicyRefusal(f"the coordinator's audit trail does not hold: {error.reason}; the evidence is {path}", cure=_CURE)


class _Items:
    """What a coordinator sends: perhaps a checkpoint, then records and nothing else. Ends early where the line breaks.

    Attributes:
        broken: why it ended early.
    """

    def __init__(self, items: Iterator[SignedCheckpoint | AuditRecord]) -> None:
        self._source = items
        self._items = items
        self.broken: CoordinatorUnreachable | None = None

    def checkpoint(self) -> SignedCheckpoint | None:
        """The first item, if that is what it is."""
        first = next(self._source, None)
        if isinstance(first, SignedCheckpoint):
            return first
        self._items = chain(() if first is None else (first,), self._source)
        return None

    def __iter__(self) -> _Items:
        return self

    def __next__(self) -> AuditRecord:
        try:
            item = next(self._items)
        except CoordinatorUnreachable as error:
            self.broken = error
            raise StopIteration from error
        if isinstance(item, SignedCheckpoint):
            raise DataError("the coordinator sent a second checkpoint")
        return item

    def close(self) -> None:
        """Ask for no more."""
        close = getattr(self._source, "close", None)
        if close is not None:
            close()


def _is_order(directive: Directive) -> bool:
    """Whether it begins or ends something; the first one of a round is enough."""
    if isinstance(directive, SecureStep):
        return directive.step is StepName.ADVERTISE
    return isinstance(directive, Train | Evaluate | Finished)


def _integer(value: object) -> int:
    return value if isinstance(value, int) else -1

"""Lines to a coordinator without a network: one that plays a script, one that goes straight into a coordinator of this process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from fedmentor.audit.chain import AuditRecord
from fedmentor.audit.checkpoint import Checkpoint, SignedCheckpoint
from fedmentor.errors import CoordinatorUnreachable, FedMentorError, PolicyRefusal
from fedmentor.federation import (
    CHUNK_BYTES,
    Directive,
    Finished,
    ModelRef,
    Offset,
    Receipt,
    RoundRef,
    Scores,
    StepAnswer,
    UpdateHeader,
    UpdateState,
)
from fedmentor.ids import Digest, SiteId

ACCEPTED_UTC = "2026-01-01T00:00:00+00:00"


class ScriptedLink:
    """A CoordinatorLink whose every stream plays the next script; errors in a script are raised where they stand.

    Args:
        site: whom receipts are for.
        models: bytes of the models it serves, by digest.
        scripts: what each call of follow() plays; after the last script there is no coordinator any more.

    Attributes:
        sent: updates in the order in which they came, repeats included.
        scores: reported scores in order.
        answers: what was said in steps of secure aggregation, in order.
        sat_out: attempts in which nothing was to come from the site, and why, in order.
        refusals: what send_update raises for a round, once for each error in the list.
        audit: what fetch_audit gives; of records those from the number that is asked for.
        countersigned: signatures under checkpoints in order.
        time: what the coordinator's clock says; None where it is an older one, which does not tell.
    """

    def __init__(
        self, site: SiteId, models: Mapping[Digest, bytes], scripts: Iterable[Sequence[Directive | FedMentorError]]
    ) -> None:
        self._site = site
        self._models = models
        self._scripts = list(scripts)
        self.sent: list[tuple[UpdateHeader, bytes]] = []
        self.scores: list[Scores] = []
        self.answers: list[StepAnswer] = []
        self.sat_out: list[tuple[RoundRef, str]] = []
        self.refusals: dict[RoundRef, list[FedMentorError]] = {}
        self.audit: list[SignedCheckpoint | AuditRecord] = []
        self.countersigned: list[tuple[Checkpoint, bytes]] = []
        self.time: datetime | None = None

    def follow(self) -> ScriptedStream:
        """See CoordinatorLink."""
        if not self._scripts:
            raise CoordinatorUnreachable("the script has ended")
        return ScriptedStream(self._scripts.pop(0))

    def fetch_model(self, model: ModelRef) -> bytes:
        """See CoordinatorLink."""
        return self._models[model.digest]

    def send_update(self, header: UpdateHeader, words: bytes) -> Receipt:
        """See CoordinatorLink."""
        self.sent.append((header, words))
        refusals = self.refusals.get(header.round, [])
        if refusals:
            raise refusals.pop(0)
        return Receipt(header.round, self._site, header.sha256, ACCEPTED_UTC)

    def answer_step(self, answer: StepAnswer) -> None:
        """See CoordinatorLink."""
        self.answers.append(answer)

    def sit_out(self, ref: RoundRef, reason: str) -> None:
        """See CoordinatorLink."""
        self.sat_out.append((ref, reason))

    def report_scores(self, scores: Scores) -> None:
        """See CoordinatorLink."""
        self.scores.append(scores)

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        yield from (item for item in self.audit if isinstance(item, SignedCheckpoint) or item.seq >= from_record)

    def countersign(self, checkpoint: Checkpoint, signature: bytes) -> None:
        """See CoordinatorLink."""
        self.countersigned.append((checkpoint, signature))

    def tell_time(self) -> datetime:
        """See CoordinatorLink."""
        if self.time is None:
            raise PolicyRefusal("the coordinator does not know this call")
        return self.time


class ScriptedStream:
    """A DirectiveStream that plays a list; it can also be polled."""

    def __init__(self, script: Sequence[Directive | FedMentorError]) -> None:
        self._script = list(script)
        self.cancelled = False

    def __iter__(self) -> ScriptedStream:
        return self

    def __next__(self) -> Directive:
        if not self._script or self.cancelled:
            raise StopIteration
        item = self._script.pop(0)
        if isinstance(item, FedMentorError):
            raise item
        return item

    def poll(self) -> Directive | None:
        """The next directive at once.

        Raises:
            CoordinatorUnreachable: the script has ended.
        """
        try:
            return next(self)
        except StopIteration as error:
            raise CoordinatorUnreachable("the stream has ended") from error

    def cancel(self) -> None:
        """See DirectiveStream."""
        self.cancelled = True


class DirectSubscription(Protocol):
    """What a coordinator gives to a stream."""

    def poll(self) -> list[Directive]:
        """What is new since the last call.

        Raises:
            CoordinatorUnreachable: the stream is over.
            PolicyRefusal: another node took its place.
        """
        ...

    def close(self) -> None:
        """The stream is done with it."""
        ...


class DirectService(Protocol):
    """The part of a coordinator's service that a link needs; the core does not import the coordinator."""

    def subscribe(self, site: SiteId, wake: Callable[[], None]) -> DirectSubscription:
        """Open the site's stream; ``wake`` is called when there may be something new."""
        ...

    def fetch_model(self, site: SiteId, model: ModelRef, offset: int) -> Iterator[bytes]:
        """The model's bytes from ``offset``."""
        ...

    def offer_update(self, site: SiteId, header: UpdateHeader) -> UpdateState:
        """Where to go on, or the receipt."""
        ...

    def append_update(self, site: SiteId, header: UpdateHeader, offset: int, data: bytes) -> None:
        """Store the next bytes."""
        ...

    def finish_update(self, site: SiteId, header: UpdateHeader, *, resumed: bool = False) -> UpdateState:
        """Accept the update; ``resumed`` where some of the bytes came in an earlier transfer."""
        ...

    def answer_step(self, site: SiteId, answer: StepAnswer) -> None:
        """Take what a site says in a step of secure aggregation."""
        ...

    def sit_out(self, site: SiteId, ref: RoundRef, reason: str) -> None:
        """Note that nothing is to come from a site in an attempt."""
        ...

    def report_scores(self, site: SiteId, scores: Scores) -> None:
        """Keep scores."""
        ...

    def fetch_audit(self, site: SiteId, from_record: int) -> Iterator[SignedCheckpoint | tuple[AuditRecord, ...]]:
        """The newest checkpoint, then pages of records."""
        ...

    def countersign(self, site: SiteId, checkpoint: Checkpoint, signature: bytes) -> None:
        """Keep a site's signature under a checkpoint."""
        ...

    def tell_time(self, site: SiteId) -> datetime:
        """What the coordinator's clock says."""
        ...


@dataclass
class LinkFaults:
    """What goes wrong next on a DirectLink; everything happens once and leaves as CoordinatorUnreachable.

    Attributes:
        drop_requests: so many calls never reach the coordinator.
        drop_replies: so many calls reach it, and their answer is lost.
        cut_after_chunks: the next transfer breaks after so many chunks; None breaks none.
    """

    drop_requests: int = 0
    drop_replies: int = 0
    cut_after_chunks: int | None = None

    def request(self, call: str) -> None:
        """A call, by the name of its method, leaves the site."""
        del call
        if self.drop_requests:
            self.drop_requests -= 1
            raise CoordinatorUnreachable("the request was lost")

    def reply(self, call: str) -> None:
        """The answer to a call leaves the coordinator."""
        del call
        if self.drop_replies:
            self.drop_replies -= 1
            raise CoordinatorUnreachable("the reply was lost")

    def chunk(self) -> None:
        """A chunk is about to travel."""
        if self.cut_after_chunks is None:
            return
        if self.cut_after_chunks == 0:
            self.cut_after_chunks = None
            raise CoordinatorUnreachable("the line was cut")
        self.cut_after_chunks -= 1


class DirectLink:
    """A CoordinatorLink straight into a coordinator of this process.

    Args:
        site: who calls.
        service: gives the coordinator of the moment; raises CoordinatorUnreachable while there is none.
        faults: what goes wrong.
        chunk_bytes: size of the chunks in which an update travels.
    """

    def __init__(
        self,
        site: SiteId,
        service: Callable[[], DirectService],
        faults: LinkFaults | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._site = site
        self._service = service
        self.faults = faults if faults is not None else LinkFaults()
        self._chunk_bytes = chunk_bytes

    def follow(self) -> DirectStream:
        """See CoordinatorLink."""
        self.faults.request("follow")
        return DirectStream(self._site, self._service())

    def fetch_model(self, model: ModelRef) -> bytes:
        """See CoordinatorLink; goes on from the last byte where a transfer broke."""
        data = bytearray()
        while len(data) < model.size_bytes:
            before = len(data)
            try:
                self.faults.request("fetch_model")
                for chunk in self._service().fetch_model(self._site, model, len(data)):
                    self.faults.chunk()
                    data += chunk
            except CoordinatorUnreachable:
                if len(data) == before:
                    raise
        return bytes(data)

    def send_update(self, header: UpdateHeader, words: bytes) -> Receipt:
        """See CoordinatorLink."""
        service = self._service()
        self.faults.request("send_update")
        state = service.offer_update(self._site, header)
        while isinstance(state, Offset):
            for start in range(state.bytes_stored, len(words), self._chunk_bytes):
                self.faults.chunk()
                service.append_update(self._site, header, start, words[start : start + self._chunk_bytes])
            state = service.finish_update(self._site, header, resumed=state.bytes_stored > 0)
        self.faults.reply("send_update")
        return state

    def answer_step(self, answer: StepAnswer) -> None:
        """See CoordinatorLink."""
        self.faults.request("answer_step")
        self._service().answer_step(self._site, answer)
        self.faults.reply("answer_step")

    def sit_out(self, ref: RoundRef, reason: str) -> None:
        """See CoordinatorLink."""
        self.faults.request("sit_out")
        self._service().sit_out(self._site, ref, reason)
        self.faults.reply("sit_out")

    def report_scores(self, scores: Scores) -> None:
        """See CoordinatorLink."""
        self.faults.request("report_scores")
        self._service().report_scores(self._site, scores)
        self.faults.reply("report_scores")

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        self.faults.request("fetch_audit")
        for part in self._service().fetch_audit(self._site, from_record):
            if isinstance(part, SignedCheckpoint):
                yield part
            else:
                yield from part

    def countersign(self, checkpoint: Checkpoint, signature: bytes) -> None:
        """See CoordinatorLink."""
        self.faults.request("countersign")
        self._service().countersign(self._site, checkpoint, signature)
        self.faults.reply("countersign")

    def tell_time(self) -> datetime:
        """See CoordinatorLink; a fault is never spent on it, since nothing hangs on the answer."""
        return self._service().tell_time(self._site)


class DirectStream:
    """A DirectiveStream of a DirectLink; can also be polled, for simulations in one thread."""

    def __init__(self, site: SiteId, service: DirectService) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Directive] = deque()
        self._cancelled = False
        self._finished = False
        self._subscription = service.subscribe(site, self._wake)

    def __iter__(self) -> DirectStream:
        return self

    def __next__(self) -> Directive:
        while True:
            if self._finished:
                raise StopIteration
            directive = self.poll()
            if directive is not None:
                return directive
            with self._changed:
                # A wake between the poll and this line would be lost without a limit.
                self._changed.wait(0.05)

    def poll(self) -> Directive | None:
        """The next directive at once; None where there is none yet.

        Raises:
            CoordinatorUnreachable: the stream broke, or was cancelled.
            PolicyRefusal: another node took its place.
        """
        if self._cancelled:
            raise CoordinatorUnreachable("the stream was cancelled")
        if not self._waiting:
            self._waiting.extend(self._subscription.poll())
        if not self._waiting:
            return None
        directive = self._waiting.popleft()
        self._finished = isinstance(directive, Finished)
        return directive

    def cancel(self) -> None:
        """See DirectiveStream."""
        self._cancelled = True
        self._subscription.close()
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

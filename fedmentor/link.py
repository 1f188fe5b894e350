"""A site's line to its coordinator, as a port. Implementations: fed_node.link.GrpcLink, and twins in fedmentor.testing.link."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from fedmentor.audit.chain import AuditRecord
from fedmentor.audit.checkpoint import Checkpoint, SignedCheckpoint
from fedmentor.federation import Directive, ModelRef, Receipt, RoundRef, Scores, StepAnswer, UpdateHeader


class CoordinatorLink(Protocol):
    """A site's line to the coordinator. Implementations: fed_node.link.GrpcLink, fedmentor.testing.DirectLink (in process).

    Every method may raise CoordinatorUnreachable, after which the caller may simply call again: all are idempotent.
    """

    def follow(self) -> DirectiveStream:
        """Open the directive stream; the first item is a Manifest. Ends after Finished."""
        ...

    def fetch_model(self, model: ModelRef) -> bytes:
        """The model's little-endian float32 bytes; size checked, digest not yet.

        Raises:
            RoundClosed: the coordinator no longer serves this model.
        """
        ...

    def send_update(self, header: UpdateHeader, words: bytes) -> Receipt:
        """Deliver an update, resuming where an earlier call broke off; returns the stored receipt if it is already accepted.

        Raises:
            RoundClosed: too late; the update is dropped.
            UpdateRejected: not admissible.
            UpdateConflict: another update of this site is already accepted for this round and attempt.
        """
        ...

    def answer_step(self, answer: StepAnswer) -> None:
        """Deliver what this site says in a step of secure aggregation; a repeat is acknowledged.

        Raises:
            RoundClosed: the step is over.
            PolicyRefusal: the answer does not hold the protocol's checks.
        """
        ...

    def sit_out(self, ref: RoundRef, reason: str) -> None:
        """Say that nothing is to come from this site in an attempt, so that nobody waits for it; a repeat is acknowledged.

        Args:
            reason: one sentence for the coordinator's operator.
        """
        ...

    def report_scores(self, scores: Scores) -> None:
        """Deliver scores; a repeat overwrites nothing and is acknowledged.

        Raises:
            RoundClosed: the run is over.
        """
        ...

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """The newest checkpoint of the coordinator's audit chain, where there is one, and then its records from that number on.

        Streams: what comes is not checked, and the caller stops when it has enough. An error may come between two items.

        Raises:
            DataError: something that is neither a checkpoint nor a record.
        """
        ...

    def countersign(self, checkpoint: Checkpoint, signature: bytes) -> None:
        """Deliver this site's signature under a checkpoint; a repeat is acknowledged.

        Raises:
            PolicyRefusal: the coordinator has no such checkpoint, or does not take the signature for this site's.
        """
        ...

    def tell_time(self) -> datetime:
        """What the coordinator's clock says, in UTC.

        Raises:
            PolicyRefusal: an older coordinator, which does not know this call.
        """
        ...


class DirectiveStream(Protocol):
    """An iterator of directives that another thread may cancel."""

    def __iter__(self) -> DirectiveStream:
        """Itself."""
        ...

    def __next__(self) -> Directive:
        """Block for the next directive.

        Raises:
            CoordinatorUnreachable: the stream broke.
            PolicyRefusal: another node opened the stream of this site.
            StopIteration: it ended.
        """
        ...

    def cancel(self) -> None:
        """Break the stream from another thread."""
        ...

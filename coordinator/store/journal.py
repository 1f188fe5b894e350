"""The journal of one run, as a port. Implementations: store.sqlite (the real one), store.memory (its twin for tests).

One journal holds one run. Everything happens in named transactions: ``run_tx("accept_update", fn)`` runs ``fn`` alone, keeps all
of what it wrote or nothing, and has it on disk when it returns. "Refused" is for callers to decide and is never raised here;
an exception of ``fn`` rolls back and goes on to the caller; BrokenStore means the disk or the database failed, and then nothing
may be acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from coordinator.state import AcceptedUpdate, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.conduct import ConductTransaction
from fedmentor.audit import AuditRecord, Fields, Head, vocabulary
from fedmentor.audit.checkpoint import Countersignature, SignedCheckpoint
from fedmentor.federation import RunManifest, StepAnswer, StepName
from fedmentor.ids import Attempt, Digest, Round, SiteId

T = TypeVar("T")


class Transaction(ConductTransaction, Protocol):
    """What ``fn`` may do. Values are only valid inside the transaction; do not keep the object."""

    def manifest(self) -> RunManifest | None:
        """The run's manifest; None in a new journal."""
        ...

    def put_manifest(self, manifest: RunManifest) -> None:
        """Begin the run.

        Raises:
            BrokenStore: this journal already holds a run.
        """
        ...

    def state(self) -> RunState:
        """Where the run stands.

        Raises:
            BrokenStore: no state was put yet.
        """
        ...

    def put_state(self, state: RunState) -> None:
        """Replace the state."""
        ...

    def updates(self, round_: Round, attempt: Attempt) -> tuple[AcceptedUpdate, ...]:
        """Accepted updates of an attempt, sorted by site; empty for an attempt that is unknown."""
        ...

    def put_update(self, update: AcceptedUpdate) -> None:
        """Keep an accepted update.

        Raises:
            BrokenStore: the site already has one in this attempt (ask ``updates`` first).
        """
        ...

    def open_secure_attempt(self, round_: Round, attempt: Attempt, audit_root: Digest) -> None:
        """Begin an attempt of a secure run: note its audit root, and forget the answers of every other attempt.

        Raises:
            BrokenStore: that attempt has begun already.
        """
        ...

    def audit_root(self, round_: Round, attempt: Attempt) -> Digest | None:
        """The audit root of a secure attempt; None where there is no such attempt."""
        ...

    def answers(self, round_: Round, attempt: Attempt) -> tuple[tuple[SiteId, StepAnswer], ...]:
        """What sites said in a secure attempt, sorted by step and site."""
        ...

    def answer(self, round_: Round, attempt: Attempt, step: StepName, site: SiteId) -> StepAnswer | None:
        """What one site said in a step; None where it has not. Costs the same however many others did."""
        ...

    def answered(self, round_: Round, attempt: Attempt, step: StepName) -> frozenset[SiteId]:
        """Which sites have said something in this step."""
        ...

    def put_answer(self, site: SiteId, answer: StepAnswer) -> None:
        """Keep what a site said.

        Raises:
            BrokenStore: the site already said something in this step (ask ``answers`` first).
        """
        ...

    def scores(self, round_: Round | None = None) -> tuple[SiteScores, ...]:
        """Scores of a round's model, or all of them; sorted by round and site."""
        ...

    def put_scores(self, scores: SiteScores) -> bool:
        """Keep a site's scores of a round's model; False where there are some already: nothing is overwritten."""
        ...

    def rounds(self) -> tuple[PublishedRound, ...]:
        """Published rounds in order."""
        ...

    def put_round(self, published: PublishedRound) -> None:
        """Record a published round.

        Raises:
            BrokenStore: that round is already published.
        """
        ...

    def traffic(self) -> tuple[Traffic, ...]:
        """Bytes per round and site, sorted by round and site."""
        ...

    def add_traffic(self, traffic: Traffic) -> None:
        """Add to what is counted for that round and site."""
        ...

    def audit(self, actor: str, event: str, fields: Fields) -> None:
        """Append to the audit chain.

        Raises:
            DataError: a field is not a plain value.
        """
        ...

    def audit_head(self) -> Head:
        """Length and last hash of the audit chain; EMPTY before the first record. Costs the same however long the chain is."""
        ...

    def audit_records(self, start: int = 0, stop: int | None = None) -> tuple[AuditRecord, ...]:
        """The audit chain in order, or the records from number ``start`` to before number ``stop``, as far as there are any."""
        ...

    def checkpoint(self, records: int | None = None) -> SignedCheckpoint | None:
        """The checkpoint of the chain of that length, or the newest one; None where there is none."""
        ...

    def checkpoints(self) -> tuple[SignedCheckpoint, ...]:
        """Every checkpoint, by length."""
        ...

    def put_checkpoint(self, signed: SignedCheckpoint) -> None:
        """Keep a checkpoint.

        Raises:
            BrokenStore: there is one of that length.
        """
        ...

    def countersignatures(self, records: int | None = None) -> tuple[Countersignature, ...]:
        """The sites' signatures under the checkpoint of that length, or all of them; sorted by length and site."""
        ...

    def put_countersignature(self, countersignature: Countersignature) -> bool:
        """Keep a site's signature; False where there is one already: nothing is overwritten.

        Raises:
            BrokenStore: there is no checkpoint of that length.
        """
        ...


class Journal(Protocol):
    """A store of named transactions; safe to share between threads."""

    def run_tx(self, name: str, fn: Callable[[Transaction], T]) -> T:
        """Run one transaction and return what ``fn`` returned, once it is durable.

        Raises:
            BrokenStore: the disk or the database failed; nothing was kept.
        """
        ...

    def close(self) -> None:
        """Let go of the files; a second call does nothing."""
        ...


COORDINATOR = vocabulary.COORDINATOR
"""Actor of audit records for what the coordinator does by itself."""


def site_actor(site: SiteId) -> str:
    """Actor of audit records for what a site did."""
    return vocabulary.site_actor(site)

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
from fedmentor.audit import AuditRecord, Fields, Head
from fedmentor.federation import RunManifest
from fedmentor.ids import Attempt, Round, SiteId

T = TypeVar("T")


class Transaction(Protocol):
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

    def audit_records(self) -> tuple[AuditRecord, ...]:
        """The whole audit chain in order."""
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


COORDINATOR = "coordinator"
"""Actor of audit records for what the coordinator does by itself."""


def site_actor(site: SiteId) -> str:
    """Actor of audit records for what a site did."""
    return f"site {site}"

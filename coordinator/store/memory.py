"""The journal's twin in memory: same contract, nothing on disk. A transaction works on a copy, which replaces the original."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from coordinator.state import AcceptedUpdate, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.conduct import ConductTables, MemoryConduct
from coordinator.store.journal import T, Transaction
from fedmentor.audit import EMPTY, AuditRecord, Fields, Head, head_of, next_record
from fedmentor.audit.checkpoint import Countersignature, SignedCheckpoint
from fedmentor.clock import Clock
from fedmentor.errors import BrokenStore
from fedmentor.federation import RunManifest, StepAnswer, StepName
from fedmentor.ids import Attempt, Digest, Round, SiteId


@dataclass
class _Tables:
    manifest: RunManifest | None = None
    state: RunState | None = None
    updates: dict[tuple[Round, Attempt, SiteId], AcceptedUpdate] = field(default_factory=dict)
    roots: dict[tuple[Round, Attempt], Digest] = field(default_factory=dict)
    answers: dict[tuple[Round, Attempt, str, SiteId], StepAnswer] = field(default_factory=dict)
    scores: dict[tuple[Round, SiteId], SiteScores] = field(default_factory=dict)
    rounds: dict[Round, PublishedRound] = field(default_factory=dict)
    traffic: dict[tuple[Round, SiteId], Traffic] = field(default_factory=dict)
    audit: list[AuditRecord] = field(default_factory=list)
    checkpoints: dict[int, SignedCheckpoint] = field(default_factory=dict)
    countersignatures: dict[tuple[int, SiteId], Countersignature] = field(default_factory=dict)
    conduct: ConductTables = field(default_factory=ConductTables)

    def copy(self) -> _Tables:
        return _Tables(
            self.manifest,
            self.state,
            dict(self.updates),
            dict(self.roots),
            dict(self.answers),
            dict(self.scores),
            dict(self.rounds),
            dict(self.traffic),
            list(self.audit),
            dict(self.checkpoints),
            dict(self.countersignatures),
            self.conduct.copy(),
        )


class MemoryJournal:
    """A journal that is gone with the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._tables = _Tables()
        self._closed = False

    def run_tx(self, name: str, fn: Callable[[Transaction], T]) -> T:
        """See Journal."""
        with self._lock:
            if self._closed:
                raise BrokenStore(f"the journal failed in {name}: it is closed")
            draft = self._tables.copy()
            result = fn(_MemoryTransaction(draft, self._clock))
            self._tables = draft
            return result

    def close(self) -> None:
        """See Journal."""
        with self._lock:
            self._closed = True


class _MemoryTransaction(MemoryConduct):
    def __init__(self, tables: _Tables, clock: Clock) -> None:
        self._tables = tables
        self._conduct = tables.conduct
        self._clock = clock

    def manifest(self) -> RunManifest | None:
        return self._tables.manifest

    def put_manifest(self, manifest: RunManifest) -> None:
        if self._tables.manifest is not None:
            raise BrokenStore("the journal already holds a run")
        self._tables.manifest = manifest

    def state(self) -> RunState:
        if self._tables.state is None:
            raise BrokenStore("the journal holds no run yet")
        return self._tables.state

    def put_state(self, state: RunState) -> None:
        self._tables.state = state

    def updates(self, round_: Round, attempt: Attempt) -> tuple[AcceptedUpdate, ...]:
        return tuple(update for key, update in sorted(self._tables.updates.items()) if key[:2] == (round_, attempt))

    def put_update(self, update: AcceptedUpdate) -> None:
        key = (update.receipt.round.round, update.receipt.round.attempt, update.site)
        if key in self._tables.updates:
            raise BrokenStore("the site already has an update in this attempt")
        self._tables.updates[key] = update

    def open_secure_attempt(self, round_: Round, attempt: Attempt, audit_root: Digest) -> None:
        if (round_, attempt) in self._tables.roots:
            raise BrokenStore("the attempt has begun already")
        self._tables.roots[round_, attempt] = audit_root
        self._tables.answers.clear()

    def audit_root(self, round_: Round, attempt: Attempt) -> Digest | None:
        return self._tables.roots.get((round_, attempt))

    def answers(self, round_: Round, attempt: Attempt) -> tuple[tuple[SiteId, StepAnswer], ...]:
        return tuple((key[3], answer) for key, answer in sorted(self._tables.answers.items()) if key[:2] == (round_, attempt))

    def answer(self, round_: Round, attempt: Attempt, step: StepName, site: SiteId) -> StepAnswer | None:
        return self._tables.answers.get((round_, attempt, step.value, site))

    def answered(self, round_: Round, attempt: Attempt, step: StepName) -> frozenset[SiteId]:
        return frozenset(key[3] for key in self._tables.answers if key[:3] == (round_, attempt, step.value))

    def put_answer(self, site: SiteId, answer: StepAnswer) -> None:
        key = (answer.round.round, answer.round.attempt, answer.step.value, site)
        if key in self._tables.answers:
            raise BrokenStore("the site already said something in this step")
        self._tables.answers[key] = answer

    def scores(self, round_: Round | None = None) -> tuple[SiteScores, ...]:
        return tuple(scores for _, scores in sorted(self._tables.scores.items()) if round_ in (None, scores.round))

    def put_scores(self, scores: SiteScores) -> bool:
        return self._tables.scores.setdefault((scores.round, scores.site), scores) is scores

    def rounds(self) -> tuple[PublishedRound, ...]:
        return tuple(published for _, published in sorted(self._tables.rounds.items()))

    def put_round(self, published: PublishedRound) -> None:
        if published.round in self._tables.rounds:
            raise BrokenStore("the round is already published")
        self._tables.rounds[published.round] = published

    def traffic(self) -> tuple[Traffic, ...]:
        return tuple(traffic for _, traffic in sorted(self._tables.traffic.items()))

    def add_traffic(self, traffic: Traffic) -> None:
        key = (traffic.round, traffic.site)
        old = self._tables.traffic.get(key, Traffic(*key))
        up, down = old.bytes_up + traffic.bytes_up, old.bytes_down + traffic.bytes_down
        self._tables.traffic[key] = replace(old, bytes_up=up, bytes_down=down)

    def audit(self, actor: str, event: str, fields: Fields) -> None:
        self._tables.audit.append(next_record(self.audit_head(), self._clock.now(), actor, event, fields))

    def audit_head(self) -> Head:
        return head_of(self._tables.audit[-1]) if self._tables.audit else EMPTY

    def audit_records(self, start: int = 0, stop: int | None = None) -> tuple[AuditRecord, ...]:
        return tuple(self._tables.audit[start:stop])

    def checkpoint(self, records: int | None = None) -> SignedCheckpoint | None:
        checkpoints = self._tables.checkpoints
        return checkpoints.get(max(checkpoints, default=0) if records is None else records)

    def checkpoints(self) -> tuple[SignedCheckpoint, ...]:
        return tuple(signed for _, signed in sorted(self._tables.checkpoints.items()))

    def put_checkpoint(self, signed: SignedCheckpoint) -> None:
        if signed.records in self._tables.checkpoints:
            raise BrokenStore("there is a checkpoint of that length")
        self._tables.checkpoints[signed.records] = signed

    def countersignatures(self, records: int | None = None) -> tuple[Countersignature, ...]:
        return tuple(item for _, item in sorted(self._tables.countersignatures.items()) if records in (None, item.records))

    def put_countersignature(self, countersignature: Countersignature) -> bool:
        if countersignature.records not in self._tables.checkpoints:
            raise BrokenStore("there is no checkpoint of that length")
        key = (countersignature.records, countersignature.site)
        return self._tables.countersignatures.setdefault(key, countersignature) is countersignature

"""The journal's twin in memory: same contract, nothing on disk. A transaction works on a copy, which replaces the original."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from coordinator.state import AcceptedUpdate, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.journal import T, Transaction
from fedmentor.audit import EMPTY, AuditRecord, Fields, Head, head_of, next_record
from fedmentor.clock import Clock
from fedmentor.errors import BrokenStore
from fedmentor.federation import RunManifest
from fedmentor.ids import Attempt, Round, SiteId


@dataclass
class _Tables:
    manifest: RunManifest | None = None
    state: RunState | None = None
    updates: dict[tuple[Round, Attempt, SiteId], AcceptedUpdate] = field(default_factory=dict)
    scores: dict[tuple[Round, SiteId], SiteScores] = field(default_factory=dict)
    rounds: dict[Round, PublishedRound] = field(default_factory=dict)
    traffic: dict[tuple[Round, SiteId], Traffic] = field(default_factory=dict)
    audit: list[AuditRecord] = field(default_factory=list)

    def copy(self) -> _Tables:
        return _Tables(
            self.manifest,
            self.state,
            dict(self.updates),
            dict(self.scores),
            dict(self.rounds),
            dict(self.traffic),
            list(self.audit),
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


class _MemoryTransaction:
    def __init__(self, tables: _Tables, clock: Clock) -> None:
        self._tables = tables
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

    def audit_records(self) -> tuple[AuditRecord, ...]:
        return tuple(self._tables.audit)

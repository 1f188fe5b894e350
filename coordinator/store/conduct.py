"""The part of the journal about robust rules, the model gate and central privacy: the port, and its two implementations' halves.

Kept apart from coordinator.store.journal because only runs that ask for these things use it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from coordinator.conduct import GateRecord, SetAside, SiteFlag
from coordinator.state import SiteScores
from fedmentor.errors import BrokenStore
from fedmentor.ids import Attempt, Round, SiteId
from fedmentor.robust import Flag


class ConductTransaction(Protocol):
    """What a transaction can do about conduct; part of coordinator.store.journal.Transaction."""

    def flags(self) -> tuple[SiteFlag, ...]:
        """Every flag, sorted by round, attempt, site and flag."""
        ...

    def put_flag(self, flag: SiteFlag) -> bool:
        """Keep a flag; False where it is there already."""
        ...

    def set_aside(self) -> tuple[SetAside, ...]:
        """Sites that have no part in the run any more, sorted."""
        ...

    def put_set_aside(self, entry: SetAside) -> bool:
        """Set a site aside; False where it is already."""
        ...

    def shares(self, round_: Round, attempt: Attempt) -> Mapping[SiteId, float]:
        """Each site's weight in the aggregate of an attempt, where a rule decided on it; empty where weights did."""
        ...

    def put_shares(self, round_: Round, attempt: Attempt, shares: Mapping[SiteId, float]) -> None:
        """Keep the weights of an attempt; those of an earlier try of the same attempt are replaced."""
        ...

    def candidate_scores(self, round_: Round, attempt: Attempt) -> tuple[SiteScores, ...]:
        """Scores of the candidate for the model of ``round_`` that an attempt made, sorted by site."""
        ...

    def put_candidate_scores(self, attempt: Attempt, scores: SiteScores) -> bool:
        """Keep a site's scores of a candidate; False where there are some already: nothing is overwritten."""
        ...

    def gate_records(self) -> tuple[GateRecord, ...]:
        """What the gate said, by round and attempt."""
        ...

    def put_gate_record(self, record: GateRecord) -> None:
        """Keep what the gate said.

        Raises:
            BrokenStore: it has spoken in this attempt already.
        """
        ...

    def noise_seed(self, round_: Round, attempt: Attempt) -> bytes | None:
        """The seed of the attempt's noise; None where none was drawn, or the round is over."""
        ...

    def put_noise_seed(self, round_: Round, attempt: Attempt, seed: bytes) -> None:
        """Keep the seed of the attempt's noise.

        Raises:
            BrokenStore: it has one already; noise is drawn once.
        """
        ...

    def forget_noise(self) -> None:
        """Remove every seed: whoever has one can take the noise away again."""
        ...


class SqliteConduct:
    """The SQLite half; mixed into the transaction of coordinator.store.sqlite."""

    _connection: sqlite3.Connection

    def flags(self) -> tuple[SiteFlag, ...]:
        """See ConductTransaction."""
        rows = self._connection.execute("SELECT round, attempt, site, flag FROM site_flag ORDER BY round, attempt, site, flag")
        return tuple(SiteFlag(Round(round_), Attempt(attempt), SiteId(site), Flag(flag)) for round_, attempt, site, flag in rows)

    def put_flag(self, flag: SiteFlag) -> bool:
        """See ConductTransaction."""
        values = (flag.round, flag.attempt, flag.site, flag.flag.value)
        return self._connection.execute("INSERT OR IGNORE INTO site_flag VALUES (?, ?, ?, ?)", values).rowcount == 1

    def set_aside(self) -> tuple[SetAside, ...]:
        """See ConductTransaction."""
        return tuple(SetAside(*row) for row in self._connection.execute("SELECT site, round FROM set_aside ORDER BY site"))

    def put_set_aside(self, entry: SetAside) -> bool:
        """See ConductTransaction."""
        values = (entry.site, entry.round)
        return self._connection.execute("INSERT OR IGNORE INTO set_aside VALUES (?, ?)", values).rowcount == 1

    def shares(self, round_: Round, attempt: Attempt) -> Mapping[SiteId, float]:
        """See ConductTransaction."""
        query = "SELECT site, share FROM round_share WHERE round = ? AND attempt = ? ORDER BY site"
        return {SiteId(site): share for site, share in self._connection.execute(query, (round_, attempt))}

    def put_shares(self, round_: Round, attempt: Attempt, shares: Mapping[SiteId, float]) -> None:
        """See ConductTransaction."""
        rows = [(round_, attempt, site, share) for site, share in sorted(shares.items())]
        self._connection.execute("DELETE FROM round_share WHERE round = ? AND attempt = ?", (round_, attempt))
        self._connection.executemany("INSERT INTO round_share VALUES (?, ?, ?, ?)", rows)

    def candidate_scores(self, round_: Round, attempt: Attempt) -> tuple[SiteScores, ...]:
        """See ConductTransaction."""
        query = "SELECT site, round, model, patients, images, dice, iou, hd95, hd95_undefined FROM candidate_scores"
        rows = self._connection.execute(f"{query} WHERE round = ? AND attempt = ? ORDER BY site", (round_, attempt))
        return tuple(SiteScores(*row) for row in rows)

    def put_candidate_scores(self, attempt: Attempt, scores: SiteScores) -> bool:
        """See ConductTransaction."""
        where = (scores.round, attempt, scores.site, scores.model)
        values = (*where, scores.patients, scores.images, scores.dice, scores.iou, scores.hd95, scores.hd95_undefined)
        statement = "INSERT OR IGNORE INTO candidate_scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        return self._connection.execute(statement, values).rowcount == 1

    def gate_records(self) -> tuple[GateRecord, ...]:
        """See ConductTransaction."""
        query = "SELECT round, attempt, candidate, sites, dice_drop, passed = 1 FROM gate_record ORDER BY round, attempt"
        rows = self._connection.execute(query)
        return tuple(GateRecord(*row) for row in rows)

    def put_gate_record(self, record: GateRecord) -> None:
        """See ConductTransaction."""
        values = (record.round, record.attempt, record.candidate, record.sites, record.drop, record.passed)
        self._connection.execute("INSERT INTO gate_record VALUES (?, ?, ?, ?, ?, ?)", values)

    def noise_seed(self, round_: Round, attempt: Attempt) -> bytes | None:
        """See ConductTransaction."""
        query = "SELECT seed FROM round_noise WHERE round = ? AND attempt = ?"
        row = self._connection.execute(query, (round_, attempt)).fetchone()
        return bytes(row[0]) if row else None

    def put_noise_seed(self, round_: Round, attempt: Attempt, seed: bytes) -> None:
        """See ConductTransaction."""
        self._connection.execute("INSERT INTO round_noise VALUES (?, ?, ?)", (round_, attempt, seed))

    def forget_noise(self) -> None:
        """See ConductTransaction."""
        # The freed pages are overwritten with zeros, not just unlinked.
        self._connection.execute("PRAGMA secure_delete=ON")
        self._connection.execute("DELETE FROM round_noise")


@dataclass
class ConductTables:
    """What the memory half keeps."""

    flags: set[SiteFlag] = field(default_factory=set)
    set_aside: dict[SiteId, SetAside] = field(default_factory=dict)
    shares: dict[tuple[Round, Attempt], dict[SiteId, float]] = field(default_factory=dict)
    candidates: dict[tuple[Round, Attempt, SiteId], SiteScores] = field(default_factory=dict)
    gates: dict[tuple[Round, Attempt], GateRecord] = field(default_factory=dict)
    noise: dict[tuple[Round, Attempt], bytes] = field(default_factory=dict)

    def copy(self) -> ConductTables:
        """A draft for a transaction."""
        return ConductTables(
            set(self.flags),
            dict(self.set_aside),
            dict(self.shares),
            dict(self.candidates),
            dict(self.gates),
            dict(self.noise),
        )


class MemoryConduct:
    """The half in memory; mixed into the transaction of coordinator.store.memory."""

    _conduct: ConductTables

    def flags(self) -> tuple[SiteFlag, ...]:
        """See ConductTransaction."""
        return tuple(sorted(self._conduct.flags))

    def put_flag(self, flag: SiteFlag) -> bool:
        """See ConductTransaction."""
        new = flag not in self._conduct.flags
        self._conduct.flags.add(flag)
        return new

    def set_aside(self) -> tuple[SetAside, ...]:
        """See ConductTransaction."""
        return tuple(sorted(self._conduct.set_aside.values()))

    def put_set_aside(self, entry: SetAside) -> bool:
        """See ConductTransaction."""
        return self._conduct.set_aside.setdefault(entry.site, entry) is entry

    def shares(self, round_: Round, attempt: Attempt) -> Mapping[SiteId, float]:
        """See ConductTransaction."""
        return dict(sorted(self._conduct.shares.get((round_, attempt), {}).items()))

    def put_shares(self, round_: Round, attempt: Attempt, shares: Mapping[SiteId, float]) -> None:
        """See ConductTransaction."""
        self._conduct.shares[round_, attempt] = dict(shares)

    def candidate_scores(self, round_: Round, attempt: Attempt) -> tuple[SiteScores, ...]:
        """See ConductTransaction."""
        return tuple(scores for key, scores in sorted(self._conduct.candidates.items()) if key[:2] == (round_, attempt))

    def put_candidate_scores(self, attempt: Attempt, scores: SiteScores) -> bool:
        """See ConductTransaction."""
        return self._conduct.candidates.setdefault((scores.round, attempt, scores.site), scores) is scores

    def gate_records(self) -> tuple[GateRecord, ...]:
        """See ConductTransaction."""
        return tuple(record for _, record in sorted(self._conduct.gates.items()))

    def put_gate_record(self, record: GateRecord) -> None:
        """See ConductTransaction."""
        if (record.round, record.attempt) in self._conduct.gates:
            raise BrokenStore("the gate has spoken in this attempt already")
        self._conduct.gates[record.round, record.attempt] = record

    def noise_seed(self, round_: Round, attempt: Attempt) -> bytes | None:
        """See ConductTransaction."""
        return self._conduct.noise.get((round_, attempt))

    def put_noise_seed(self, round_: Round, attempt: Attempt, seed: bytes) -> None:
        """See ConductTransaction."""
        if (round_, attempt) in self._conduct.noise:
            raise BrokenStore("the attempt has its noise already")
        self._conduct.noise[round_, attempt] = seed

    def forget_noise(self) -> None:
        """See ConductTransaction."""
        self._conduct.noise.clear()

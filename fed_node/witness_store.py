"""What a witness must remember: how far it has verified each run's audit trail. The port, its twin in memory, and SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from fed_node.sqlite import DURABLE, Store
from fedmentor.audit import EMPTY, AuditRecord, Head, head_of, values_of
from fedmentor.audit.checkpoint import SignedCheckpoint, signed_checkpoint
from fedmentor.audit.vocabulary import COORDINATOR, CREATE_EVENT, PUBLISH_EVENT
from fedmentor.errors import ConfigError
from fedmentor.ids import Digest, Round, RunId

DATABASE_FILE = "witness.sqlite"
SCHEMA_FILE = "witness.sql"
SCHEMA_VERSION = 1

STORE = Store(
    "the site's memory of the audit trail",
    "fed_node",
    SCHEMA_FILE,
    SCHEMA_VERSION,
    cure="check the disk of the state folder, then start again",
    cure_version="use the version that made it, or a new state folder",
)

FIRST_MODEL = Round(-1)
"""In the place of the round that made model 0."""


@dataclass(frozen=True)
class Noted:
    """How far a run's audit trail was verified.

    Attributes:
        head: length and last hash.
        checkpoint: the newest signed one that the trail fits.
        countersigned: whether the coordinator has this site's signature under it.
    """

    head: Head = EMPTY
    checkpoint: SignedCheckpoint | None = None
    countersigned: bool = False


class WitnessStore(Protocol):
    """Durable memory of a witness; one writer. Every method raises BrokenStore where the disk or the database fails."""

    def noted(self, run: RunId) -> Noted:
        """How far this run's trail was verified; Noted() where nothing was."""
        ...

    def extend(self, run: RunId, records: Iterable[AuditRecord]) -> Noted:
        """Keep verified records that follow the noted head: all of them, on disk when this returns; none if ``records`` raises."""
        ...

    def reach(self, run: RunId, checkpoint: SignedCheckpoint) -> Noted:
        """Keep a checkpoint that the noted chain fits, in the place of the one before."""
        ...

    def countersigned(self, run: RunId, checkpoint: SignedCheckpoint) -> None:
        """The coordinator has this site's signature under that checkpoint. Nothing happens where another one is noted."""
        ...

    def hash_of(self, run: RunId, record: int) -> Digest | None:
        """Hash of a verified record; None where that record was not verified."""
        ...

    def knows(self, record_hash: Digest) -> bool:
        """Whether this is the hash of a record that was verified, in whatever run."""
        ...

    def model_before(self, run: RunId, round_: Round) -> Digest | None:
        """The model that was in force before a round was over, as the trail names it; None where it names none."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


def named_model(record: AuditRecord) -> tuple[Round, Digest] | None:
    """The model that a record brings into force, and the round that made it; FIRST_MODEL for model 0."""
    if record.actor != COORDINATOR or record.event not in (CREATE_EVENT, PUBLISH_EVENT):
        return None
    values = values_of(record)
    round_, model = (-1 if record.event == CREATE_EVENT else values.get("round")), values.get("model")
    return (Round(round_), Digest(model)) if isinstance(round_, int) and isinstance(model, str) else None


@dataclass
class _Chain:
    noted: Noted = field(default_factory=Noted)
    hashes: list[Digest] = field(default_factory=list)
    models: dict[Round, Digest] = field(default_factory=dict)


class MemoryWitnessStore:
    """The twin that forgets everything with its process; see WitnessStore."""

    def __init__(self) -> None:
        self._chains: dict[RunId, _Chain] = {}

    def noted(self, run: RunId) -> Noted:
        """See WitnessStore."""
        return self._chains.get(run, _Chain()).noted

    def extend(self, run: RunId, records: Iterable[AuditRecord]) -> Noted:
        """See WitnessStore."""
        new = list(records)
        chain = self._chains.setdefault(run, _Chain())
        chain.hashes += [record.hash for record in new]
        chain.models |= dict(filter(None, map(named_model, new)))
        if new:
            chain.noted = replace(chain.noted, head=head_of(new[-1]))
        return chain.noted

    def reach(self, run: RunId, checkpoint: SignedCheckpoint) -> Noted:
        """See WitnessStore."""
        chain = self._chains.setdefault(run, _Chain())
        chain.noted = _reached(chain.noted, checkpoint)
        return chain.noted

    def countersigned(self, run: RunId, checkpoint: SignedCheckpoint) -> None:
        """See WitnessStore."""
        chain = self._chains.get(run)
        if chain is not None and chain.noted.checkpoint == checkpoint:
            chain.noted = replace(chain.noted, countersigned=True)

    def hash_of(self, run: RunId, record: int) -> Digest | None:
        """See WitnessStore."""
        hashes = self._chains.get(run, _Chain()).hashes
        return hashes[record] if 0 <= record < len(hashes) else None

    def knows(self, record_hash: Digest) -> bool:
        """See WitnessStore."""
        return any(record_hash in chain.hashes for chain in self._chains.values())

    def model_before(self, run: RunId, round_: Round) -> Digest | None:
        """See WitnessStore."""
        models = self._chains.get(run, _Chain()).models
        newest = max((made for made in models if made < round_), default=None)
        return None if newest is None else models[newest]

    def close(self) -> None:
        """See WitnessStore; nothing to do."""


class SqliteWitnessStore:
    """See WitnessStore. Belongs to the thread that made it; whoever writes holds the node's lock (fed_node.outbox_store).

    Args:
        folder: the site's state folder.
        read_only: look at what a node, running or not, has noted.

    Raises:
        ConfigError: another version of this program wrote it, or ``read_only`` and there is none.
        BrokenStore: the disk or the database failed.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        path = folder / DATABASE_FILE
        if read_only and not path.is_file():
            raise ConfigError(f"{path} does not exist", cure="give the state folder of a node that has taken part in a run")
        with STORE.mapped():
            if not read_only:
                path.touch(mode=0o600)
            self._database = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}", uri=True, isolation_level=None
            )
        try:
            with STORE.mapped():
                _prepare(self._database, path, read_only=read_only)
        except BaseException:
            self._database.close()
            raise

    def noted(self, run: RunId) -> Noted:
        """See WitnessStore."""
        rows = self._all("SELECT records, head, content, signature, countersigned FROM chain WHERE run = ?", run)
        return _noted(rows[0]) if rows else Noted()

    def extend(self, run: RunId, records: Iterable[AuditRecord]) -> Noted:
        """See WitnessStore."""
        with STORE.transaction(self._database):
            noted = self.noted(run)
            for record in records:
                noted = replace(noted, head=head_of(record))
                self._all("INSERT INTO record VALUES (?, ?, ?)", run, record.seq, record.hash)
                model = named_model(record)
                if model is not None:
                    self._all("INSERT OR IGNORE INTO model VALUES (?, ?, ?)", run, *model)
            self._put(run, noted)
        return noted

    def reach(self, run: RunId, checkpoint: SignedCheckpoint) -> Noted:
        """See WitnessStore."""
        with STORE.transaction(self._database):
            noted = _reached(self.noted(run), checkpoint)
            self._put(run, noted)
        return noted

    def countersigned(self, run: RunId, checkpoint: SignedCheckpoint) -> None:
        """See WitnessStore."""
        content = checkpoint.checkpoint.to_bytes()
        with STORE.transaction(self._database):
            self._all("UPDATE chain SET countersigned = 1 WHERE run = ? AND content = ?", run, content)

    def hash_of(self, run: RunId, record: int) -> Digest | None:
        """See WitnessStore."""
        rows = self._all("SELECT hash FROM record WHERE run = ? AND seq = ?", run, record)
        return Digest(rows[0][0]) if rows else None

    def knows(self, record_hash: Digest) -> bool:
        """See WitnessStore."""
        return bool(self._all("SELECT 1 FROM record WHERE hash = ? LIMIT 1", record_hash))

    def model_before(self, run: RunId, round_: Round) -> Digest | None:
        """See WitnessStore."""
        rows = self._all("SELECT model FROM model WHERE run = ? AND round < ? ORDER BY round DESC LIMIT 1", run, round_)
        return Digest(rows[0][0]) if rows else None

    def checkpoints(self) -> tuple[SignedCheckpoint, ...]:
        """The newest checkpoint of every run, by name of the run."""
        rows = self._all("SELECT content, signature FROM chain WHERE content IS NOT NULL ORDER BY run")
        return tuple(signed_checkpoint(*row) for row in rows)

    def close(self) -> None:
        """See WitnessStore."""
        with STORE.mapped():
            self._database.close()

    def _put(self, run: RunId, noted: Noted) -> None:
        signed = noted.checkpoint
        values = (None, None) if signed is None else (signed.checkpoint.to_bytes(), signed.signature)
        where = (run, noted.head.records, noted.head.hash)
        self._all("INSERT OR REPLACE INTO chain VALUES (?, ?, ?, ?, ?, ?)", *where, *values, int(noted.countersigned))

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with STORE.mapped():
            return self._database.execute(statement, values).fetchall()


def _reached(noted: Noted, checkpoint: SignedCheckpoint) -> Noted:
    return noted if checkpoint == noted.checkpoint else Noted(noted.head, checkpoint, countersigned=False)


def _noted(row: Any) -> Noted:
    records, head, content, signature, countersigned = row
    checkpoint = None if content is None else signed_checkpoint(content, signature)
    return Noted(Head(records, Digest(head)), checkpoint, bool(countersigned))


def _prepare(database: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    for pragma in () if read_only else DURABLE:
        database.execute(pragma)
    STORE.check_schema(database, path, read_only=read_only)

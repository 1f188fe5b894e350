"""The journal on SQLite: WAL, synchronous=FULL, one connection, one writer; see coordinator.store.journal for the contract."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from coordinator.state import AcceptedUpdate, PhaseName, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.conduct import SqliteConduct
from coordinator.store.journal import T, Transaction
from fedmentor.audit import EMPTY, AuditRecord, Fields, Head, head_of, next_record
from fedmentor.audit.checkpoint import Countersignature, SignedCheckpoint, signed_checkpoint
from fedmentor.clock import Clock
from fedmentor.errors import BrokenStore, ConfigError
from fedmentor.federation import Outcome, Receipt, RoundRef, RunManifest, StepAnswer, StepName, manifest_from_bytes
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId

SCHEMA_VERSION = 3
"""Kept in PRAGMA user_version; a journal of another version is refused, never guessed at."""

JOURNAL_FILE = "journal.sqlite"
"""Name in the state folder."""

BUSY_TIMEOUT_S = 5.0
"""How long to wait for a reader (``coordinator status``) before a transaction counts as failed."""

IN_MEMORY = ":memory:"

_OWNER = "ask as the user that the coordinator runs as"


class SqliteJournal:
    """A journal in one SQLite file."""

    def __init__(self, path: Path | str, clock: Clock, *, read_only: bool = False) -> None:
        """Open or create the file; with ``read_only`` another process may be writing it, and writing raises BrokenStore.

        Raises:
            ConfigError: the file is a journal of another version, or ``read_only`` and not there or not this user's to read.
            BrokenStore: the file cannot be opened or is not a database.
        """
        self._clock = clock
        self._lock = threading.RLock()
        with _broken("open"):
            self._connection = _reader(Path(path)) if read_only else _writer(path)
        try:
            if not read_only:
                self._prepare()
            self._check_version()
        except BaseException:
            self._connection.close()
            raise

    def run_tx(self, name: str, fn: Callable[[Transaction], T]) -> T:
        """See Journal."""
        with self._lock, _broken(name):
            self._connection.execute("BEGIN")
            try:
                result = fn(_SqliteTransaction(self._connection, self._clock, name))
                self._connection.execute("COMMIT")
            except BaseException:
                # After a failed COMMIT there may be nothing left to roll back.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result

    def close(self) -> None:
        """See Journal."""
        with self._lock:
            self._connection.close()

    def _prepare(self) -> None:
        with _broken("open"):
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            empty = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if empty:
            schema = files("coordinator.store").joinpath("schema.sql").read_text()
            with _broken("create_schema"):
                # One transaction: a crash leaves an empty file or a whole schema.
                self._connection.executescript(f"BEGIN;\n{schema}\nPRAGMA user_version={SCHEMA_VERSION};\nCOMMIT;")

    def _check_version(self) -> None:
        with _broken("open"):
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            raise ConfigError(
                f"the journal has schema version {version}, this program knows {SCHEMA_VERSION}",
                cure="use the version of fedmentor that began the run",
            )


def _writer(path: Path | str) -> sqlite3.Connection:
    if path != IN_MEMORY:
        try:
            # Before SQLite makes it, so that there is no moment in which others can open it; its side files take the mode over.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            Path(path).chmod(0o600)
        except OSError as error:
            raise BrokenStore(
                f"the journal cannot be opened: {error.strerror}", cure="check the state folder and its owner"
            ) from error
    return _connected(str(path), uri=False)


def _reader(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing.

    A database in WAL mode has a file of shared memory, which a reader opens for writing. Another user cannot; but where there is no
    WAL no coordinator runs, and then the file can be read as it lies.
    """
    try:
        there = path.is_file()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", cure=_OWNER) from error
    if not there:
        raise ConfigError(f"{path} does not exist", cure="give the state folder of a coordinator that has run")
    uri = f"{path.resolve().as_uri()}?mode=ro"
    try:
        return _connected(uri, uri=True)
    except sqlite3.OperationalError as error:
        if path.with_name(f"{path.name}-wal").exists():
            raise ConfigError(f"{path} cannot be read: {error}", cure=_OWNER) from error
    return _connected(f"{uri}&immutable=1", uri=True)


def _connected(target: str, *, uri: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(target, uri=uri, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA user_version")  # the file is opened at the first statement, not before
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _broken(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise BrokenStore(
            f"the journal failed in {name}: {error}", cure="check the disk of the state folder, then start again"
        ) from error


class _SqliteTransaction(SqliteConduct):
    def __init__(self, connection: sqlite3.Connection, clock: Clock, name: str) -> None:
        self._connection = connection
        self._clock = clock
        self._name = name

    def manifest(self) -> RunManifest | None:
        row = self._connection.execute("SELECT manifest FROM run").fetchone()
        return manifest_from_bytes(row[0]) if row else None

    def put_manifest(self, manifest: RunManifest) -> None:
        self._connection.execute("INSERT INTO run VALUES (1, ?, ?)", (manifest.run, manifest.to_bytes()))

    def state(self) -> RunState:
        row = self._connection.execute(
            "SELECT phase, round, attempt, model, pending, phase_elapsed_s, round_elapsed_s, outcome, reason FROM run_state"
        ).fetchone()
        if row is None:
            raise BrokenStore("the journal holds no run yet")
        phase, round_, attempt, model, pending, phase_s, round_s, outcome, reason = row
        return RunState(
            phase=PhaseName(phase),
            round=Round(round_),
            attempt=Attempt(attempt),
            model=Digest(model),
            pending=Digest(pending) if pending else None,
            phase_elapsed_s=phase_s,
            round_elapsed_s=round_s,
            outcome=Outcome(outcome) if outcome else None,
            reason=reason,
        )

    def put_state(self, state: RunState) -> None:
        outcome = state.outcome.value if state.outcome else None
        values = (state.phase.value, state.round, state.attempt, state.model, state.pending)
        times = (state.phase_elapsed_s, state.round_elapsed_s)
        self._connection.execute(
            "INSERT OR REPLACE INTO run_state VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, *times, outcome, state.reason, self._name),
        )

    def updates(self, round_: Round, attempt: Attempt) -> tuple[AcceptedUpdate, ...]:
        rows = self._connection.execute(
            "SELECT run.name, site, sha256, accepted_utc, size_bytes, weight_word FROM accepted_update, run"
            " WHERE round = ? AND attempt = ? ORDER BY site",
            (round_, attempt),
        )
        return tuple(
            AcceptedUpdate(Receipt(RoundRef(RunId(run), round_, attempt), SiteId(site), Digest(sha256), utc), size, weight)
            for run, site, sha256, utc, size, weight in rows
        )

    def put_update(self, update: AcceptedUpdate) -> None:
        receipt = update.receipt
        self._connection.execute(
            "INSERT INTO accepted_update VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(receipt.round.round, receipt.round.attempt, receipt.site, receipt.sha256),
                *(update.size_bytes, update.weight_word, receipt.accepted_utc),
            ),
        )

    def open_secure_attempt(self, round_: Round, attempt: Attempt, audit_root: Digest) -> None:
        self._connection.execute("INSERT INTO secure_attempt VALUES (?, ?, ?)", (round_, attempt, audit_root))
        self._connection.execute("DELETE FROM secure_answer")

    def audit_root(self, round_: Round, attempt: Attempt) -> Digest | None:
        row = self._connection.execute(
            "SELECT audit_root FROM secure_attempt WHERE round = ? AND attempt = ?", (round_, attempt)
        ).fetchone()
        return Digest(row[0]) if row else None

    def answers(self, round_: Round, attempt: Attempt) -> tuple[tuple[SiteId, StepAnswer], ...]:
        rows = self._connection.execute(
            "SELECT run.name, step, site, message FROM secure_answer, run WHERE round = ? AND attempt = ? ORDER BY step, site",
            (round_, attempt),
        )
        return tuple(
            (SiteId(site), StepAnswer(RoundRef(RunId(run), round_, attempt), StepName(step), message))
            for run, step, site, message in rows
        )

    def answer(self, round_: Round, attempt: Attempt, step: StepName, site: SiteId) -> StepAnswer | None:
        row = self._connection.execute(
            "SELECT run.name, message FROM secure_answer, run WHERE round = ? AND attempt = ? AND step = ? AND site = ?",
            (round_, attempt, step.value, site),
        ).fetchone()
        return StepAnswer(RoundRef(RunId(row[0]), round_, attempt), step, row[1]) if row else None

    def answered(self, round_: Round, attempt: Attempt, step: StepName) -> frozenset[SiteId]:
        rows = self._connection.execute(
            "SELECT site FROM secure_answer WHERE round = ? AND attempt = ? AND step = ?", (round_, attempt, step.value)
        )
        return frozenset(SiteId(site) for (site,) in rows)

    def put_answer(self, site: SiteId, answer: StepAnswer) -> None:
        ref = answer.round
        self._connection.execute(
            "INSERT INTO secure_answer VALUES (?, ?, ?, ?, ?)", (ref.round, ref.attempt, answer.step.value, site, answer.message)
        )

    def scores(self, round_: Round | None = None) -> tuple[SiteScores, ...]:
        which, values = ("", ()) if round_ is None else ("WHERE round = ? ", (round_,))
        columns = "site, round, model, patients, images, dice, iou, hd95, hd95_undefined"
        rows = self._connection.execute(f"SELECT {columns} FROM site_scores {which}ORDER BY round, site", values)  # noqa: S608 - constants
        return tuple(SiteScores(*row) for row in rows)

    def put_scores(self, scores: SiteScores) -> bool:
        counts = (scores.patients, scores.images)
        values = (scores.round, scores.site, scores.model, *counts, scores.dice, scores.iou, scores.hd95, scores.hd95_undefined)
        cursor = self._connection.execute(
            "INSERT INTO site_scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (round, site) DO NOTHING", values
        )
        return cursor.rowcount == 1

    def rounds(self) -> tuple[PublishedRound, ...]:
        rows = self._connection.execute(
            "SELECT round, attempt, base_model, model, seconds, published_utc, sites FROM published_round ORDER BY round"
        )
        return tuple(
            PublishedRound(round_, attempt, base, model, seconds, utc, tuple(map(SiteId, sites.split())))
            for round_, attempt, base, model, seconds, utc, sites in rows
        )

    def put_round(self, published: PublishedRound) -> None:
        values = (published.base_model, published.model, published.seconds, published.published_utc, " ".join(published.sites))
        self._connection.execute(
            "INSERT INTO published_round VALUES (?, ?, ?, ?, ?, ?, ?)", (published.round, published.attempt, *values)
        )

    def traffic(self) -> tuple[Traffic, ...]:
        rows = self._connection.execute("SELECT round, site, bytes_up, bytes_down FROM traffic ORDER BY round, site")
        return tuple(Traffic(*row) for row in rows)

    def add_traffic(self, traffic: Traffic) -> None:
        self._connection.execute(
            "INSERT INTO traffic VALUES (?, ?, ?, ?) ON CONFLICT (round, site) DO UPDATE"
            " SET bytes_up = bytes_up + excluded.bytes_up, bytes_down = bytes_down + excluded.bytes_down",
            (traffic.round, traffic.site, traffic.bytes_up, traffic.bytes_down),
        )

    def audit(self, actor: str, event: str, fields: Fields) -> None:
        record = next_record(self.audit_head(), self._clock.now(), actor, event, fields)
        values = (record.seq, record.prev_hash, record.utc, record.actor, record.event, record.fields, record.hash)
        self._connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def audit_head(self) -> Head:
        row = self._connection.execute(
            "SELECT seq, prev_hash, utc, actor, event, fields, hash FROM audit ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return head_of(AuditRecord(*row)) if row else EMPTY

    def audit_records(self, start: int = 0, stop: int | None = None) -> tuple[AuditRecord, ...]:
        rows = self._connection.execute(
            "SELECT seq, prev_hash, utc, actor, event, fields, hash FROM audit WHERE seq >= ? AND (? IS NULL OR seq < ?)"
            " ORDER BY seq",
            (start, stop, stop),
        )
        return tuple(AuditRecord(*row) for row in rows)

    def checkpoint(self, records: int | None = None) -> SignedCheckpoint | None:
        row = self._connection.execute(
            "SELECT content, signature FROM checkpoint WHERE ? IS NULL OR records = ? ORDER BY records DESC LIMIT 1",
            (records, records),
        ).fetchone()
        return signed_checkpoint(*row) if row else None

    def checkpoints(self) -> tuple[SignedCheckpoint, ...]:
        rows = self._connection.execute("SELECT content, signature FROM checkpoint ORDER BY records")
        return tuple(signed_checkpoint(*row) for row in rows)

    def put_checkpoint(self, signed: SignedCheckpoint) -> None:
        values = (signed.records, signed.checkpoint.to_bytes(), signed.signature)
        self._connection.execute("INSERT INTO checkpoint VALUES (?, ?, ?)", values)

    def countersignatures(self, records: int | None = None) -> tuple[Countersignature, ...]:
        rows = self._connection.execute(
            "SELECT records, site, signature FROM countersignature WHERE ? IS NULL OR records = ? ORDER BY records, site",
            (records, records),
        )
        return tuple(Countersignature(*row) for row in rows)

    def put_countersignature(self, countersignature: Countersignature) -> bool:
        values = (countersignature.records, countersignature.site, countersignature.signature)
        cursor = self._connection.execute(
            "INSERT INTO countersignature VALUES (?, ?, ?) ON CONFLICT (records, site) DO NOTHING", values
        )
        return cursor.rowcount == 1

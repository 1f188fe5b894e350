"""The outbox on disk: one SQLite database in the site's state folder, and a lock that keeps a second node out of it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

from fed_node.outbox import (
    OutboxEntry,
    UpdateStage,
    refuse_missing_update,
    refuse_other_manifest,
    refuse_second_update,
    same_update,
)
from fed_node.sqlite import DURABLE, Store
from fedmentor.errors import BrokenStore, ConfigError
from fedmentor.federation import Receipt, RoundRef, RunManifest, UpdateHeader, manifest_from_bytes
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.tensors import sha256_hex

DATABASE_FILE = "outbox.sqlite"
LOCK_FILE = "node.lock"
SCHEMA_FILE = "outbox.sql"
SCHEMA_VERSION = 1

STORE = Store(
    "the site's outbox",
    "fed_node",
    SCHEMA_FILE,
    SCHEMA_VERSION,
    cure="check the disk of the state folder, then start the node again",
    cure_version="use the version that made it, or a new state folder",
)

PRAGMAS = (
    *DURABLE,
    # Deleted words are overwritten: an update is derived from patients.
    "PRAGMA secure_delete = ON",
)

_ENTRIES = (
    "SELECT u.*, r.site AS receipt_site, r.sha256 AS receipt_sha256, r.accepted_utc "
    "FROM update_entry u LEFT JOIN receipt r ON (r.run, r.round, r.attempt) = (u.run, u.round, u.attempt)"
)


class SqliteOutbox:
    """See fed_node.outbox.Outbox. Belongs to the thread that made it.

    Args:
        folder: the site's state folder; made if it is not there, and readable for its owner only from now on.

    Raises:
        ConfigError: another node uses the folder, or another version of this program wrote it.
        BrokenStore: the disk or the database failed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the state folder {folder} cannot be used: {error.strerror}", cure="name a folder that this user owns"
            ) from error
        try:
            self._take_lock(folder)
            self._database = _open(folder / DATABASE_FILE)
        except BaseException:
            os.close(self._lock)
            raise

    def pin(self, manifest: RunManifest) -> None:
        """See Outbox."""
        with STORE.transaction(self._database):
            pinned = self._database.execute("SELECT json FROM manifest WHERE run = ?", (manifest.run,)).fetchone()
            if pinned is None:
                self._database.execute("INSERT INTO manifest VALUES (?, ?)", (manifest.run, manifest.to_bytes()))
                self._database.execute("UPDATE update_entry SET words = x'' WHERE run != ?", (manifest.run,))
            elif pinned["json"] != manifest.to_bytes():
                raise refuse_other_manifest(manifest.run)

    def pinned(self, run: RunId) -> RunManifest | None:
        """See Outbox."""
        with STORE.mapped():
            row = self._database.execute("SELECT json FROM manifest WHERE run = ?", (run,)).fetchone()
        return manifest_from_bytes(row["json"]) if row else None

    def put(self, header: UpdateHeader, words: bytes) -> OutboxEntry:
        """See Outbox."""
        ref = header.round
        with STORE.transaction(self._database):
            stored = self.find(ref)
            if stored is not None:
                if not same_update(stored.header, header):
                    raise refuse_second_update(ref)
                return stored
            self._database.execute("UPDATE update_entry SET words = x'' WHERE run = ? AND round < ?", (ref.run, ref.round))
            self._database.execute(
                "INSERT INTO update_entry (run, round, attempt, sha256, size_bytes, base_model, words, stage, reason) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, 'ready', '')",
                (ref.run, ref.round, ref.attempt, header.sha256, header.size_bytes, header.base_model, words),
            )
        return OutboxEntry(header, words)

    def find(self, ref: RoundRef) -> OutboxEntry | None:
        """See Outbox."""
        with STORE.mapped():
            row = self._database.execute(f"{_ENTRIES} WHERE u.run = ? AND u.round = ?", (ref.run, ref.round)).fetchone()
        return _entry(row) if row else None

    def ready(self) -> tuple[OutboxEntry, ...]:
        """See Outbox."""
        with STORE.mapped():
            rows = self._database.execute(f"{_ENTRIES} WHERE u.stage = 'ready' AND length(u.words) > 0 ORDER BY u.seq").fetchall()
        return tuple(_entry(row) for row in rows)

    def readdress(self, ref: RoundRef) -> OutboxEntry:
        """See Outbox."""
        with STORE.transaction(self._database):
            stored = self.find(ref)
            if stored is None or not stored.words:
                raise refuse_missing_update(ref)
            self._database.execute(
                "UPDATE update_entry SET attempt = ?, stage = 'ready', reason = '' WHERE run = ? AND round = ?",
                (ref.attempt, ref.run, ref.round),
            )
        return OutboxEntry(replace(stored.header, round=ref), stored.words)

    def mark_receipted(self, receipt: Receipt) -> None:
        """See Outbox."""
        ref = receipt.round
        with STORE.transaction(self._database):
            found = self._database.execute(
                "UPDATE update_entry SET attempt = ?, stage = 'receipted', reason = '' "
                "WHERE run = ? AND round = ? AND stage != 'receipted'",
                (ref.attempt, ref.run, ref.round),
            )
            if found.rowcount:
                self._database.execute(
                    "INSERT OR IGNORE INTO receipt VALUES (?, ?, ?, ?, ?, ?)",
                    (ref.run, ref.round, ref.attempt, receipt.site, receipt.sha256, receipt.accepted_utc),
                )

    def mark_dropped(self, ref: RoundRef, reason: str) -> None:
        """See Outbox."""
        with STORE.transaction(self._database):
            self._database.execute(
                "UPDATE update_entry SET stage = 'dropped', reason = ? WHERE run = ? AND round = ? AND stage = 'ready'",
                (reason, ref.run, ref.round),
            )

    def last_receipt(self, run: RunId) -> RoundRef | None:
        """See Outbox."""
        with STORE.mapped():
            row = self._database.execute(
                "SELECT round, attempt FROM receipt WHERE run = ? ORDER BY round DESC, attempt DESC LIMIT 1", (run,)
            ).fetchone()
        return RoundRef(run, Round(row["round"]), Attempt(row["attempt"])) if row else None

    def retire(self, run: RunId) -> None:
        """See Outbox."""
        with STORE.transaction(self._database):
            self._database.execute("UPDATE update_entry SET words = x'' WHERE run = ?", (run,))

    def close(self) -> None:
        """See Outbox."""
        with STORE.mapped():
            self._database.close()
        os.close(self._lock)

    def _take_lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another node works in the state folder {folder}", cure="stop it, or give this site its own folder"
            ) from error


def _open(path: Path) -> sqlite3.Connection:
    with STORE.mapped():
        # SQLite gives the write-ahead log, which holds words too, the mode that the database has when it is opened.
        path.touch(mode=0o600)
        path.chmod(0o600)
        database = sqlite3.connect(path, isolation_level=None)
    database.row_factory = sqlite3.Row
    try:
        with STORE.mapped():
            _prepare(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    for pragma in PRAGMAS:
        database.execute(pragma)
    STORE.check_schema(database, path)


def _entry(row: sqlite3.Row) -> OutboxEntry:
    if row["words"] and sha256_hex([row["words"]]) != row["sha256"]:
        raise BrokenStore(f"the stored update of round {row['round']} is damaged", cure="check the disk of the state folder")
    ref = RoundRef(RunId(row["run"]), Round(row["round"]), Attempt(row["attempt"]))
    stage, receipt = UpdateStage(row["stage"]), None
    if stage is UpdateStage.RECEIPTED and row["receipt_site"] is not None:
        receipt = Receipt(ref, SiteId(row["receipt_site"]), Digest(row["receipt_sha256"]), row["accepted_utc"])
    header = UpdateHeader(ref, Digest(row["sha256"]), row["size_bytes"], Digest(row["base_model"]))
    return OutboxEntry(header, row["words"], stage, receipt, row["reason"])

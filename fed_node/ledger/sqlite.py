"""The ledger's store on disk, its anchor and its key: one SQLite database with a writer's lease, and two small files."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fed_node.ledger.store import Stored, Tags
from fed_node.sqlite import DURABLE, Store
from fedmentor.audit import AuditRecord, Head
from fedmentor.errors import BrokenStore, ConfigError
from fedmentor.ids import Digest
from fedmentor.models import canonical_json, write_atomically

DATABASE_FILE = "ledger.sqlite"
LOCK_FILE = "ledger.lock"
KEY_FILE = "ledger.key"
KEY_BYTES = 32
SCHEMA_VERSION = 1

STORE = Store(
    "the privacy ledger",
    "fed_node.ledger",
    "schema.sql",
    SCHEMA_VERSION,
    cure="check the disk of the state folder, then start the node again",
    cure_version="use the version that made it",
)

Failpoint = Callable[[str], None]
"""Called between two steps with the name of the place; tests end the process there."""


def _go_on(_name: str) -> None:
    pass


class SqliteStore:
    """See LedgerStore. Belongs to the thread that made it.

    Args:
        folder: the site's state folder; made, readable for its owner only, if it is not there.
        read_only: look at the ledger of a node that may be running; appending raises BrokenStore.
        failpoint: called inside append() before and after the commit.

    Raises:
        ConfigError: another node writes this ledger, another version wrote it, or ``read_only`` and there is none.
        BrokenStore: the disk or the database failed.
    """

    def __init__(self, folder: Path, *, read_only: bool = False, failpoint: Failpoint = _go_on) -> None:
        self._failpoint = failpoint
        self._lock: int | None = None
        path = folder / DATABASE_FILE
        if read_only:
            if not path.is_file():
                raise ConfigError(f"{path} does not exist", cure="give the state folder of a node that has a privacy ledger")
        else:
            self._lock = _lease(folder)
        try:
            self._database = _open(path, read_only=read_only)
        except BaseException:
            self._drop_lease()
            raise

    def load(self) -> Stored:
        """See LedgerStore."""
        members: dict[Digest, set[str]] = defaultdict(set)
        with STORE.mapped():
            rows = self._database.execute(
                "SELECT seq, prev_hash, utc, actor, event, fields, hash FROM entry ORDER BY seq"
            ).fetchall()
            for cohort, tag in self._database.execute("SELECT cohort, tag FROM member"):
                members[cohort].add(tag)
        return Stored(tuple(AuditRecord(*row) for row in rows), {cohort: frozenset(tags) for cohort, tags in members.items()})

    def append(self, records: Sequence[AuditRecord], members: Mapping[Digest, Tags]) -> None:
        """See LedgerStore."""
        values = [(item.seq, item.prev_hash, item.utc, item.actor, item.event, item.fields, item.hash) for item in records]
        pairs = [(cohort, tag) for cohort, tags in members.items() for tag in sorted(tags)]
        with STORE.transaction(self._database):
            self._database.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            self._database.executemany("INSERT INTO member VALUES (?, ?)", pairs)
            self._failpoint("before commit")
        self._failpoint("after commit")

    def close(self) -> None:
        """See LedgerStore."""
        with STORE.mapped():
            self._database.close()
        self._drop_lease()

    def _drop_lease(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class FileAnchor:
    """The head in a file of its own; put it on another disk, or where backups of the state folder do not reach."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Head | None:
        """See Anchor."""
        try:
            values = json.loads(self._path.read_bytes())
            return Head(int(values["records"]), Digest(str(values["hash"])))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BrokenStore(
                f"the ledger's anchor {self._path} cannot be read", cure="restore the file; do not delete it"
            ) from error

    def write(self, head: Head) -> None:
        """See Anchor."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(self._path, canonical_json({"records": head.records, "hash": head.hash}), 0o600)
        except OSError as error:
            raise BrokenStore(f"the ledger's anchor {self._path} cannot be written: {error.strerror}") from error


def site_key(folder: Path) -> bytes:
    """The site's secret under which patients are told again; made at first use, and never to be replaced.

    Raises:
        ConfigError: the file is damaged.
        BrokenStore: it cannot be read or written.
    """
    path = folder / KEY_FILE
    try:
        if not path.exists():
            write_atomically(path, secrets.token_bytes(KEY_BYTES), 0o600)
        key = path.read_bytes()
    except OSError as error:
        raise BrokenStore(f"the ledger's key {path} cannot be used: {error.strerror}") from error
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} is not a ledger key", cure="restore it from where the state folder is backed up")
    return key


def _lease(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the state folder {folder} cannot be used: {error.strerror}", cure="name a folder that this user owns"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(f"another node writes the privacy ledger in {folder}", cure="stop it first") from error
    return lock


def _open(path: Path, *, read_only: bool) -> sqlite3.Connection:
    with STORE.mapped():
        # A database without a write-ahead log is one that nobody has open: looked at so, it gets no files beside it.
        looking = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
        target = f"{path.resolve().as_uri()}?mode={looking if read_only else 'rwc'}"
        database = sqlite3.connect(target, uri=True, isolation_level=None)
    try:
        with STORE.mapped():
            _prepare(database, path, read_only=read_only)
        if not read_only:
            path.chmod(0o600)
    except BaseException:
        database.close()
        raise
    return database


def _prepare(database: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    for pragma in () if read_only else DURABLE:
        database.execute(pragma)
    STORE.check_schema(database, path, read_only=read_only)

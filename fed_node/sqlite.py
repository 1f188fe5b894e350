"""What the node's SQLite stores have in common: errors that become ours, transactions, a schema that is whole or not there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fedmentor.errors import BrokenStore, ConfigError


@dataclass(frozen=True)
class Store:
    """A kind of store.

    Attributes:
        name: as it stands in errors, e.g. ``the site's outbox``.
        package: that the schema's file lies in.
        schema: name of that file.
        version: of the schema.
        cure: what to do where the store fails.
        cure_version: what to do where another version wrote it.
    """

    name: str
    package: str
    schema: str
    version: int
    cure: str
    cure_version: str

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """The one place where errors of SQLite and of the disk become ours.

        Raises:
            BrokenStore: in their place.
        """
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise BrokenStore(f"{self.name} failed: {error}", cure=self.cure) from error

    @contextmanager
    def transaction(self, database: sqlite3.Connection) -> Iterator[None]:
        """All of the block or nothing; it is on disk when this returns.

        Raises:
            BrokenStore: also of a failed commit, after which nothing is known about the disk, and nothing may be sent.
        """
        with self.mapped():
            database.execute("BEGIN IMMEDIATE")
        try:
            with self.mapped():
                yield
                database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def check_schema(self, database: sqlite3.Connection, path: Path, *, read_only: bool = False) -> None:
        """Make the tables of a new database, and refuse one of another version.

        Raises:
            ConfigError: another version of this program wrote it.
        """
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0 and not read_only:
            schema = files(self.package).joinpath(self.schema).read_text(encoding="utf-8")
            # One transaction: a crash leaves version 0 and no table.
            database.executescript(f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {self.version}; COMMIT;")
        elif version != self.version:
            raise ConfigError(f"{path} was written by another version of this program", cure=self.cure_version)


DURABLE = (
    "PRAGMA journal_mode = WAL",
    # A commit is on disk before it returns: what was put is there after kill -9 and after a power cut.
    "PRAGMA synchronous = FULL",
)
"""Of every connection that writes."""

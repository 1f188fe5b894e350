"""Where a ledger's entries are kept, as a port, and its twin in memory; fed_node.ledger.sqlite keeps them on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedmentor.audit import AuditRecord, Head
from fedmentor.ids import Digest

Tags = frozenset[str]
"""Patients of a cohort under the site's key."""


@dataclass(frozen=True)
class Stored:
    """Everything that a store holds."""

    records: tuple[AuditRecord, ...] = ()
    members: Mapping[Digest, Tags] = field(default_factory=dict)


class LedgerStore(Protocol):
    """Append-only memory of one writer. Both methods raise BrokenStore where the disk or the database fails."""

    def load(self) -> Stored:
        """Everything, in order; what it says is for the caller to check."""
        ...

    def append(self, records: Sequence[AuditRecord], members: Mapping[Digest, Tags]) -> None:
        """Keep records and new cohorts, all of them or nothing; on disk when it returns."""
        ...

    def close(self) -> None:
        """Let go of files and locks."""
        ...


class MemoryStore:
    """The twin that forgets everything with its process; see LedgerStore."""

    def __init__(self) -> None:
        self._stored = Stored()

    def load(self) -> Stored:
        """See LedgerStore."""
        return self._stored

    def append(self, records: Sequence[AuditRecord], members: Mapping[Digest, Tags]) -> None:
        """See LedgerStore."""
        self._stored = Stored((*self._stored.records, *records), {**self._stored.members, **members})

    def close(self) -> None:
        """See LedgerStore; nothing to do."""


class Anchor(Protocol):
    """Where the ledger's head is noted outside of the ledger, so that an older copy of the ledger is recognised."""

    def read(self) -> Head | None:
        """The head that was noted last; None before the first.

        Raises:
            BrokenStore: it cannot be read.
        """
        ...

    def write(self, head: Head) -> None:
        """Note a head, durably.

        Raises:
            BrokenStore: it cannot be written.
        """
        ...


class MemoryAnchor:
    """An anchor that lives as long as its process."""

    def __init__(self, head: Head | None = None) -> None:
        self._head = head

    def read(self) -> Head | None:
        """See Anchor."""
        return self._head

    def write(self, head: Head) -> None:
        """See Anchor."""
        self._head = head

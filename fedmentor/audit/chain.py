"""The audit trail: a chain of records, each holding the SHA-256 of the one before, so that no edit, drop or swap goes unseen.

Pure functions; a store appends the record in the same transaction as what it records. An audit trail is not a log: it holds who
did what to which object, by name and digest, and never patient data. Truncation at the end shows only against a head that was
noted elsewhere: give it to ``verify``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from math import isfinite
from typing import Any

from fedmentor.errors import DataError
from fedmentor.ids import Digest
from fedmentor.models import canonical_json

GENESIS = Digest("0" * 64)
"""``prev_hash`` of the first record."""

Field = str | int | float | bool | None
Fields = Mapping[str, Field]


@dataclass(frozen=True)
class AuditRecord:
    """One link of the chain.

    Attributes:
        seq: 0, 1, 2, ... without gaps; the order of events, whatever the clock says.
        prev_hash: hash of the record before.
        utc: ISO 8601 with timezone; for people.
        actor: who did it: ``coordinator`` or ``site ID``.
        event: what happened, e.g. ``accept_update``.
        fields: canonical JSON object of plain values.
        hash: SHA-256 over everything above.
    """

    seq: int
    prev_hash: Digest
    utc: str
    actor: str
    event: str
    fields: str
    hash: Digest


@dataclass(frozen=True)
class Head:
    """Length and last hash of a chain, as noted outside the store."""

    records: int
    hash: Digest


@dataclass(frozen=True)
class Verdict:
    """What ``verify`` found: the chain's head as far as it is sound, and where and why it is not."""

    head: Head
    first_bad: int | None = None
    reason: str = ""

    @property
    def sound(self) -> bool:
        """No record is bad and none is missing."""
        return self.first_bad is None


def next_record(head: Head, now: datetime, actor: str, event: str, fields: Fields) -> AuditRecord:
    """The record that follows ``head``; EMPTY for the first.

    Raises:
        DataError: a field is not a plain JSON value (NaN and infinity are not).
    """
    for name, value in fields.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not isfinite(value)):
            raise DataError(f"the audit field {name!r} is not a plain value")
    content = _Content(head.records, head.hash, now.isoformat(), actor, event, canonical_json(fields).decode())
    return AuditRecord(**asdict(content), hash=_hash(content))


def head_of(record: AuditRecord) -> Head:
    """The head of a chain that ends with ``record``."""
    return Head(record.seq + 1, record.hash)


EMPTY = Head(0, GENESIS)
"""The head of a chain without records."""


def fault(head: Head, record: AuditRecord) -> str:
    """Why ``record`` cannot follow ``head``; empty where it can.

    1. its number is the next one; 2. it names the hash of the record before; 3. its hash is that of its content.
    """
    if record.seq != head.records:
        return f"record {head.records} is missing; record {record.seq} stands in its place"
    if record.prev_hash != head.hash:
        return f"record {head.records} does not follow the record before it"
    if record.hash != _hash(_Content(record.seq, record.prev_hash, record.utc, record.actor, record.event, record.fields)):
        return f"record {head.records} was changed"
    return ""


def verify(records: Iterable[AuditRecord], expected: Head | None = None) -> Verdict:
    """Check a chain from its start; streams, and stops at the first bad record.

    1. each record can follow the one before (see ``fault``);
    2. with ``expected``: the chain is at least that long and had that hash there.
    """
    head = EMPTY
    anchored = expected is None or expected == EMPTY
    for position, record in enumerate(records):
        reason = fault(head, record)
        if reason:
            return Verdict(head, position, reason)
        head = head_of(record)
        if expected and head.records == expected.records:
            if head.hash != expected.hash:
                return Verdict(head, position, f"record {position} is not the one that was noted elsewhere")
            anchored = True
    if not anchored:
        return Verdict(head, head.records, f"the chain ends after {head.records} records; a longer one was noted elsewhere")
    return Verdict(head)


def values_of(record: AuditRecord) -> dict[str, Field]:
    """The fields of a record as values; empty where they are not a JSON object of plain values, which no writer here makes."""
    try:
        values = json.loads(record.fields)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | None)}


def record_to_line(record: AuditRecord) -> str:
    """One line of JSON, for export."""
    return canonical_json(asdict(record)).decode()


def record_from_line(line: str) -> AuditRecord:
    """Read an exported record; ``verify`` tells whether it is true.

    Raises:
        DataError: not a record.
    """
    try:
        values: Any = json.loads(line)
        record = AuditRecord(**values)
        canonical_json(values)  # a lone surrogate has no UTF-8 form and so no hash
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError("a line of the audit file is not an audit record") from error
    texts = (record.prev_hash, record.utc, record.actor, record.event, record.fields, record.hash)
    if type(record.seq) is not int or not all(isinstance(text, str) for text in texts):
        raise DataError("a line of the audit file is not an audit record")
    return record


@dataclass(frozen=True)
class _Content:
    seq: int
    prev_hash: Digest
    utc: str
    actor: str
    event: str
    fields: str


def _hash(content: _Content) -> Digest:
    return Digest(hashlib.sha256(canonical_json(asdict(content))).hexdigest())

"""An audit trail in one file, so that it can be checked without the coordinator's database. JSON lines, in this order::

    {"export":1,"run":"RUN"}
    {"actor":...,"event":...,"fields":...,"hash":...,"prev_hash":...,"seq":0,"utc":...}     every record
    {"checkpoint":{...},"signature":"base64"}                                            every checkpoint, by length
    {"countersignature":"base64","records":N,"site":"SITE"}                               every countersignature, by length and site
    {"end":{"checkpoints":C,"countersignatures":S,"records":R}}

Every line is canonical JSON: a record's line without its ``hash`` is what was hashed, and the object after ``"checkpoint":`` is
what was signed. docs/audit.md shows how to check both with sha256sum and openssl.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from fedmentor.audit.chain import AuditRecord, record_from_line, record_to_line
from fedmentor.audit.checkpoint import Countersignature, SignedCheckpoint, signed_checkpoint
from fedmentor.errors import ConfigError, DataError
from fedmentor.ids import RunId, run_id, site_id
from fedmentor.models import canonical_json

EXPORT_VERSION: Final = 1

MAX_LINE_CHARACTERS: Final = 1 << 20
"""Far above the longest line that is ever written, the first record of a run with thousands of sites; nothing longer is parsed."""


@dataclass(frozen=True)
class AuditTrail:
    """Everything that an audit of one run is made of.

    Attributes:
        run: whose.
        records: the chain.
        checkpoints: sorted by length.
        countersignatures: sorted by length and site.
    """

    run: RunId
    records: tuple[AuditRecord, ...]
    checkpoints: tuple[SignedCheckpoint, ...] = ()
    countersignatures: tuple[Countersignature, ...] = ()


def export_lines(trail: AuditTrail) -> Iterator[str]:
    """The lines of an export, without line ends."""
    yield _line({"export": EXPORT_VERSION, "run": trail.run})
    yield from map(record_to_line, trail.records)
    yield from map(checkpoint_to_line, trail.checkpoints)
    yield from map(countersignature_to_line, trail.countersignatures)
    yield _line({"end": _counts(trail)})


def trail_from_lines(lines: Iterable[str]) -> AuditTrail:
    """Read an export; ``review`` tells whether it is true.

    1. the first line says that it is one; 2. every line is a record, a checkpoint or a countersignature, in that order and in its
    canonical form; 3. the last line counts them right, and nothing follows it.

    Raises:
        DataError: one of these does not hold; names the line and, where that is a record's, the record.
    """
    draft = _Draft()
    for number, line in enumerate(lines, 1):
        try:
            draft.take(line.removesuffix("\n"))
        except DataError as error:
            raise DataError(f"line {number} of the export: {error.message}", cure=error.cure) from error
    return draft.finished()


def checkpoint_to_line(signed: SignedCheckpoint) -> str:
    """One line of JSON."""
    content = json.loads(signed.checkpoint.to_bytes())
    return _line({"checkpoint": content, "signature": b64encode(signed.signature).decode()})


def checkpoint_from_line(line: str) -> SignedCheckpoint:
    """Read a line of ``checkpoint_to_line``.

    Raises:
        DataError: it is none.
    """
    values = _values(line)
    content, signature = values.get("checkpoint"), _decoded(values.get("signature"))
    if not isinstance(content, dict) or signature is None:
        raise DataError("not a checkpoint with its signature")
    try:
        encoded = canonical_json(content)
    except ValueError as error:  # JSON can spell half of a surrogate pair, and numbers that are none
        raise DataError("not a checkpoint with its signature") from error
    signed = signed_checkpoint(encoded, signature)
    _check_canonical(line, checkpoint_to_line(signed))
    return signed


def countersignature_to_line(countersignature: Countersignature) -> str:
    """One line of JSON."""
    signature = b64encode(countersignature.signature).decode()
    return _line({"countersignature": signature, "records": countersignature.records, "site": countersignature.site})


def countersignature_from_line(line: str) -> Countersignature:
    """Read a line of ``countersignature_to_line``.

    Raises:
        DataError: it is none.
    """
    values = _values(line)
    records, site, signature = values.get("records"), values.get("site"), _decoded(values.get("countersignature"))
    if type(records) is not int or not isinstance(site, str) or signature is None:
        raise DataError("not a countersignature")
    try:
        countersignature = Countersignature(records, site_id(site), signature)
    except ConfigError as error:
        raise DataError("not a countersignature") from error
    _check_canonical(line, countersignature_to_line(countersignature))
    return countersignature


@dataclass
class _Draft:
    run: RunId | None = None
    records: list[AuditRecord] = field(default_factory=list)
    checkpoints: list[SignedCheckpoint] = field(default_factory=list)
    countersignatures: list[Countersignature] = field(default_factory=list)
    ended: bool = False

    def take(self, line: str) -> None:
        if len(line) > MAX_LINE_CHARACTERS:
            raise DataError("too long for any line of an export")
        if self.ended:
            raise DataError("something follows the end")
        if self.run is None:
            self.run = _run_of(line)
        elif line.startswith('{"actor":'):
            self._take_record(line)
        elif line.startswith('{"checkpoint":'):
            self._take_checkpoint(line)
        elif line.startswith('{"countersignature":'):
            self.countersignatures.append(countersignature_from_line(line))
        else:
            _check_canonical(line, _line({"end": _counts(self)}), "neither a record, a checkpoint, a countersignature nor the end")
            self.ended = True

    def _take_record(self, line: str) -> None:
        where = f"record {len(self.records)}"
        if self.checkpoints or self.countersignatures:
            raise DataError("a record stands behind the checkpoints")
        try:
            record = record_from_line(line)
            _check_canonical(line, record_to_line(record))
        except DataError as error:
            raise DataError(f"{where} was changed: {error.message}") from error
        self.records.append(record)

    def _take_checkpoint(self, line: str) -> None:
        if self.countersignatures:
            raise DataError("a checkpoint stands behind the countersignatures")
        self.checkpoints.append(checkpoint_from_line(line))

    def finished(self) -> AuditTrail:
        if self.run is None:
            raise DataError("the file is empty", cure="make an export with `fedmentor audit export`")
        if not self.ended:
            raise DataError("the export has no end: lines are missing", cure="copy the file again")
        return AuditTrail(self.run, tuple(self.records), tuple(self.checkpoints), tuple(self.countersignatures))


def _run_of(line: str) -> RunId:
    values = _values(line)
    run = values.get("run")
    if values.get("export") != EXPORT_VERSION or not isinstance(run, str):
        raise DataError("this is not an audit export", cure="make one with `fedmentor audit export`")
    try:
        found = run_id(run)
    except ConfigError as error:
        raise DataError("this is not an audit export of any run") from error
    _check_canonical(line, _line({"export": EXPORT_VERSION, "run": found}))
    return found


def _counts(trail: AuditTrail | _Draft) -> dict[str, int]:
    return {
        "checkpoints": len(trail.checkpoints),
        "countersignatures": len(trail.countersignatures),
        "records": len(trail.records),
    }


def _line(values: dict[str, Any]) -> str:
    return canonical_json(values).decode()


def _values(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError("not a line of JSON") from error
    if not isinstance(values, dict):
        raise DataError("not a JSON object")
    return values


def _decoded(text: object) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return None


def _check_canonical(line: str, expected: str, otherwise: str = "not in its canonical form") -> None:
    """Two spellings of one value would let an edit go unseen."""
    if line != expected:
        raise DataError(otherwise)

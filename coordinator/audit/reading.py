"""Reading an audit trail: from a coordinator's state folder, running or not, or from an export; and writing an export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from coordinator.store.journal import Transaction
from coordinator.store.sqlite import JOURNAL_FILE, SqliteJournal
from fedmentor.audit.checkpoint import SignedCheckpoint
from fedmentor.audit.export import MAX_LINE_CHARACTERS, AuditTrail, checkpoint_from_line, export_lines, trail_from_lines
from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError, DataError
from fedmentor.ids import RunId
from fedmentor.models import write_atomically

MAX_FILE_BYTES = 1 << 31
"""Largest export that is read: a few million records."""

_CURE = "give a coordinator's state folder, or a file from `fedmentor audit export`"


def read_trail(source: Path) -> AuditTrail:
    """The audit trail in a state folder or an export; whether it is true is for ``review`` to tell.

    Raises:
        ConfigError: nothing is there, or it cannot be read.
        DataError: the export is malformed.
        BrokenStore: the journal cannot be read.
    """
    if not source.is_dir():
        return trail_from_lines(_lines(source))
    journal = SqliteJournal(source / JOURNAL_FILE, SystemClock(), read_only=True)
    try:
        return journal.run_tx("read_audit", _trail)
    finally:
        journal.close()


def write_export(trail: AuditTrail, file: Path) -> None:
    """Write an export; the file is whole or not there.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(file, "".join(f"{line}\n" for line in export_lines(trail)).encode())


def read_checkpoints(file: Path, run: RunId) -> tuple[SignedCheckpoint, ...]:
    """The checkpoints of a run in a file of JSON lines, of which the others are skipped: a site's note, its evidence, or an export.

    Raises:
        ConfigError: the file cannot be read.
        DataError: a checkpoint in it is malformed, or there is none of this run.
    """
    found = tuple(checkpoint_from_line(line) for line in _lines(file) if line.startswith('{"checkpoint":'))
    of_run = tuple(signed for signed in found if signed.checkpoint.run == run)
    if not of_run:
        raise DataError(f"{file} holds no checkpoint of run {run}", cure="give what `fedmentor node checkpoint` prints at a site")
    return of_run


def _trail(tx: Transaction) -> AuditTrail:
    manifest = tx.manifest()
    if manifest is None:
        raise DataError("the journal holds no run yet")
    return AuditTrail(manifest.run, tx.audit_records(), tx.checkpoints(), tx.countersignatures())


def _lines(file: Path) -> Iterator[str]:
    """Lines without their ends, read as they are asked for; none is longer than one can be."""
    try:
        with file.open("rb") as stream:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise DataError(f"{file} is over {MAX_FILE_BYTES} bytes", cure=_CURE)
            while line := stream.readline(4 * MAX_LINE_CHARACTERS + 1):
                yield line.decode().removesuffix("\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", cure=_CURE) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text", cure=_CURE) from error

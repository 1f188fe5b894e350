"""Marks of secure aggregation on this site's disk: one line each, fsynced before the answer that it belongs to leaves.

See fedmentor.secagg.memory for what they keep the site from. A torn last line belongs to an answer that never left, and is cut off.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from fedmentor.disk import sync_path
from fedmentor.errors import BrokenStore
from fedmentor.federation import RoundRef
from fedmentor.ids import Digest, RunId
from fedmentor.secagg.memory import Mark, Persist, SiteMemory, persist_from_line, persist_to_line

MARKS_FILE = "secagg-marks.jsonl"


class Marks(Protocol):
    """What a site must not forget; only one node at a time, which the outbox's lock sees to."""

    def memory(self, run: RunId) -> SiteMemory:
        """The sum of a run's marks."""
        ...

    def uploaded(self, ref: RoundRef) -> Digest | None:
        """SHA-256 of the masked words that this site was about to send in an attempt; None where there were none."""
        ...

    def reveals_from(self, model: Digest) -> tuple[RunId, ...]:
        """Runs in which this site helped to open a sum of updates from this model, once for each time."""
        ...

    def keep(self, persist: Persist) -> None:
        """Keep a mark; it is on disk when this returns. One that is kept already changes nothing.

        Raises:
            BrokenStore: it is not on disk, and what it belongs to must not be sent.
        """
        ...


class MemoryMarks:
    """The twin that forgets everything with its process; see Marks."""

    def __init__(self, kept: Iterable[Persist] = ()) -> None:
        self._kept = dict.fromkeys(kept)

    def memory(self, run: RunId) -> SiteMemory:
        """See Marks."""
        memory = SiteMemory(run)
        for persist in self._kept:
            memory = memory.after(persist)
        return memory

    def uploaded(self, ref: RoundRef) -> Digest | None:
        """See Marks."""
        here = (ref.run, ref.round, ref.attempt)
        found = (one.digest for one in self._kept if one.mark is Mark.UPLOADED and (one.run, one.round, one.attempt) == here)
        return next(found, None)

    def reveals_from(self, model: Digest) -> tuple[RunId, ...]:
        """See Marks."""
        return tuple(persist.run for persist in self._kept if persist.model == model)

    def keep(self, persist: Persist) -> None:
        """See Marks."""
        self._kept[persist] = None


class FileMarks(MemoryMarks):
    """An append-only file; see Marks.

    Args:
        folder: the node's state folder, whose lock this node holds.

    Raises:
        BrokenStore: the file cannot be read, or a line of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / MARKS_FILE
        try:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            sync_path(folder)
        except OSError as error:
            raise _broken(error) from error
        try:
            super().__init__(self._read())
        except BaseException:
            os.close(self._handle)
            raise

    def keep(self, persist: Persist) -> None:
        """See Marks."""
        if persist in self._kept:
            return
        try:
            _write(self._handle, persist_to_line(persist) + b"\n")
        except OSError as error:
            raise _broken(error) from error
        super().keep(persist)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def _read(self) -> list[Persist]:
        try:
            data = self._path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.ftruncate(self._handle, whole)
                os.fsync(self._handle)
        except OSError as error:
            raise _broken(error) from error
        return [persist_from_line(line) for line in data[:whole].splitlines()]


def _write(handle: int, line: bytes) -> None:
    """Write a whole line and fsync it; a part of it, on a disk that is full, counts as none."""
    if os.write(handle, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(handle)


def _broken(error: OSError) -> BrokenStore:
    return BrokenStore(
        f"the site's marks of secure aggregation failed: {error.strerror}",
        cure="check the disk of the state folder, then start again",
    )

"""Telling a failing disk from a path that cannot be used, and finding out before the work rather than after it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FAILING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def disk_failed(error: OSError) -> bool:
    """Whether the disk is full or broken, so that no other path on it would do; everything else is about the path."""
    return error.errno in _FAILING


def check_writable(folder: Path) -> None:
    """Refuse a folder for results in which nothing could be written once they are there. Makes nothing.

    Raises:
        OSError: names the part of the path that is in the way.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def sync_path(path: Path) -> None:
    """Fsync a file or a folder.

    Raises:
        OSError: what was written there may not be on disk.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

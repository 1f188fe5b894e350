"""The folder of one study: emptied of an earlier study before anything is written, and held while the study runs."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmentor.errors import ConfigError

PLAN_FILE = "plan.json"
"""Names a folder as one that a study wrote and may replace."""

LOCK_FILE = "lock"
"""Held by the running study; the kernel drops it with the process."""

_PLAN_KEYS = {"initialisations", "partition", "rounds"}
_OTHER = "choose another folder with --out"


@contextmanager
def study_folder(folder: Path) -> Iterator[None]:
    """Make an empty folder, remove what an earlier study left in it, and keep other studies out while the block runs.

    Raises:
        ConfigError: it holds something that no study wrote, or another study is running in it; nothing is touched.
    """
    refuse_strangers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another study is running in {folder}", cure=_OTHER) from error
        _clear(folder)
        yield


def refuse_strangers(folder: Path) -> None:
    """Refuse a folder with something in it that no study wrote.

    Raises:
        ConfigError: nothing is touched.
    """
    if not folder.exists():
        return
    entries = {entry.name for entry in folder.iterdir()}
    if entries <= {LOCK_FILE}:
        return
    try:
        plan = json.loads((folder / PLAN_FILE).read_bytes())
    except (OSError, ValueError):
        plan = None
    if not isinstance(plan, dict) or not plan.keys() >= _PLAN_KEYS:
        raise ConfigError(f"{folder} is not empty and was not written by a study", cure=_OTHER)


def _clear(folder: Path) -> None:
    """Everything but the lock, and not the folder itself: it may be a mounted disk or a link to one.

    The plan goes last, so that a folder that could not be cleared is still known for what it is.
    """
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name == PLAN_FILE)
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK_FILE:
            entry.unlink()

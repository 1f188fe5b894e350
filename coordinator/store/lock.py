"""One coordinator a state folder: an advisory lock that the kernel drops when the process dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmentor.errors import ConfigError


@contextmanager
def state_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for this process.

    Raises:
        ConfigError: another process holds it.
    """
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another coordinator is using {folder}", cure="stop it first, or give another --state folder"
            ) from error
        yield

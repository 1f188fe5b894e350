"""Reading small files of bounded size: keys, certificates, signed documents, requests."""

from __future__ import annotations

from pathlib import Path

from fedmentor.errors import ConfigError


def read_bounded(path: Path, limit: int, cure: str) -> bytes:
    """All bytes of a file, of which no more than ``limit`` are ever held.

    Raises:
        ConfigError: it cannot be read, or is over ``limit`` bytes; ``cure`` says what to do.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", cure=cure) from error
    if len(data) > limit:
        raise ConfigError(f"{path} is over {limit} bytes", cure=cure)
    return data

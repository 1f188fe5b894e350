"""Events as structured log lines (logfmt): names, numbers and public sentences. Not the audit chain: that is fedmentor.audit."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import structlog

from coordinator.events import CallFailed, Event, Observer, UpdateRefused

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
_WARNINGS = (UpdateRefused, CallFailed)


@contextmanager
def event_log(file: Path | None) -> Iterator[Observer]:
    """A function that logs events: to the end of ``file``, or to standard error."""
    if file is None:
        yield _observer(sys.stderr)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        yield _observer(stream)


def _observer(stream: Any) -> Observer:
    # A logger of its own: structlog's global configuration belongs to whoever embeds this.
    logger: Any = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
    )

    def observe(event: Event) -> None:
        write = logger.warning if isinstance(event, _WARNINGS) else logger.info
        write(_WORD.sub("_", type(event).__name__).lower(), **_flat(event))

    return observe


def _flat(value: Any) -> dict[str, Any]:
    """Fields of a dataclass, those of nested ones side by side, enumerations by value, empty ones left out."""
    flat: dict[str, Any] = {}
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner):
            flat |= _flat(inner)
        elif inner not in (None, ""):
            flat[item.name] = inner.value if isinstance(inner, Enum) else inner
    return flat

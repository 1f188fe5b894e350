"""Events as structured log lines (logfmt): names, numbers and sentences, never tensors or images. Not the audit trail."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import structlog

from fedmentor.text import one_line

MAX_VALUE_CHARACTERS = 10_000
"""Of one value; a traceback fits."""

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def event_logger(stream: Any, warnings: tuple[type, ...], **bound: str) -> Callable[[object], None]:
    """A function that writes events as lines like ``level=info event=update_accepted site=a round=0``.

    Args:
        stream: a text file.
        warnings: events of these classes are warnings.
        bound: fields of every line.

    Returns:
        Takes any dataclass; its class gives the event its name.
    """
    # A logger of its own: structlog's global configuration belongs to whoever embeds this.
    logger: Any = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
    ).bind(**bound)

    def log(event: object) -> None:
        write = logger.warning if isinstance(event, warnings) else logger.info
        write(_WORD.sub("_", type(event).__name__).lower(), **flat_fields(event))

    return log


def flat_fields(value: Any) -> dict[str, Any]:
    """Fields of a dataclass, those of nested ones side by side, enumerations by value, empty ones left out, strings in one line."""
    flat: dict[str, Any] = {}
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner):
            flat |= flat_fields(inner)
        elif inner not in (None, ""):
            flat[item.name] = _plain(inner.value if isinstance(inner, Enum) else inner)
    return flat


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Line ends stay, as the two characters that the renderer makes of them: tracebacks have some.
    return "\n".join(one_line(line, MAX_VALUE_CHARACTERS) for line in value[:MAX_VALUE_CHARACTERS].split("\n"))

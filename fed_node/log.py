"""A session's events as structured log lines on standard error: names, numbers and sentences, never tensors or images."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import structlog

from fed_node.events import LinkLost, SessionEvent, Skipped

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


def event_log(site: str) -> Callable[[SessionEvent], None]:
    """A function that logs events of one site, as ``round_skipped site=... round=...`` in logfmt."""
    logger: Any = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        site=site,
    )

    def log(event: SessionEvent) -> None:
        level = "warning" if isinstance(event, Skipped | LinkLost) else "info"
        logger.log(_LEVELS[level], _WORD.sub("_", type(event).__name__).lower(), **flat_fields(event))

    return log


_LEVELS = {"info": 20, "warning": 30}


def flat_fields(value: Any) -> dict[str, Any]:
    """Fields of a dataclass, those of nested ones side by side, enumerations by value."""
    flat: dict[str, Any] = {}
    for item in fields(value):
        inner = getattr(value, item.name)
        if is_dataclass(inner):
            flat |= flat_fields(inner)
        else:
            flat[item.name] = inner.value if isinstance(inner, Enum) else inner
    return flat

"""Where the coordinator's events are logged."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.events import (
    CallFailed,
    CertificateRefused,
    DenyListRefused,
    Observer,
    RenewalFailed,
    TrailUnsigned,
    UpdateRefused,
)
from fedmentor.log import event_logger

_WARNINGS = (UpdateRefused, CallFailed, CertificateRefused, DenyListRefused, RenewalFailed, TrailUnsigned)


@contextmanager
def event_log(file: Path | None) -> Iterator[Observer]:
    """A function that logs events: to the end of ``file``, or to standard error."""
    if file is None:
        yield event_logger(sys.stderr, _WARNINGS)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        yield event_logger(stream, _WARNINGS)

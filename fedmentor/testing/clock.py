"""A clock that a test turns by hand."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone


class ManualClock:
    """A fedmentor.clock.Clock that stands still until it is told to move; safe to share between threads.

    ``advance`` moves wall-clock and monotonic time together; ``set_now`` moves the wall clock alone, as a wrong NTP server would.
    """

    def __init__(self, now: datetime = datetime(2026, 1, 1, tzinfo=timezone.utc)) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._monotonic_s = 0.0

    def now(self) -> datetime:
        """See fedmentor.clock.Clock."""
        with self._lock:
            return self._now

    def monotonic_s(self) -> float:
        """See fedmentor.clock.Clock."""
        with self._lock:
            return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: monotonic time does not go back.
        """
        if seconds < 0:
            raise ValueError("monotonic time does not go back")
        with self._lock:
            self._now += timedelta(seconds=seconds)
            self._monotonic_s += seconds

    def set_now(self, now: datetime) -> None:
        """Set the wall clock, forwards or backwards; monotonic time does not notice."""
        with self._lock:
            self._now = now

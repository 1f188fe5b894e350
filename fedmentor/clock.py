"""Time as an argument: services take a Clock, tests give them one they can turn by hand (fedmentor.testing.ManualClock)."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Protocol


class Clock(Protocol):
    """Wall-clock time for records and monotonic time for deadlines; the two are never mixed."""

    def now(self) -> datetime:
        """Timezone-aware UTC time, for audit rows and certificates."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary start, never going back, for deadlines."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """See Clock."""
        return datetime.now(timezone.utc)

    def monotonic_s(self) -> float:
        """See Clock."""
        return time.monotonic()

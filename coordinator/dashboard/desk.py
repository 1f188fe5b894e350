"""Makes ``status.json``, and not more often than the machine can spare: the run comes first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from coordinator.dashboard.reading import read
from coordinator.dashboard.sightings import Sightings
from coordinator.dashboard.view import Live, status_of
from coordinator.progress import Progress
from coordinator.store.journal import Journal
from fedmentor.clock import Clock
from fedmentor.ids import SiteId

FRESH_SECONDS = 1.0
"""An answer is given again for so long."""

REST_PER_WORK = 10.0
"""Or for so many times the time that it took to make: however long a run and however many clients, this takes a tenth of a core."""


class StatusDesk:
    """The latest status; safe to share between threads.

    Args:
        opened: gives the journal for one look, over a connection of its own: the driver never waits for a reader.
        live: gives what is known beside it.
        clock: for how long an answer is fresh.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[Journal]], live: Callable[[], Live], clock: Clock) -> None:
        self._opened = opened
        self._live = live
        self._clock = clock
        self._lock = threading.Lock()
        self._until_s: float | None = None
        self._latest: bytes | Exception = b""

    def status(self) -> bytes:
        """The status as JSON.

        Raises:
            FedMentorError: the journal cannot be read.
        """
        with self._lock:
            begun_s = self._clock.monotonic_s()
            if self._until_s is None or begun_s >= self._until_s:
                self._latest = self._made()
                now_s = self._clock.monotonic_s()
                self._until_s = now_s + max(FRESH_SECONDS, REST_PER_WORK * (now_s - begun_s))
            if isinstance(self._latest, Exception):
                raise self._latest
            return self._latest

    def _made(self) -> bytes | Exception:
        try:
            with self._opened() as journal:
                reading = journal.run_tx("read_status", read)
            return status_of(reading, self._live()).model_dump_json().encode()
        except Exception as error:  # noqa: BLE001 - raised for whoever asks; what fails costs no more than what does not
            return error


def live_now(
    progress: Progress, sightings: Sightings, roster: Collection[SiteId], clock: Clock, beside: Live
) -> Callable[[], Live]:
    """A function that gives what is known beside the journal whenever it is called.

    Args:
        beside: what does not change while this process runs.
    """

    def live() -> Live:
        moment = progress.now()
        return replace(
            beside,
            now=clock.now(),
            state=moment.state,
            phase_elapsed_s=moment.phase_elapsed_s,
            sightings=sightings.of(roster),
        )

    return live

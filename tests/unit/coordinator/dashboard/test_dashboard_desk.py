"""How often a status is made, and what happens where the journal cannot be read."""

from __future__ import annotations

import pytest

from coordinator.dashboard.desk import FRESH_SECONDS, REST_PER_WORK, StatusDesk
from coordinator.dashboard.status import Status
from coordinator.dashboard.view import Live
from coordinator.store.memory import MemoryJournal
from fedmentor.errors import BrokenStore
from fedmentor.testing.clock import ManualClock


class Opened:
    """Gives a journal, counts how often, and takes its time."""

    def __init__(self, clock, seconds=0.0):
        self.journal, self.clock, self.seconds, self.count = MemoryJournal(clock), clock, seconds, 0

    def __call__(self):
        """See StatusDesk."""
        return self

    def __enter__(self):
        self.count += 1
        self.clock.advance(self.seconds)
        return self.journal

    def __exit__(self, *_):
        return None


@pytest.mark.parametrize(("work_s", "rest_s"), [(0.0, FRESH_SECONDS), (3.0, 3.0 * REST_PER_WORK)])
def test_a_status_is_made_no_more_often_than_the_machine_can_spare(work_s, rest_s):
    clock = ManualClock()
    opened = Opened(clock, work_s)
    desk = StatusDesk(opened, lambda: Live(clock.now()), clock)
    first = desk.status()
    clock.advance(rest_s * 0.9)
    assert desk.status() == first
    clock.advance(rest_s * 0.2)
    assert desk.status() != first
    assert opened.count == 2


def test_a_journal_that_cannot_be_read_is_told_and_tried_again():
    clock = ManualClock()
    opened = Opened(clock)
    opened.journal.close()
    desk = StatusDesk(opened, lambda: Live(clock.now()), clock)
    for _ in range(2):
        with pytest.raises(BrokenStore):
            desk.status()
    assert opened.count == 1
    opened.journal = MemoryJournal(clock)
    clock.advance(FRESH_SECONDS)
    assert Status.model_validate_json(desk.status()).run is None


def test_a_status_that_a_bug_prevents_is_not_tried_more_often_either():
    clock = ManualClock()
    opened = Opened(clock, 1.0)
    desk = StatusDesk(opened, lambda: 1 // 0, clock)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            desk.status()
    assert opened.count == 1

"""The clock that a test turns, and the machine's own."""

from datetime import timedelta, timezone

import pytest

from fedmentor.clock import SystemClock
from fedmentor.testing.clock import ManualClock


def test_a_manual_clock_stands_still_until_it_is_moved():
    clock = ManualClock()
    begin = clock.now()
    assert (clock.now(), clock.monotonic_s()) == (begin, 0.0)
    clock.advance(2.5)
    assert (clock.now(), clock.monotonic_s()) == (begin + timedelta(seconds=2.5), 2.5)


def test_the_wall_clock_may_jump_and_monotonic_time_does_not_notice():
    clock = ManualClock()
    clock.set_now(clock.now() - timedelta(days=1))
    assert clock.monotonic_s() == 0.0
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_the_system_clock_is_utc_and_monotonic():
    clock = SystemClock()
    assert clock.now().tzinfo is timezone.utc
    first = clock.monotonic_s()
    assert clock.monotonic_s() >= first

"""The line to systemd, heard at the other end of a real socket."""

from __future__ import annotations

import socket

import pytest

from fedmentor.supervisor import READY, Supervisor
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.supervisor import listening

PROCESS = 77


def test_a_status_is_one_line_and_may_say_ready():
    with listening() as systemd:
        line = systemd.supervisor()
        line.status("round 3\nof 8")
        line.status("listening", ready=True)
        line.status("")
        first, second = systemd.heard()
    assert first.startswith("STATUS=round 3")
    assert "\n" not in first
    assert second == "READY=1\nSTATUS=listening"


def test_a_sign_of_life_comes_at_half_the_interval():
    with listening() as systemd:
        line = systemd.supervisor(PROCESS, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(PROCESS))
        for _ in range(21):
            line.alive()
            systemd.clock.advance(1.0)
        assert systemd.heard() == ["WATCHDOG=1"] * 5


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "junk"}, {"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1"}])
def test_nobody_asked_for_signs_of_life(more):
    with listening() as systemd:
        systemd.supervisor(PROCESS, **more).alive()
        assert systemd.heard() == []


def test_without_systemd_nothing_happens(tmp_path):
    Supervisor({}, ManualClock(), PROCESS).tell(READY)
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, ManualClock(), PROCESS).tell(READY)


def test_an_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0fedmentor-test-{id(line)}")
        line.setblocking(False)
        Supervisor({"NOTIFY_SOCKET": "@" + line.getsockname()[1:].decode()}, ManualClock(), PROCESS).tell(READY)
        assert line.recv(100) == READY.encode()

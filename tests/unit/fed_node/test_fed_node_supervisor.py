"""The line to systemd, heard at the other end of a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fed_node.events import DataRead, Delivered, Joined, LinkLost, RunOver, Waiting
from fed_node.supervisor import STOPPING, Supervisor, status_of
from fedmentor.federation import Outcome, RoundRef
from fedmentor.ids import Attempt, Digest, Round, RunId
from fedmentor.testing.clock import ManualClock

JOINED = Joined(RunId("run"), Digest("ab" * 32), 10, 4)
PROCESS = 77


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.setblocking(False)
        yield line


def heard(line: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(line.recv(4096).decode())
        except BlockingIOError:
            return said


def made(tmp_path: Path, clock: ManualClock | None = None, **more: str) -> Supervisor:
    return Supervisor({"NOTIFY_SOCKET": str(tmp_path / "notify"), **more}, clock or ManualClock(), PROCESS)


def test_a_node_is_ready_once_it_has_joined(systemd, tmp_path):
    line = made(tmp_path)
    for event in (DataRead(7, 2, 5, ""), JOINED, Waiting("for more sites")):
        line.observe(event)
    line.tell(STOPPING)
    assert heard(systemd) == [
        "STATUS=7 images to train on, 2 held out; connecting",
        "READY=1\nSTATUS=in run run of 10 rounds",
        "STATUS=waiting: for more sites",
        "STOPPING=1",
    ]


def test_what_a_coordinator_says_is_one_line_of_status(systemd, tmp_path):
    made(tmp_path).observe(RunOver(Outcome.FAILED, "x\nREADY=1"))
    (said,) = heard(systemd)
    assert "\n" not in said


def test_a_sign_of_life_comes_at_half_the_interval(systemd, tmp_path):
    clock = ManualClock()
    line = made(tmp_path, clock, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(PROCESS))
    for _ in range(21):
        line.alive()
        clock.advance(1.0)
    assert heard(systemd) == ["WATCHDOG=1"] * 5


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "junk"}, {"WATCHDOG_USEC": "10", "WATCHDOG_PID": "1"}])
def test_nobody_asked_for_signs_of_life(systemd, tmp_path, more):
    made(tmp_path, **more).alive()
    assert heard(systemd) == []


def test_without_systemd_nothing_happens(tmp_path):
    Supervisor({}, ManualClock(), PROCESS).observe(JOINED)
    Supervisor({"NOTIFY_SOCKET": str(tmp_path / "nobody")}, ManualClock(), PROCESS).observe(JOINED)


def test_an_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(f"\0fedmentor-test-{id(line)}")
        line.setblocking(False)
        Supervisor({"NOTIFY_SOCKET": "@" + line.getsockname()[1:].decode()}, ManualClock(), PROCESS).observe(JOINED)
        assert heard(line)


def test_every_event_is_a_line_or_nothing():
    ref = RoundRef(RunId("run"), Round(3), Attempt(1))
    assert status_of(Delivered(ref, 1, 2, 3.0, again=False)) == "run run, round 3: delivered"
    assert status_of(LinkLost("no route", 1.0)) == "the coordinator is away: no route"

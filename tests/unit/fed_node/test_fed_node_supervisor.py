"""What systemd hears of a node, at the other end of a real socket."""

from __future__ import annotations

from fed_node.events import DataRead, Delivered, Joined, LinkLost, RunOver, Waiting
from fed_node.supervisor import status_of, told
from fedmentor.federation import Outcome, RoundRef
from fedmentor.ids import Attempt, Digest, Round, RunId
from fedmentor.supervisor import STOPPING
from fedmentor.testing.supervisor import listening

JOINED = Joined(RunId("run"), Digest("ab" * 32), 10, 4)


def test_a_node_is_ready_once_it_has_joined():
    with listening() as systemd:
        for event in (DataRead(7, 2, 5, ""), JOINED, Waiting("for more sites")):
            told(systemd.supervisor())(event)
        systemd.supervisor().tell(STOPPING)
        assert systemd.heard() == [
            "STATUS=7 images to train on, 2 held out; connecting",
            "READY=1\nSTATUS=in run run of 10 rounds",
            "STATUS=waiting: for more sites",
            "STOPPING=1",
        ]


def test_what_a_coordinator_says_is_one_line_of_status():
    with listening() as systemd:
        told(systemd.supervisor())(RunOver(Outcome.FAILED, "x\nREADY=1"))
        (said,) = systemd.heard()
    assert "\n" not in said


def test_every_event_is_a_line_or_nothing():
    ref = RoundRef(RunId("run"), Round(3), Attempt(1))
    assert status_of(Delivered(ref, 1, 2, 3.0, again=False)) == "run run, round 3: delivered"
    assert status_of(LinkLost("no route", 1.0)) == "the coordinator is away: no route"

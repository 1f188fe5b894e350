"""A round's line, for people and scripts, and the log's lines."""

from __future__ import annotations

import json

import pytest

from fed_node.events import Delivered, Joined, LinkLost, RunOver, Scored, Skipped, Trained, Waiting
from fed_node.lines import RoundLine, RoundLines, over_line
from fed_node.log import event_log
from fed_node.trainer import LocalScores
from fedmentor.federation import Outcome, RoundRef
from fedmentor.ids import Attempt, Digest, Round, RunId

JOINED = Joined(RunId("run"), Digest("a" * 64), rounds=2, sites=4)
SCORES = LocalScores(3, 4, 0.8, 0.7, 12.5, 0)


def ref(number: int, attempt: int = 1) -> RoundRef:
    return RoundRef(RunId("run"), Round(number), Attempt(attempt))


def test_a_round_becomes_one_line_when_it_is_delivered():
    lines = RoundLines()
    events = [JOINED, Waiting("soon"), Scored(ref(0), SCORES), Trained(ref(0), 0.5, 40, 9.0)]
    assert [lines.line(event) for event in events] == [None] * 4
    line = lines.line(Delivered(ref(0), 2_000_000, 2_000_004, 10.0, again=False))
    assert line == RoundLine(0, 1, 0.8, 0.5, 10.0, 2_000_000, 2_000_004, "sent")
    assert line.text() == "round   0  Dice here 0.8000  loss 0.5000    10.0 s    2.0 MB down   2.0 MB up  sent"
    assert json.loads(line.json())["bytes_up"] == 2_000_004


def test_an_update_from_the_outbox_has_no_dice_and_no_loss():
    line = RoundLines().line(Delivered(ref(0), 0, 4, 0.5, again=True))
    assert line is not None
    assert (line.dice, line.loss, line.status) == (None, None, "sent again")
    assert "Dice here      -  loss      -" in line.text()


def test_a_skipped_round_says_why():
    lines = RoundLines()
    lines.line(Scored(ref(0), SCORES))
    line = lines.line(Skipped(ref(0), "the round's deadline passed before training was done"))
    assert line is not None
    assert (line.dice, line.status) == (0.8, "the round's deadline passed before training was done")


def test_attempts_of_a_round_are_kept_apart():
    lines = RoundLines()
    lines.line(Scored(ref(0, 1), SCORES))
    line = lines.line(Delivered(ref(0, 2), 0, 4, 0.5, again=True))
    assert line is not None
    assert (line.attempt, line.dice) == (2, None)


def test_the_last_model_is_only_scored():
    lines = RoundLines()
    lines.line(JOINED)
    line = lines.line(Scored(ref(2), SCORES))
    assert line is not None
    assert (line.round, line.dice, line.status) == (2, 0.8, "scored")


def test_the_end_as_json():
    assert json.loads(over_line(RunOver(Outcome.FAILED, "too few"))) == {"outcome": "failed", "reason": "too few"}


def test_log_lines_are_events_with_fields(capsys: pytest.CaptureFixture[str]):
    log = event_log("north")
    log(Scored(ref(1), SCORES))
    log(LinkLost("refused", 0.5))
    first, second = capsys.readouterr().err.splitlines()
    assert "level=info event=scored site=north" in first
    assert "run=run round=1 attempt=1 patients=3 images=4 dice=0.8" in first
    assert "level=warning event=link_lost site=north" in second

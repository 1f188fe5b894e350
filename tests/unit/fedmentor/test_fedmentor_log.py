"""The log: an event a line, whatever a peer wrote into its fields."""

import io
from dataclasses import dataclass

from fedmentor.federation import Finished, Outcome, RoundRef
from fedmentor.ids import Attempt, Round, RunId
from fedmentor.log import event_logger, flat_fields


@dataclass(frozen=True)
class SiteSpoke:
    """An event."""

    words: str
    round: RoundRef | None = None


REF = RoundRef(RunId("run"), Round(0), Attempt(1))


def _line(event, **bound):
    stream = io.StringIO()
    event_logger(stream, (Finished,), **bound)(event)
    return stream.getvalue()


def test_an_event_is_a_line_with_its_fields():
    line = _line(SiteSpoke("hello there", REF), site="north")
    assert 'level=info event=site_spoke site=north words="hello there" run=run round=0 attempt=1' in line
    assert "level=warning event=finished" in _line(Finished(Outcome.FAILED, "x"))


def test_nested_values_are_flat_enumerations_are_words_and_nothing_is_left_out_but_what_is_empty():
    assert flat_fields(Finished(Outcome.FAILED, "x")) == {"outcome": "failed", "reason": "x"}
    assert flat_fields(SiteSpoke("x", REF)) == {"words": "x", "run": "run", "round": 0, "attempt": 1}
    assert flat_fields(SiteSpoke("")) == {}


def test_a_peer_can_neither_forge_a_line_nor_reach_the_terminal():
    line = _line(SiteSpoke("x\nlevel=info event=phase_entered \x1b[2J \r \u2028 \u202e"))
    assert line.count("\n") == 1
    assert line[:-1].isprintable()


def test_long_fields_are_cut():
    assert len(_line(SiteSpoke("x" * 10**6))) < 11_000

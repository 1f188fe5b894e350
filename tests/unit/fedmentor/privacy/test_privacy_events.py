"""Replaying a ledger: what a sequence of events says, and that nothing unknown or impossible is skipped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.audit import EMPTY, AuditRecord, head_of, next_record
from fedmentor.errors import DataError
from fedmentor.ids import Digest, Round, RunId
from fedmentor.privacy.accounting import Cost, Segment, compose
from fedmentor.privacy.events import Budget, LedgerState, Reservation, Stage, history_of, replay
from fedmentor.testing.clock import ManualClock

COHORTS = (Digest("a" * 64), Digest("b" * 64))
BUDGET = Budget(8.0, 1e-5, Digest("c" * 64))
RELEASE = Digest("d" * 64)


def chain(*events) -> tuple[AuditRecord, ...]:
    head, records, clock = EMPTY, [], ManualClock()
    for event, fields in events:
        records.append(next_record(head, clock.now(), "site north", event, fields))
        head = head_of(records[-1])
    return tuple(records)


def cohort(digest: Digest = COHORTS[0]):
    return "cohort", {"cohort": digest, "patients": 3}


SEGMENT = Segment(1.1, 0.1, 7)


def reserve(segment: Segment = SEGMENT, digest: Digest = COHORTS[0], number: int = 0):
    draft = Reservation(-1, RunId("run"), Round(number), digest, segment, Cost(1.0, None), "")
    return "reserve", draft.fields("1.0")


START = (("budget", BUDGET.fields()), cohort())


def test_events_tell_budget_cohorts_and_reservations():
    state = replay(chain(*START, reserve(), ("commit", {"reservation": 2, "steps": 5, "release": RELEASE})))
    assert state.budget == BUDGET
    assert dict(state.cohorts) == {COHORTS[0]: 3}
    (item,) = state.of_round(RunId("run"), Round(0))
    assert (item.number, item.stage, item.release, item.segment) == (2, Stage.COMMITTED, RELEASE, Segment(1.1, 0.1, 5))
    assert item.cost == Cost(1.0, None)


@given(st.floats(0.1, 100), st.floats(1e-12, 1), st.integers(0, 10**6))
def test_numbers_come_back_to_the_last_bit(noise, rate, steps):
    segment = Segment(noise, rate, steps)
    state = replay(chain(*START, reserve(segment)))
    assert state.open[0].segment == segment


@given(st.lists(st.tuples(st.sampled_from(COHORTS), st.integers(0, 9), st.sampled_from(["open", "commit", "void"])), max_size=12))
def test_what_counts_is_everything_that_is_open_or_committed(plan):
    events, counted = [*START, cohort(COHORTS[1])], []
    for digest, steps, end in plan:
        number = len(events)
        events.append(reserve(Segment(1.0, 0.1, 10), digest))
        if end == "commit":
            events.append(("commit", {"reservation": number, "steps": steps, "release": RELEASE}))
        elif end == "void":
            events.append(("void", {"reservation": number, "reason": "stopped"}))
        counted.append((digest, {"open": 10, "commit": steps, "void": 0}[end]))
    records = chain(*events)
    state = replay(records)
    for chosen in ((), COHORTS[:1], COHORTS[1:], COHORTS):
        expected = compose(Segment(1.0, 0.1, steps) for digest, steps in counted if digest in chosen)
        assert history_of(state, chosen) == expected
    assert replay(records[3:], replay(records[:3])) == state, "replaying in two goes is the same"


IMPOSSIBLE = {
    "unknown event": [("refund", {"reservation": 2})],
    "unknown cohort": [reserve(digest=COHORTS[1])],
    "unknown reservation": [("void", {"reservation": 9, "reason": ""})],
    "commit of a void": [
        ("void", {"reservation": 2, "reason": ""}),
        ("commit", {"reservation": 2, "steps": 1, "release": RELEASE}),
    ],
    "commit of too much": [("commit", {"reservation": 2, "steps": 8, "release": RELEASE})],
    "negative steps": [("commit", {"reservation": 2, "steps": -1, "release": RELEASE})],
    "release of an open one": [("release", {"reservation": 2})],
    "missing field": [("commit", {"reservation": 2})],
    "boolean for a number": [("commit", {"reservation": True, "steps": 1, "release": RELEASE})],
    "another delta": [("budget", Budget(8.0, 1e-6, BUDGET.key_check).fields())],
    "another key": [("budget", Budget(8.0, 1e-5, Digest("e" * 64)).fields())],
}


@pytest.mark.parametrize("events", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_the_impossible_is_refused(events):
    with pytest.raises(DataError, match="ledger entry"):
        replay(chain(*START, reserve(), *events))


def test_a_new_cap_replaces_the_old_one():
    assert replay(chain(*START, ("budget", Budget(2.0, 1e-5, BUDGET.key_check).fields()))).budget == Budget(
        2.0, 1e-5, BUDGET.key_check
    )
    assert replay(()) == LedgerState()

"""A federation that aggregates securely, under random schedules of faults; simulated_federation.py says what counts as failure.

A node that is killed in the middle of an attempt sits it out: a run may need other attempts than an undisturbed one, or fail. What
must hold is the same as in plain mode, but for F8: who is counted is counted once and in full, and nobody's receipt is forgotten.
"""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from simulated_schedules import CAMPAIGN, FAULTS, LENGTH, MOVES, TIME, names, play
from simulated_site import SITES, X

from fedmentor.federation import Outcome
from fedmentor.models import digest_of

STEP_FAULTS = [
    st.tuples(
        *(st.just("call"), names, st.sampled_from(["request", "reply"]), st.sampled_from(["lose", "kill"]), st.just("answer_step"))
    )
]

KILLED_BEFORE_THE_FIRST_ACKNOWLEDGEMENT = [("call", SITES[0], "reply", "kill", "answer_step"), *[("everybody",)] * 12]
EVERY_ANSWER_IS_LOST_ONCE = [step for name in SITES for step in (("call", name, "reply", "lose", "answer_step"), ("everybody",))]
COORDINATOR_DIES_AT_EVERY_STEP = [step for _ in range(12) for step in (("everybody",), ("kill coordinator",))]


def test_an_undisturbed_run_makes_the_model_of_the_plain_run():
    quarter = np.full(len(SITES), X / len(SITES), np.float32)
    assert play([], secure=True) == ({Outcome.COMPLETED}, digest_of({"vector": quarter + quarter}))


@CAMPAIGN
@given(st.lists(st.one_of(MOVES + FAULTS + STEP_FAULTS + TIME), **LENGTH))
@example(KILLED_BEFORE_THE_FIRST_ACKNOWLEDGEMENT)
@example(EVERY_ANSWER_IS_LOST_ONCE)
@example(COORDINATOR_DIES_AT_EVERY_STEP)
def test_whatever_happens_nobody_is_counted_twice_or_forgotten(schedule: list[tuple]):
    play(schedule, secure=True)

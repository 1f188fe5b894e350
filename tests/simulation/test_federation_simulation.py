"""A federation that averages plainly, under random schedules of faults; simulated_federation.py says what counts as failure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from simulated_federation import COLLECT_SECONDS, GRACE_SECONDS, Federation, check
from simulated_schedules import CAMPAIGN, FAULTS, LENGTH, MOVES, TIME, play, scratch
from simulated_site import SITES, X

from fedmentor.federation import Outcome, RoundRef
from fedmentor.ids import Attempt, Digest, Round
from fedmentor.models import digest_of


@pytest.fixture(scope="module")
def undisturbed() -> Digest:
    outcomes, model = play([])
    assert outcomes == {Outcome.COMPLETED}
    return model


def test_an_undisturbed_run_counts_everybody_in_every_round(undisturbed: Digest):
    quarter = np.full(len(SITES), X / len(SITES), np.float32)
    assert digest_of({"vector": quarter + quarter}) == undisturbed


EVERY_SITE_DIES_BEFORE_IT_READS_ITS_RECEIPT = [
    *[("call", name, "reply", "kill", "send_update") for name in SITES],
    *[("everybody",)] * 6,
]
EVERYTHING_DIES = [step for _ in range(6) for step in (("everybody",), ("everybody",), ("kill coordinator",))]
ONE_SITE_DELIVERS_AND_THE_DEADLINE_PASSES = [
    *[("call", name, "request", "lose", "send_update") for name in SITES[1:]],
    *[("everybody",)] * 3,
    ("time", COLLECT_SECONDS),
    *[("everybody",)] * 3,
]


@CAMPAIGN
@given(st.lists(st.one_of(MOVES + FAULTS), **LENGTH))
@example(EVERY_SITE_DIES_BEFORE_IT_READS_ITS_RECEIPT)
@example(EVERYTHING_DIES)
def test_faults_without_time_change_nothing(undisturbed: Digest, schedule: list[tuple]):
    assert play(schedule) == ({Outcome.COMPLETED}, undisturbed), "F8"


@CAMPAIGN
@given(st.lists(st.one_of(MOVES + FAULTS + TIME), **LENGTH))
@example(ONE_SITE_DELIVERS_AND_THE_DEADLINE_PASSES)
def test_faults_and_deadlines_never_lose_or_double_what_was_acknowledged(schedule: list[tuple]):
    outcomes, _model = play(schedule)
    assert len(outcomes) == 1, "everybody is told the same"


def test_who_delivered_to_a_failed_attempt_counts_in_the_next_one(undisturbed: Digest):
    assert play(ONE_SITE_DELIVERS_AND_THE_DEADLINE_PASSES) == ({Outcome.COMPLETED}, undisturbed)


def test_a_site_that_never_comes_costs_its_share_and_nothing_else():
    with scratch() as folder:
        federation = Federation(folder)
        present = [federation.sites[name] for name in SITES[:3]]
        for _ in range(60):
            federation.drive()
            for site in present:
                site.turn()
            federation.pass_time(GRACE_SECONDS / 2)
        assert all(site.finished and site.finished.outcome is Outcome.COMPLETED for site in present)
        check(federation)
        assert [ref.round for ref, _ in federation.published()] == [Round(0), Round(1)]
        assert all(added[3] == 0 for _, added in federation.published())
        federation.close()


def test_two_sites_of_four_publish_nothing():
    with scratch() as folder:
        federation = Federation(folder)
        for _ in range(2):  # everybody is there when the round opens
            federation.drive()
            for site in federation.sites.values():
                site.turn()
        for name in SITES[2:]:
            federation.sites[name].kill()
        delivered = set()
        for _ in range(60):
            federation.drive()
            for name in SITES[:2]:
                federation.sites[name].turn()
            federation.pass_time(COLLECT_SECONDS / 4)
            delivered |= federation.accepted(RoundRef(federation.manifest.run, Round(0), Attempt(1)))
        assert delivered == set(SITES[:2]), "their updates were accepted"
        assert federation.published() == []
        federation.close()

"""Findings in every direction, and numbers as people read them."""

from __future__ import annotations

import pytest
from study_report_example import MENTORED_DICE, RANDOM_DICE, make_report, make_run

from study.report.comparison import Verdict
from study.report.wording import (
    ABSENT,
    distance,
    duration,
    finding,
    headline,
    rounds_needed,
    score,
    signed,
    traffic,
    verdict_of,
)


def report_of(random, mentored):
    return make_report(make_run("random", random), make_run("fm-instructed", mentored))


def test_finding_ahead():
    assert finding(report_of(RANDOM_DICE, MENTORED_DICE)) == (
        "The FM-instructed start was ahead of random at the start and after each of 6 rounds: Dice 0.866 against 0.271 at round 0 "
        "and 0.929 against 0.912 after round 6, on 34 held-out patients at 4 sites. Dice 0.912 (final Dice of the random run) was "
        "reached by FM-instructed after 3 rounds and by random after 6 rounds."
    )


def test_finding_behind():
    text = finding(report_of((0.5, 0.9), (0.4, 0.8)))
    assert text.startswith("The FM-instructed start was behind random at the start and after round 1: Dice 0.400 against 0.500")
    assert text.endswith("was reached by FM-instructed in no round and by random after 1 round.")


def test_finding_mixed_counts_every_comparison():
    text = finding(report_of((0.2, 0.7, 0.8, 0.9), (0.6, 0.7, 0.8, 0.85)))
    assert text.startswith(
        "Mixed result: of 4 comparisons (at the start and after each of 3 rounds), the FM-instructed start was "
        "ahead of random in 1, level in 2 and behind in 1: Dice 0.600 against 0.200 at round 0 and 0.850 against 0.900 "
    )


def test_finding_level():
    assert "was level with random at the start: Dice 0.500 against 0.500 at round 0, on" in finding(report_of((0.5,), (0.5,)))


def test_a_target_that_the_start_already_has():
    assert "was reached by FM-instructed at the start and by random after 1 round." in finding(report_of((0.2, 0.8), (0.9, 0.95)))


def test_finding_over_several_settings():
    runs = [
        make_run(init, dice, seed=seed) for seed in (0, 1) for init, dice in (("random", (0.2, 0.8)), ("fm-instructed", (0.6, 0.9)))
    ]
    runs += [make_run("random", (0.5, 0.9), seed=2), make_run("fm-instructed", (0.4, 0.8), seed=2)]
    assert finding(make_report(*runs)) == (
        "Over 3 settings and all their rounds, the FM-instructed start compared with random was ahead in 2, behind in 1. "
        "Mean Dice was 0.533 against 0.300 at the start and 0.867 against 0.833 after the last round, "
        "on 34 held-out patients at 4 sites."
    )


def test_nothing_to_compare_says_so():
    assert finding(make_report(make_run("random", (0.2, 0.8)))) == (
        "Random and FM-instructed starts were not both run, so nothing is compared. "
        "random: Dice 0.200 at round 0, 0.800 after round 1."
    )


def test_no_round_at_all_says_so():
    report = make_report().model_copy(update={"runs": ()})
    assert finding(report) == "No federated run finished a round, so there is nothing to compare."
    assert headline(report) == "Federated runs, nothing compared"


def test_headlines_follow_the_verdict():
    assert headline(report_of((0.2,), (0.5,))) == "FM-instructed start ahead of random"
    assert headline(report_of((0.5,), (0.2,))) == "FM-instructed start behind random"
    assert headline(report_of((0.2, 0.8), (0.5, 0.7))) == "FM-instructed against random: a mixed result"


def test_settings_that_disagree_are_mixed():
    runs = (
        make_run("random", (0.2,)),
        make_run("fm-instructed", (0.5,)),
        make_run("random", (0.5,), seed=1),
        make_run("fm-instructed", (0.2,), seed=1),
    )
    assert verdict_of(make_report(*runs)) is Verdict.MIXED


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (score(0.91249), "0.912"),
        (score(None), ABSENT),
        (score(float("nan")), ABSENT),
        (signed(0.0123), "+0.012"),
        (signed(-0.0123), "\N{MINUS SIGN}0.012"),
        (signed(-0.0001), "0.000"),
        (distance(7.449), "7.4"),
        (distance(None), ABSENT),
        (traffic(0), "0 B"),
        (traffic(1500), "1.5 kB"),
        (traffic(999_999), "1.0 MB"),
        (traffic(123_456_789), "123 MB"),
        (traffic(4_000_000_000), "4.0 GB"),
        (duration(8.31), "8.3 s"),
        (duration(59.97), "1 min 00 s"),
        (duration(125), "2 min 05 s"),
        (duration(3720), "1 h 02 min"),
        (rounds_needed(None), "not reached"),
        (rounds_needed(0), "at the start"),
        (rounds_needed(1), "1 round"),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert shown == expected

"""Verdicts and targets: hand-made numbers and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_report_example import MENTORED_DICE, RANDOM_DICE, make_report, make_run

from fedmentor.errors import DataError
from study.report.comparison import (
    Verdict,
    choose_target,
    duel_of,
    first_round_at,
    held_out_patients,
    rounds_to_target,
    settings_of,
)

DICE = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def verdict(random, mentored):
    (setting,) = settings_of((make_run("random", random), make_run("fm-instructed", mentored)))
    return duel_of(setting).verdict


def test_the_target_is_the_random_runs_final_dice():
    target = choose_target((make_run("random", RANDOM_DICE), make_run("fm-instructed", MENTORED_DICE)))
    assert target.dice == RANDOM_DICE[-1]
    assert target.reason == "final Dice of the random run"
    assert target.rounds == {"random": 6, "fm-instructed": 3}


def test_several_random_runs_give_the_mean_of_their_finals():
    target = choose_target((make_run("random", (0.2, 0.8), seed=1), make_run("random", (0.2, 0.9), seed=2)))
    assert target.dice == pytest.approx(0.85)
    assert target.reason == "final Dice of the random runs (mean of 2)"
    assert target.rounds == {"random (by-hospital, fedavg, seed 1)": None, "random (by-hospital, fedavg, seed 2)": 1}


def test_without_a_random_run_the_lowest_final_is_the_target():
    target = choose_target((make_run("pretrained", (0.5, 0.7)), make_run("fm-instructed", (0.6, 0.9))))
    assert (target.dice, target.reason) == (0.7, "lowest final Dice of all runs")


def test_no_round_at_all_has_no_target():
    with pytest.raises(DataError, match="at least one run"):
        choose_target((make_run("random", ()),))


@given(DICE, st.floats(0, 1))
def test_the_target_is_reached_in_the_first_round_at_or_over_it(dice, target):
    found = first_round_at(make_run("random", dice), target)
    # As shown, with three decimals: no table may contradict its sentence.
    shown, goal = [round(value, 3) for value in dice], round(target, 3)
    if found is None:
        assert all(value < goal for value in shown)
    else:
        assert shown[found] >= goal
        assert all(value < goal for value in shown[:found])


@given(DICE)
def test_a_run_reaches_its_own_target(dice):
    runs = (make_run("random", dice),)
    assert rounds_to_target(runs, choose_target(runs).dice)["random"] is not None


@pytest.mark.parametrize(
    ("random", "mentored", "expected"),
    [
        ((0.2, 0.8), (0.7, 0.9), Verdict.AHEAD),
        ((0.7, 0.9), (0.2, 0.8), Verdict.BEHIND),
        ((0.2, 0.9), (0.7, 0.8), Verdict.MIXED),
        ((0.2, 0.9), (0.7, 0.9), Verdict.MIXED),
        ((0.2, 0.9), (0.2003, 0.8998), Verdict.LEVEL),
        ((0.2, 0.8, 0.95), (0.7, 0.9), Verdict.AHEAD),
    ],
    ids=["ahead", "behind", "crossing", "level at the end", "below what is shown", "only shared rounds count"],
)
def test_verdicts(random, mentored, expected):
    assert verdict(random, mentored) is expected


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_swapping_the_runs_turns_the_verdict_round(pairs):
    random, mentored = zip(*pairs, strict=True)
    opposite = {Verdict.AHEAD: Verdict.BEHIND, Verdict.BEHIND: Verdict.AHEAD}
    found = verdict(random, mentored)
    assert verdict(mentored, random) is opposite.get(found, found)


def test_only_runs_of_one_setting_are_compared():
    runs = (make_run("random", (0.1, 0.2), seed=1), make_run("fm-instructed", (0.3, 0.4), seed=2))
    assert [duel_of(setting) for setting in settings_of(runs)] == [None, None]


def test_a_repeated_run_opens_a_further_setting():
    runs = (make_run("random", (0.1,)), make_run("random", (0.2,)), make_run("fm-instructed", (0.3,)))
    assert [(setting.label, list(setting.runs)) for setting in settings_of(runs)] == [
        ("by-hospital, fedavg, seed 0", ["random", "fm-instructed"]),
        ("by-hospital, fedavg, seed 0, repeat 2", ["random"]),
    ]


def test_runs_without_a_round_are_left_out():
    assert settings_of((make_run("random", ()),)) == ()


def test_held_out_patients_are_summed_over_sites():
    assert held_out_patients(make_report()) == 34

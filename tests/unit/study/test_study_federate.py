"""A coordinator's report in a study's words: the cost of a model stands beside the model that it made."""

from __future__ import annotations

import pytest

from coordinator.report import RoundReport, RunReport, SiteReport
from fedmentor.errors import PeerUnreachable
from study.federate import run_facts
from study.plan import StudyPlan

DIGESTS = ["a" * 64, "b" * 64]


def entry(number: int, dice: float | None, **cost: object) -> RoundReport:
    scores = {} if dice is None else {"site-1": SiteReport(patients=2, images=3, dice=dice, iou=0.5, hd95=None, hd95_undefined=3)}
    means = {} if dice is None else {"dice": dice, "iou": 0.5, "worst_site": "site-1", "worst_dice": dice, "hd95_undefined": 3}
    return RoundReport(round=number, model=DIGESTS[number], sites=scores, **means, **cost)


def report(*rounds: RoundReport) -> RunReport:
    return RunReport(
        run="random",
        manifest="c" * 64,
        roster=("site-1",),
        quorum=1,
        total_rounds=1,
        phase="shutdown",
        round=1,
        attempt=0,
        outcome="completed",
        reason="",
        model=DIGESTS[1],
        audit_records=0,
        audit_head=None,
        rounds=rounds,
    )


def test_images_without_a_distance_stay_counted():
    (facts,) = run_facts(StudyPlan(), "random", report(entry(0, 0.5))).rounds
    assert (facts.hd95, facts.hd95_undefined, facts.sites["site-1"].hd95_undefined) == (None, 3, 3)


def test_bytes_and_seconds_move_to_the_model_that_they_made():
    trained = entry(0, 0.25, bytes_up={"site-1": 10}, bytes_down={"site-1": 20}, seconds=3.0)
    facts = run_facts(StudyPlan(), "random", report(trained, entry(1, 0.75)))
    start, after = facts.rounds
    assert (start.dice, start.bytes_up, start.bytes_down, start.seconds) == (0.25, 0, 0, 0.0)
    assert (after.dice, after.bytes_up, after.bytes_down, after.seconds) == (0.75, 10, 20, 3.0)
    assert (after.sites["site-1"].bytes_up, after.sites["site-1"].bytes_down) == (10, 20)
    assert facts.final_model_digest == after.model_digest == DIGESTS[1]


def test_a_model_that_no_site_scored_is_an_error_that_names_its_round():
    with pytest.raises(PeerUnreachable, match="round 1"):
        run_facts(StudyPlan(), "random", report(entry(0, 0.25), entry(1, None)))

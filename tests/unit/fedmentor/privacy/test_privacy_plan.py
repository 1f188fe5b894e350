"""The plan that a manifest pins: calibration, the promise it must keep, and the digest of manifests without one."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from coordinator.manifests import with_privacy
from fedmentor.errors import ConfigError
from fedmentor.federation import RunManifest, manifest_from_bytes
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.privacy.accounting import Segment, rdp_epsilon
from fedmentor.privacy.plan import NOISE_GRID, PrivacyPlan, calibrate, plan_privacy

PLAN = PrivacyPlan(epsilon=8, delta=1e-5, noise_multiplier=1.5, sampling_rate=0.1, rounds=4, steps_per_round=10)


def manifest(**changes) -> RunManifest:
    fields = {
        "run": RunId("run"),
        "roster": tuple(SiteId(name) for name in ("east", "north", "west")),
        "rounds": 4,
        "architecture": "quadratic-v1",
        "tensors": (("vector", (2,)),),
        "initial_model": Digest("b" * 64),
    }
    return RunManifest(**(fields | changes))


@pytest.mark.parametrize(("epsilon", "delta", "steps", "rate"), [(8, 1e-5, 400, 0.1), (1, 1e-6, 50, 0.02), (3, 1e-4, 1, 1.0)])
def test_calibrated_noise_keeps_the_promise_and_is_the_least_on_its_grid(epsilon, delta, steps, rate):
    noise = calibrate(epsilon, delta, steps, rate)
    assert rdp_epsilon((Segment(noise, rate, steps),), delta) <= epsilon
    assert rdp_epsilon((Segment(noise - NOISE_GRID, rate, steps),), delta) > epsilon


def test_calibration_takes_any_accountant_and_says_where_no_noise_helps():
    half = calibrate(4, 1e-5, 400, 0.1, lambda history, delta: rdp_epsilon(history, delta) / 2)
    assert half == pytest.approx(calibrate(8, 1e-5, 400, 0.1), abs=NOISE_GRID)
    with pytest.raises(ConfigError, match="no noise keeps"):
        calibrate(1e-9, 1e-5, 10**9, 1.0)


def test_a_generous_promise_takes_the_least_noise_that_can_be_accounted_for():
    assert calibrate(1e6, 1e-2, 1, 1e-3) == pytest.approx(0.1)


def test_a_plan_that_breaks_its_own_promise_is_refused():
    with pytest.raises(ConfigError, match="promises 1"):
        PrivacyPlan(**(PLAN.model_dump() | {"epsilon": 1}))


def test_a_plan_is_made_from_the_smallest_site():
    plan = plan_privacy((6.0, 1e-5), patients=50, batch_patients=8, rounds=5)
    assert (plan.sampling_rate, plan.steps_per_round, plan.rounds, plan.unit) == (8 / 50, 7, 5, "patient")
    assert rdp_epsilon((plan.whole_run,), plan.delta) <= 6.0
    assert plan.whole_run.steps == 5 * plan.one_round.steps
    with pytest.raises(ConfigError, match="does not fit"):
        plan_privacy((6.0, 1e-5), patients=5, batch_patients=8, rounds=5)


@pytest.mark.parametrize(
    "wrong", [{"delta": 0}, {"epsilon": 0}, {"sampling_rate": 0}, {"unit": "image"}, {"steps_per_round": 0}, {"x": 1}]
)
def test_impossible_plans_are_refused(wrong):
    with pytest.raises(ValidationError):
        PrivacyPlan(**(PLAN.model_dump() | wrong))


def test_a_manifest_without_a_plan_has_the_bytes_that_it_always_had():
    plain = manifest()
    assert "privacy" not in json.loads(plain.to_bytes())
    assert manifest_from_bytes(plain.to_bytes()) == plain
    assert plain.reports_scores


def test_a_plan_is_part_of_the_manifest_and_its_digest():
    private = manifest(privacy=PLAN)
    assert manifest_from_bytes(private.to_bytes()) == private
    assert private.digest != manifest().digest
    assert not private.reports_scores
    assert manifest(privacy=PLAN.model_copy(update={"report_scores": True})).reports_scores


def test_a_plan_for_another_number_of_rounds_is_refused():
    with pytest.raises(ConfigError, match="for 4 rounds, the run has 5"):
        manifest(privacy=PLAN, rounds=5)


def test_a_manifest_that_breaks_its_promise_is_refused_by_whoever_reads_it():
    forged = manifest(privacy=PLAN).to_bytes().replace(b'"epsilon":8.0', b'"epsilon":0.5')
    with pytest.raises(ConfigError, match="promises"):
        manifest_from_bytes(forged)


def test_the_coordinator_makes_a_plan_from_four_options_or_none():
    assert with_privacy({"rounds": 3}) == {"rounds": 3}
    made = with_privacy({"rounds": 3, "epsilon": 4.0, "delta": 1e-5, "patients": 40, "batch_patients": 8})
    assert made == {"rounds": 3, "privacy": plan_privacy((4.0, 1e-5), 40, 8, 3)}
    with pytest.raises(ConfigError, match="'patients' too"):
        with_privacy({"rounds": 3, "epsilon": 4.0, "delta": 1e-5})

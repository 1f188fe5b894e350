"""The shipped attackers do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from fed_node.rules import PlanLimits, check_manifest
from fed_node.testing import Attack, MaliciousTrainer, QuadraticTrainer
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import RunManifest, TrainingPlan
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.robust import Krum, RobustPlan

PLAN = TrainingPlan(local_epochs=1, learning_rate=0.5)
HONEST = QuadraticTrainer(np.array([0.5, -0.25], np.float32), examples=7)
START = np.zeros(2, np.float32)
LEARNED = np.array([0.25, -0.125], np.float32)


def go():
    return False


def sent(attack, vector=START, **options):
    return MaliciousTrainer(attack, HONEST, **options).train(vector, PLAN, 0, go)


@pytest.mark.parametrize(
    ("attack", "factor"),
    [(Attack.SIGN_FLIP, -1), (Attack.TIMES_100, 100), (Attack.SIGN_FLIP_TIMES_100, -100), (Attack.LABEL_FLIP, 1), (Attack.ZERO, 0)],
)
def test_what_each_attack_sends(attack, factor):
    assert sent(attack).delta == pytest.approx(factor * LEARNED)


def test_an_echo_is_the_last_change_and_nothing_at_first():
    liar = MaliciousTrainer(Attack.ECHO, HONEST)
    assert liar.train(START, PLAN, 0, go).delta == pytest.approx([0, 0])
    assert liar.train(np.array([0.1, 0.2], np.float32), PLAN, 0, go).delta == pytest.approx([0.1, 0.2])


def test_it_can_lie_about_its_images():
    assert sent(Attack.SIGN_FLIP).examples == 7
    assert sent(Attack.SIGN_FLIP, claims=1000).examples == 1000
    assert sent(Attack.ZERO, claims=1000).examples == 1000


def test_it_looks_like_the_student_and_stops_when_asked():
    liar = MaliciousTrainer(Attack.SIGN_FLIP, HONEST)
    assert (liar.architecture, liar.spec) == (HONEST.architecture, HONEST.spec)
    assert liar.evaluate(START).dice == HONEST.evaluate(START).dice
    assert liar.train(START, PLAN, 0, lambda: True) is None


@pytest.mark.parametrize(("selected", "refused"), [(1, True), (2, False)])
def test_a_node_refuses_a_run_that_publishes_one_sites_update(selected, refused):
    manifest = RunManifest(
        run=RunId("run"),
        roster=tuple(SiteId(site) for site in "abcde"),
        rounds=1,
        quorum=5,
        architecture=HONEST.architecture,
        tensors=tuple((tensor.name, tensor.shape) for tensor in HONEST.spec),
        initial_model=Digest("1" * 64),
        robust=RobustPlan(rule=Krum(malicious=1, selected=selected)),
    )
    if refused:
        with pytest.raises(PolicyRefusal, match="of 1 sites, this site asks for at least 2"):
            check_manifest(manifest, SiteId("a"), HONEST.architecture, HONEST.spec, PlanLimits())
    else:
        check_manifest(manifest, SiteId("a"), HONEST.architecture, HONEST.spec, PlanLimits())

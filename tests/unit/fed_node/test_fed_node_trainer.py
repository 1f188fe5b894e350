"""The trainer's port: seeds, and the twin whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fed_node.testing import QuadraticTrainer
from fed_node.trainer import SEED_BITS, local_seed
from fedmentor.federation import TrainingPlan
from fedmentor.ids import Round, SiteId
from fedmentor.secagg.ring import Ring, add_in_place, quantise, weighted_mean

NORTH, SOUTH = SiteId("north"), SiteId("south")
PLAN = TrainingPlan(local_epochs=1, learning_rate=0.5)


@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_seed_fits_a_signed_64_bit_integer(seed: int, number: int):
    assert 0 <= local_seed(seed, NORTH, Round(number)) < 2**SEED_BITS


def test_seeds_of_runs_sites_and_rounds_are_apart():
    seeds = {local_seed(run, site, Round(number)) for run in range(5) for site in (NORTH, SOUTH) for number in range(5)}
    assert len(seeds) == 50


def test_the_seed_of_a_round_never_changes():
    assert local_seed(0, NORTH, Round(0)) == 3387593745562531976, "published results depend on it"


def test_a_federation_of_quadratic_sites_finds_the_weighted_mean_of_their_targets():
    ring, vector = Ring(), np.zeros(2, np.float32)
    sites = [QuadraticTrainer(np.array([0.5, 0.0], np.float32), 30), QuadraticTrainer(np.array([0.0, -0.5], np.float32), 10)]
    for _ in range(30):
        total = np.zeros(3, np.uint32)
        for site in sites:
            update = site.train(vector, PLAN, 0, lambda: False)
            assert update is not None
            add_in_place(total, quantise(update.delta, update.examples, ring))
        vector = vector + weighted_mean(total)
    assert vector == pytest.approx([0.375, -0.125], abs=1e-5)
    assert [site.trainings for site in sites] == [30, 30]

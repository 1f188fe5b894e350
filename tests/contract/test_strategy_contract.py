"""What every strategy owes its caller, whatever its rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.strategies.dp_fedavg import DpFedAvg
from coordinator.strategies.fedavg import FedAvg
from coordinator.strategies.krum import Krum
from coordinator.strategies.median import CoordinateMedian
from coordinator.strategies.norm_clipping import NormClipping
from coordinator.strategies.testing import combined, held_update
from coordinator.strategies.trimmed_mean import TrimmedMean
from fedmentor import robust
from fedmentor.errors import QuorumMissed
from fedmentor.secagg.ring import Ring

PARAMETERS = 37
RING = Ring(max_weight=100)
STRATEGIES = {
    "fedavg": FedAvg(),
    "clip-median": NormClipping(robust.NormClipping()),
    "clip-fixed": NormClipping(robust.NormClipping(norm=0.5, weight_cap=3.0)),
    "median": CoordinateMedian(robust.CoordinateMedian()),
    "trimmed-mean": TrimmedMean(robust.TrimmedMean(malicious=1)),
    "krum": Krum(robust.Krum(malicious=1, selected=1)),
    "multi-krum": Krum(robust.Krum(malicious=1)),
    "dp-fedavg": DpFedAvg(0.5, 1.0, 9, 1 << RING.fraction_bits, bytes(range(32))),
}
FEW = settings(max_examples=25, deadline=None)


def update(site, delta, examples=100):
    return held_update(site, delta, examples, RING)


def draw(seed, sites):
    """Honest updates: a common direction and some of their own, weights of 1 to 100 examples and more."""
    random = np.random.default_rng(seed)
    common = random.normal(scale=0.1, size=PARAMETERS)
    return [
        update(f"s{i}", common + random.normal(scale=0.05, size=PARAMETERS), int(random.integers(1, 200))) for i in range(sites)
    ]


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@FEW
@given(seed=st.integers(0, 2**32), sites=st.integers(5, 9), block=st.integers(1, 50), random=st.randoms(use_true_random=False))
def test_neither_the_order_of_the_sites_nor_the_size_of_the_blocks_changes_a_bit(strategy, seed, sites, block, random):
    updates = draw(seed, sites)
    expected, first = combined(strategy, updates, PARAMETERS)
    random.shuffle(updates)
    found, second = combined(strategy, updates, PARAMETERS, block)
    assert found.tobytes() == expected.tobytes()
    assert (dict(first.shares), dict(first.scaled), first.left_out) == (dict(second.shares), dict(second.scaled), second.left_out)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@FEW
@given(seed=st.integers(0, 2**32), sites=st.integers(5, 9))
def test_shares_are_of_sites_that_are_not_left_out(strategy, seed, sites):
    updates = draw(seed, sites)
    _, combination = combined(strategy, updates, PARAMETERS)
    assert combination.shares.keys() == {one.site for one in updates} - set(combination.left_out)
    assert sum(combination.shares.values()) <= 1 + 1e-9
    assert all(share > 0 for share in combination.shares.values())
    assert all(0 < factor < 1 for factor in combination.scaled.values())


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_change_has_one_value_for_each_parameter_and_is_float32(strategy):
    change, _ = combined(strategy, draw(1, 6), PARAMETERS, 7)
    assert (change.shape, change.dtype) == ((PARAMETERS,), np.float32)
    assert np.isfinite(change).all()


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_too_few_updates_are_refused(strategy):
    with pytest.raises(QuorumMissed):
        strategy.combine(draw(1, strategy.least_updates - 1), PARAMETERS)


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_the_fewest_updates_are_enough(strategy):
    change, _ = combined(strategy, draw(1, strategy.least_updates), PARAMETERS)
    assert change.shape == (PARAMETERS,)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"dp-fedavg", "clip-fixed"}))
def test_sites_that_agree_get_what_they_agree_on(name):
    delta = np.linspace(-0.01, 0.01, PARAMETERS, dtype=np.float32)
    change, _ = combined(STRATEGIES[name], [update(f"s{i}", delta) for i in range(7)], PARAMETERS)
    assert change == pytest.approx(delta, abs=2**-22)

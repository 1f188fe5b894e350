"""The ring: quantisation error, bounds, and sums that do not depend on the order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmentor.errors import ConfigError, UpdateRejected
from fedmentor.secagg.ring import Ring, add_in_place, clip_delta, quantise, weighted_mean

RING = Ring()
DELTAS = arrays(np.float32, 20, elements=st.floats(-1, 1, width=32))


@given(DELTAS, st.integers(1, 5000))
def test_one_site_gets_its_own_delta_back_within_the_resolution(delta, examples):
    mean = weighted_mean(quantise(delta, examples, RING))
    weight = RING.weight_of(examples)
    # Half a unit in the word and half a unit in the weight, both divided by the weight; then float32.
    bound = (1.0 / (weight * 2**RING.fraction_bits)) + 2.0**-24
    assert np.abs(mean.astype(np.float64) - delta).max() <= bound


@given(st.lists(st.tuples(DELTAS, st.integers(1, 2000)), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_sum_is_the_plain_integer_sum_in_any_order(updates, random):
    words = [quantise(delta, examples, RING) for delta, examples in updates]
    expected = [sum(int(w.view(np.int32)[i]) for w in words) for i in range(21)]
    random.shuffle(words)
    total = np.zeros(21, np.uint32)
    for one in words:
        add_in_place(total, one)
    assert total.view(np.int32).tolist() == expected


@given(st.lists(st.tuples(DELTAS, st.integers(1, 2000)), min_size=1, max_size=8))
def test_the_mean_is_federated_averaging(updates):
    total = np.zeros(21, np.uint32)
    for delta, examples in updates:
        add_in_place(total, quantise(delta, examples, RING))
    weights = np.array([RING.weight_of(examples) for _, examples in updates])
    expected = np.average([delta.astype(np.float64) for delta, _ in updates], axis=0, weights=weights)
    assert np.abs(weighted_mean(total) - expected).max() <= (len(updates) + 1) / (weights.sum() * 2**24) + 2.0**-24


def test_the_last_word_is_the_capped_weight():
    zeros = np.zeros(3, np.float32)
    assert quantise(zeros, 1000, RING)[-1] == 2**24
    assert quantise(zeros, 10_000, RING)[-1] == 2**24
    assert quantise(zeros, 1, RING)[-1] == round(2**24 / 1000)


@given(st.integers(8, 30), st.floats(2**-20, 2, width=32), st.integers(1, 1000))
def test_every_honest_update_weighs_something_and_is_within_the_bounds(fraction_bits, clip_value, examples):
    ring = Ring(fraction_bits, 1e9, clip_value if clip_value < 2 ** (31 - fraction_bits) else 1.0, min(1000, 2**fraction_bits))
    words = quantise(np.array([1e8, -1e8], np.float32), examples, ring).view(np.int32)
    assert words[-1] >= 1
    assert np.abs(words[:-1].astype(np.float64)).max() <= ring.clip_value * (words[-1] + 0.5) + 0.5


def test_the_largest_update_of_every_site_does_not_wrap():
    ring = Ring(clip_value=1.0, clip_norm=1e9)
    ring.check_sites(127)
    total = np.zeros(2, np.uint32)
    for _ in range(127):
        add_in_place(total, quantise(np.array([-1.0], np.float32), 1000, ring))
    assert weighted_mean(total).tolist() == [-1.0]
    with pytest.raises(ConfigError, match="128 sites"):
        ring.check_sites(128)


def test_clipping_bounds_norm_and_coordinates():
    delta = np.array([3.0, 4.0], np.float32)
    assert np.allclose(clip_delta(delta, Ring(clip_norm=1.0)), [0.6, 0.8])
    assert clip_delta(delta, Ring(clip_norm=100.0, clip_value=2.0)).tolist() == [2.0, 2.0]
    assert clip_delta(np.zeros(2, np.float32), RING).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(UpdateRejected, match="not finite"):
        quantise(np.array([0.0, value], np.float32), 1, RING)


def test_no_examples_have_no_weight():
    with pytest.raises(UpdateRejected):
        quantise(np.zeros(2, np.float32), 0, RING)
    with pytest.raises(UpdateRejected, match="not positive"):
        weighted_mean(np.zeros(3, np.uint32))


@pytest.mark.parametrize(
    "changes",
    [
        {"fraction_bits": 7},
        {"fraction_bits": 31},
        {"clip_norm": 0.0},
        {"clip_norm": np.inf},
        {"clip_value": 128.0},
        {"max_weight": 0},
        {"fraction_bits": 8, "max_weight": 257},
        {"clip_value": 0.3},
        {"clip_value": 127.99999999},
        {"clip_value": np.nan},
    ],
)
def test_rings_out_of_range_are_refused(changes):
    with pytest.raises(ConfigError):
        Ring(**changes)

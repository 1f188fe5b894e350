"""Averaging: equal to plain integers, whatever the order, the block size and a mask that cancels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.averaging import blocks_of, changed, mean_blocks, ring_sum
from fedmentor.errors import UpdateRejected
from fedmentor.secagg.ring import Ring, quantise

PARAMETERS = 11
RING = Ring()


class _Words:
    """Ring words in memory."""

    def __init__(self, words):
        self._words = words

    def words(self, start, stop):
        return self._words[start:stop]


class _Model:
    def __init__(self, vector):
        self._vector = vector

    def parameters(self, start, stop):
        return self._vector[start:stop]


def _updates(seed, sites):
    random = np.random.default_rng(seed)
    return [
        quantise(random.uniform(-1, 1, PARAMETERS).astype(np.float32), int(random.integers(1, 2000)), RING) for _ in range(sites)
    ]


def _plain_mean(updates):
    """Python integers and one float64 division, the definition that the ring must meet bit for bit."""
    signed = [[int(word) for word in update.view(np.int32)] for update in updates]
    sums = [sum(column) for column in zip(*signed, strict=True)]
    return np.array([np.float32(np.float64(value) / np.float64(sums[-1])) for value in sums[:-1]])


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 15), st.randoms(use_true_random=False))
def test_the_mean_is_that_of_plain_integers_in_any_order_and_block_size(seed, sites, block, random):
    updates = _updates(seed, sites)
    expected = _plain_mean(updates)
    random.shuffle(updates)
    found = np.concatenate(list(mean_blocks([_Words(update) for update in updates], PARAMETERS, block)))
    assert found.tobytes() == expected.tobytes()


@given(st.integers(0, 2**32), st.integers(2, 6))
def test_masks_that_cancel_change_nothing(seed, sites):
    updates = _updates(seed, sites)
    random = np.random.default_rng(seed + 1)
    masks = [random.integers(0, 2**32, PARAMETERS + 1, dtype=np.uint32) for _ in range(sites - 1)]
    masks.append(np.zeros(PARAMETERS + 1, np.uint32) - ring_sum([_Words(mask) for mask in masks], 0, PARAMETERS + 1))
    masked = [_Words(update + mask) for update, mask in zip(updates, masks, strict=True)]
    assert np.concatenate(list(mean_blocks(masked, PARAMETERS, 4))).tobytes() == _plain_mean(updates).tobytes()


@given(st.integers(0, 2**32), st.integers(1, 15))
def test_the_next_model_is_the_model_plus_the_mean(seed, block):
    updates = _updates(seed, 3)
    model = np.random.default_rng(seed).normal(size=PARAMETERS).astype(np.float32)
    found = np.concatenate(list(changed(_Model(model), mean_blocks([_Words(update) for update in updates], PARAMETERS, block))))
    assert found.dtype == np.float32
    assert found.tobytes() == (model + _plain_mean(updates)).tobytes()


def test_weights_are_numbers_of_examples():
    ones, zeros = np.ones(PARAMETERS, np.float32), np.zeros(PARAMETERS, np.float32)
    mean = np.concatenate(list(mean_blocks([_Words(quantise(ones, 300, RING)), _Words(quantise(zeros, 100, RING))], PARAMETERS)))
    assert np.allclose(mean, 0.75, atol=1e-6)


def test_nothing_has_no_mean():
    with pytest.raises(UpdateRejected, match="not positive"):
        list(mean_blocks([], PARAMETERS))


def test_sources_are_not_written_into():
    words = np.arange(8, dtype=np.uint32)
    ring_sum([_Words(words), _Words(words)], 0, 8)
    assert words.tolist() == list(range(8))


def test_blocks_cover_everything_once():
    words = np.arange(10, dtype=np.uint32)
    assert np.concatenate(list(blocks_of(_Words(words), 9, 4))).tolist() == list(range(9))
    assert list(blocks_of(_Words(words), 0, 4)) == []

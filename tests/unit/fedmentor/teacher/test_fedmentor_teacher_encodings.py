"""The stated error of every encoding is an upper bound and not a loose one; packing and run lengths lose nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedmentor.teacher.contract import probability
from fedmentor.teacher.encodings import (
    LOGITS_ERROR,
    PROBABILITY_ERROR,
    decode_probability,
    encode_probability,
    float16_logits,
    mask_of_runs,
    pack,
    run_lengths,
    unpack,
)

LOGITS = np.linspace(-20, 20, 400_001)
EXACT = 1 / (1 + np.exp(-LOGITS))


def test_float16_logits_keep_probabilities_within_the_stated_error():
    error = np.abs(probability(float16_logits(LOGITS)) - EXACT).max()
    assert LOGITS_ERROR / 2 < error <= LOGITS_ERROR


@pytest.mark.parametrize("encoding", sorted(PROBABILITY_ERROR))
def test_probabilities_stay_within_the_stated_error(encoding):
    encoded = encode_probability(LOGITS, encoding)
    assert encoded.dtype == encoding
    error = np.abs(decode_probability(encoded) - EXACT).max()
    assert PROBABILITY_ERROR[encoding] / 2 < error <= PROBABILITY_ERROR[encoding]


@given(arrays.arrays(st.sampled_from(["f2", "u2", "u1"]), st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_packing_loses_nothing(values):
    back = unpack(pack(values), values.dtype.name, values.shape)
    assert back.tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("uint8", (3, 3)), ("uint8", (5, 4)), ("uint8", (-4, -4)), ("object", (4, 4)), ("uint8", (1 << 30, 1 << 30)), ("x9", (4, 4))],
)
def test_what_unpacks_to_something_else_is_refused(dtype, shape):
    packed = pack(np.zeros((4, 4), np.uint8))
    with pytest.raises((ValueError, TypeError)):
        unpack(packed, dtype, shape)


def test_a_bomb_is_not_unpacked_beyond_its_declared_size():
    bomb = pack(np.zeros(50 << 20, np.uint8))
    assert bomb.size < 1 << 20
    with pytest.raises(ValueError, match="another size"):
        unpack(bomb, "uint8", (4, 4))
    with pytest.raises(ValueError, match="zlib"):
        unpack(np.arange(9, dtype=np.uint8), "uint8", (3, 3))


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_give_the_mask_back(mask):
    runs = run_lengths(mask)
    assert sum(runs) == mask.size
    assert all(run > 0 for run in runs[1:])
    assert (mask_of_runs(runs, mask.shape) == mask).all()


def test_run_lengths_are_cocos():
    # Down the columns: background, two of foreground, background.
    assert run_lengths(np.array([[0, 1, 0], [1, 0, 0]], bool)) == [1, 2, 3]
    assert run_lengths(np.ones((2, 2), bool)) == [0, 4]


def test_logits_beyond_float16_become_its_largest_number():
    assert float16_logits(np.array([-1e9, 0.5, 1e9], np.float32)).tolist() == [-65504.0, 0.5, 65504.0]

"""The key stream: AES-256-CTR as the standard has it, and numbers that are distributed as they should be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fedmentor.privacy.noise import KeyStream

NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")


def test_the_stream_is_aes_256_in_counter_mode():
    # SP 800-38A, F.1.5: the block of zeros under this key, from an independent implementation
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - beside its use

    encryptor = Cipher(algorithms.AES256(NIST_KEY), modes.ECB()).encryptor()  # noqa: S305 - one block, as CTR has it
    block = encryptor.update((0).to_bytes(16, "big")) + encryptor.update((1).to_bytes(16, "big"))
    words = np.frombuffer(block, "<u8")
    assert KeyStream(NIST_KEY).uniform(4).tolist() == [int(word >> np.uint64(11)) / 2**53 for word in words]


def test_pieces_are_the_whole():
    whole, pieces = KeyStream(NIST_KEY), KeyStream(NIST_KEY)
    assert np.array_equal(whole.uniform(10), np.concatenate([pieces.uniform(3), pieces.uniform(7)]))


def test_another_key_gives_other_numbers():
    assert not np.array_equal(KeyStream(bytes(32)).uniform(8), KeyStream(NIST_KEY).uniform(8))


def test_uniform_numbers_are_uniform():
    values = KeyStream(NIST_KEY).uniform(50_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("count", [50_000, 50_001])
def test_gaussian_numbers_are_gaussian(count: int):
    values = KeyStream(NIST_KEY).gaussian(count)
    assert values.shape == (count,)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(values[: count // 2], values[count // 2 : count // 2 * 2])[0, 1]) < 0.02


def test_numbers_below_a_bound_take_every_value():
    stream = KeyStream(NIST_KEY)
    drawn = np.array([stream.below(6) for _ in range(3000)])
    assert set(drawn) == set(range(6))
    assert stats.chisquare(np.bincount(drawn)).pvalue > 1e-3


def test_nothing_is_drawn_where_nothing_is_asked():
    assert KeyStream(NIST_KEY).gaussian(0).size == 0

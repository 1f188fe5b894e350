"""Randomness that an observer can neither predict nor undo: an AES-256-CTR key stream as uniform and Gaussian numbers.

The Mersenne Twister behind torch and numpy is recovered from 624 outputs, and a model publishes noise by the hundred thousand; a
release with known noise has no privacy. Opacus' own ``secure_mode`` needs a package that stopped at torch 1.8, hence this one.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Floats = npt.NDArray[np.float64]
Entropy = Callable[[int], bytes]
"""Gives so many random bytes; os.urandom, and in tests something that repeats."""

KEY_BYTES = 32
MANTISSA_BITS = 53
DRAWS = 4
"""Gaussians summed into one, n = 2 in Holohan & Braghin 2021 (arXiv 2107.10138, section 5.1): which floats can occur gives nothing
away that takes less than 2^159 tries. Opacus' secure mode does the same."""


class KeyStream:
    """Numbers from one key; a key is never used for two streams.

    Args:
        key: 32 random bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def uniform(self, count: int) -> Floats:
        """Float64 [count] in [0, 1), multiples of 2^-53."""
        words = np.frombuffer(self._encryptor.update(bytes(8 * count)), "<u8")
        numbers: Floats = (words >> np.uint64(64 - MANTISSA_BITS)) * 2.0**-MANTISSA_BITS
        return numbers

    def below(self, bound: int) -> int:
        """A whole number from 0 to bound - 1; a bias of bound / 2^53 is not corrected."""
        return int(self.uniform(1)[0] * bound)

    def gaussian(self, count: int) -> Floats:
        """Float64 [count] of mean 0 and deviation 1, each the sum of DRAWS Box-Muller draws, scaled."""
        draws = self._box_muller(DRAWS * count).reshape(DRAWS, count)
        total: Floats = draws.sum(axis=0) / np.sqrt(DRAWS)
        return total

    def _box_muller(self, count: int) -> Floats:
        pairs = -(-count // 2)
        # 1 - u is in (0, 1]: its logarithm is finite.
        radius = np.sqrt(-2 * np.log(1 - self.uniform(pairs)))
        angle = 2 * np.pi * self.uniform(pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


NOISE_BLOCK = 1 << 12
"""Numbers that one key of PlacedNoise gives."""


class PlacedNoise:
    """Gaussian noise for the places of a long vector: which part is asked for when changes nothing, the seed fixes every number.

    Args:
        seed: 32 random bytes, used for one vector.
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = seed

    def gaussian(self, start: int, stop: int) -> Floats:
        """Float64 [stop - start] of mean 0 and deviation 1 for the places ``start`` to ``stop``."""
        first = start // NOISE_BLOCK
        blocks = [self._block(index) for index in range(first, -(-stop // NOISE_BLOCK))]
        return np.concatenate([*blocks, np.empty(0)])[start - first * NOISE_BLOCK : stop - first * NOISE_BLOCK]

    def _block(self, index: int) -> Floats:
        key = hmac.digest(self._seed, b"fedmentor/placed-noise/1\n" + index.to_bytes(8, "little"), "sha256")
        return KeyStream(key).gaussian(NOISE_BLOCK)

"""The ring in which updates are summed: 32-bit integers with ``fraction_bits`` fraction bits, wrapping.

Integers commute and associate where floats do not, so the sum is the same bit for bit whatever the order of arrival, masked or not.
Site and coordinator share this module; a masked vector is the same type of words with a mask added in the same ring.

Steps at a site (shapes: d parameters)::

    delta float32 [d] -> L2 clip -> coordinate clip -> * w -> * 2**f -> round -> int32 -> uint32 [d + 1], last word w * 2**f

with w = min(n, max_weight) / max_weight for n training patients or images, so that 0 < w <= 1.
The mean of the accepted updates is sum[:-1] / sum[-1].
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from fedmentor.errors import ConfigError, UpdateRejected
from fedmentor.tensors import FloatVector

RingWords = npt.NDArray[np.uint32]

WORD_BYTES = 4


@dataclass(frozen=True)
class Ring:
    """The numbers that fix the ring of a run; part of the run's manifest.

    Attributes:
        fraction_bits: f; the resolution is 2**-f.
        clip_norm: largest L2 norm of a delta.
        clip_value: largest magnitude of one coordinate of a delta; a float32 number.
        max_weight: number of examples above which a site gains no more weight; at most 2**f.
    """

    fraction_bits: int = 24
    clip_norm: float = 100.0
    clip_value: float = 1.0
    max_weight: int = 1000

    def __post_init__(self) -> None:
        if not 8 <= self.fraction_bits <= 30:
            raise ConfigError(f"fraction_bits is {self.fraction_bits}, expected 8 to 30")
        if not (self.clip_norm > 0 and np.isfinite(self.clip_norm)):
            raise ConfigError("clip_norm must be a positive number")
        if not (self.clip_value > 0 and self.clip_value * 2.0**self.fraction_bits < 2**31):
            raise ConfigError("clip_value must be positive and fit the ring")
        nearest = float(np.float32(self.clip_value))
        if nearest != self.clip_value:
            # Deltas are float32: clipping would round a bound in between up, and honest values would then be over it.
            raise ConfigError(f"clip_value {self.clip_value} is not a float32 number", cure=f"take the nearest one, {nearest!r}")
        if not 1 <= self.max_weight <= 2**self.fraction_bits:
            # One example weighs 2**fraction_bits / max_weight units; under one unit it would count for nothing, or for too much.
            raise ConfigError(f"max_weight is {self.max_weight}, expected 1 to 2**fraction_bits = {2**self.fraction_bits}")

    def check_sites(self, sites: int) -> None:
        """Refuse more sites than the ring can sum without wrapping: sites * round(max(clip_value, 1) * 2**f) < 2**31.

        Raises:
            ConfigError: too many sites for these fraction bits.
        """
        # Rounded up: every site's largest word is.
        if sites * ceil(max(self.clip_value, 1.0) * 2.0**self.fraction_bits) >= 2**31:
            raise ConfigError(f"{sites} sites do not fit a ring of {self.fraction_bits} fraction bits", cure="lower fraction_bits")

    def weight_of(self, examples: int) -> float:
        """W = min(n, max_weight) / max_weight.

        Raises:
            UpdateRejected: no examples.
        """
        if examples < 1:
            raise UpdateRejected("an update from no examples has no weight")
        return min(examples, self.max_weight) / self.max_weight


def clip_delta(delta: FloatVector, ring: Ring) -> FloatVector:
    """Scale to the L2 norm bound, then clip each coordinate.

    Args:
        delta: float32 [d], local minus global parameters.

    Raises:
        UpdateRejected: a value is not finite.
    """
    norm = float(np.linalg.norm(delta.astype(np.float64)))
    if not np.isfinite(norm):
        raise UpdateRejected("the update has values that are not finite", cure="lower the learning rate of this site")
    scale = min(1.0, ring.clip_norm / norm) if norm > 0 else 1.0
    clipped: FloatVector = np.clip(delta * np.float32(scale), -ring.clip_value, ring.clip_value).astype(np.float32)
    return clipped


def quantise(delta: FloatVector, examples: int, ring: Ring) -> RingWords:
    """Encode one site's clipped, weighted delta.

    Args:
        delta: float32 [d].
        examples: number of training examples behind it, at least 1.

    Returns:
        uint32 [d + 1]; the last word is the weight.

    Raises:
        UpdateRejected: not finite, or no examples.
    """
    weight = ring.weight_of(examples)
    one = 2.0**ring.fraction_bits
    words = np.empty(delta.size + 1, np.int32)
    # float64: the product of a float32 and 2**24 does not round twice, so every platform gives the same integer.
    words[:-1] = np.rint(clip_delta(delta, ring).astype(np.float64) * (weight * one))
    words[-1] = round(weight * one)
    return words.view(np.uint32)


def add_in_place(total: RingWords, words: RingWords) -> None:
    """Total += words in the ring (wraps, by definition of uint32)."""
    np.add(total, words, out=total)


def weighted_mean(total: RingWords) -> FloatVector:
    """Decode the sum of accepted updates to their weighted mean.

    Args:
        total: uint32 [d + 1].

    Returns:
        float32 [d].

    Raises:
        UpdateRejected: the summed weight is not positive (nothing was summed, or a site lied about its weight).
    """
    signed = total.view(np.int32)
    weight = int(signed[-1])
    if weight <= 0:
        raise UpdateRejected("the summed weight of the round is not positive")
    return (signed[:-1].astype(np.float64) / weight).astype(np.float32)

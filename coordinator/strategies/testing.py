"""Updates and models in memory, for tests and benchmarks of strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.averaging import BLOCK_WORDS
from coordinator.strategies.strategy import Combination, Deltas, Strategy, Submission
from fedmentor.ids import SiteId
from fedmentor.secagg.ring import Ring, RingWords, quantise
from fedmentor.tensors import FloatVector


@dataclass(frozen=True)
class HeldWords:
    """A coordinator.averaging.WordSource over an array, uint32 [parameters + 1]."""

    array: RingWords

    def words(self, start: int, stop: int) -> RingWords:
        """See WordSource."""
        return self.array[start:stop]


@dataclass(frozen=True)
class HeldModel:
    """A coordinator.averaging.ParameterSource over an array, float32 [parameters]."""

    array: FloatVector

    def parameters(self, start: int, stop: int) -> FloatVector:
        """See ParameterSource."""
        return self.array[start:stop]


def held_update(site: str, delta: npt.ArrayLike, examples: int, ring: Ring) -> Submission:
    """An update as admission lets it in: clipped to the ring, weighted, quantised."""
    return Submission(SiteId(site), HeldWords(quantise(np.asarray(delta, np.float32), examples, ring)))


def decoded(update: Submission, parameters: int) -> Deltas:
    """The delta that the coordinator sees, float64 [parameters]."""
    words = update.words.words(0, parameters + 1).view(np.int32).astype(np.float64)
    delta: Deltas = words[:-1] / words[-1]
    return delta


def combined(
    strategy: Strategy, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS
) -> tuple[FloatVector, Combination]:
    """The whole change, float32 [parameters], and what else the rule says; the blocks of the latter are used up."""
    combination = strategy.combine(updates, parameters, block_words)
    return np.concatenate([*combination.blocks, np.empty(0, np.float32)]), combination

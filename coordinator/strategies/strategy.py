"""The port: accepted updates in, the change of the global model out, block by block.

Every rule keeps what averaging in the ring gives: the result is the same bit for bit whatever the order of the updates and the size
of the blocks, and memory is blocks times sites. What decides over whole updates (norms, distances) is exact integer arithmetic
(coordinator.strategies.exact); what is done value by value depends on nothing but the values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from coordinator.averaging import BLOCK_WORDS, WordSource
from fedmentor.errors import QuorumMissed
from fedmentor.ids import SiteId
from fedmentor.tensors import FloatVector

Deltas = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Submission:
    """One site's accepted update: uint32 [parameters + 1], the last word is the weight; admitted, so the weight is positive."""

    site: SiteId
    words: WordSource


@dataclass(frozen=True)
class Combination:
    """What a rule made of the updates.

    Attributes:
        blocks: the change of the global model, as consecutive float32 blocks; read once.
        shares: each site's weight in it; they sum to 1, or to less where sites that are missing count as zeros. Rules that work
            value by value count every site the same.
        scaled: sites whose update was shortened, and by what factor.
        left_out: sites whose update has no part in it.
    """

    blocks: Iterator[FloatVector]
    shares: Mapping[SiteId, float]
    scaled: Mapping[SiteId, float] = field(default_factory=dict)
    left_out: tuple[SiteId, ...] = ()


class Strategy(Protocol):
    """A rule that combines updates."""

    @property
    def least_updates(self) -> int:
        """Fewest updates that it combines."""
        ...

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """Combine updates; each site has one.

        Args:
            parameters: values of the model.
            block_words: words of one source that are in memory at once; the result does not depend on it.

        Raises:
            QuorumMissed: fewer than ``least_updates``.
        """
        ...


def in_order(updates: Sequence[Submission], least: int) -> tuple[Submission, ...]:
    """The updates sorted by site, so that no float sum depends on who came first.

    Raises:
        QuorumMissed: fewer than ``least``.
    """
    if len(updates) < least:
        raise QuorumMissed(f"{len(updates)} updates are fewer than the {least} that the rule needs")
    return tuple(sorted(updates, key=lambda update: update.site))


def weight_words(updates: Sequence[Submission], parameters: int) -> tuple[int, ...]:
    """Each update's weight word."""
    return tuple(int(update.words.words(parameters, parameters + 1).view(np.int32)[0]) for update in updates)


def signed(update: Submission, start: int, stop: int) -> Deltas:
    """Words ``start`` to ``stop`` as signed numbers, exact; float64 [stop - start]."""
    return update.words.words(start, stop).view(np.int32).astype(np.float64)


def deltas(updates: Sequence[Submission], weights: Sequence[int], start: int, stop: int) -> Deltas:
    """Parameters ``start`` to ``stop`` of every site's delta, freed of its weight; float64 [sites, stop - start]."""
    return np.stack([signed(update, start, stop) / weight for update, weight in zip(updates, weights, strict=True)])


def spans(parameters: int, block_words: int) -> Iterator[tuple[int, int]]:
    """Consecutive (start, stop)."""
    for start in range(0, parameters, block_words):
        yield start, min(start + block_words, parameters)


def block_for(updates: Sequence[object], block_words: int) -> int:
    """A block of which every site's fits in memory together where one site's block of ``block_words`` does."""
    return max(1024, block_words // max(1, len(updates)))


def mean_of_rows(rows: Deltas) -> FloatVector:
    """The mean over axis 0, float32 [columns]; one row after the other, so that every column is summed in the same order."""
    total = np.zeros(rows.shape[1], np.float64)
    for row in rows:
        total += row
    mean: FloatVector = (total / len(rows)).astype(np.float32)
    return mean


def equal_shares(updates: Sequence[Submission]) -> dict[SiteId, float]:
    """The same share for everybody."""
    return {update.site: 1.0 / len(updates) for update in updates}

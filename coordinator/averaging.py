"""Federated averaging (FedAvg: McMahan et al., arXiv 1602.05629) in the ring of fedmentor.secagg.ring. Pure: values in, values out.

Works block by block over sources that can be read anywhere, so memory is a few blocks whatever the number of sites and parameters.
Integer sums commute: the result is the same bit for bit in any order of sites and for any block size. A mask is one more source of
the same ring, so secure aggregation needs no other path.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from fedmentor.secagg.ring import RingWords, add_in_place, weighted_mean
from fedmentor.tensors import FloatVector

BLOCK_WORDS = 1 << 18
"""Words a block: 1 MiB, which fits a core's cache."""


class WordSource(Protocol):
    """Ring words that lie somewhere."""

    def words(self, start: int, stop: int) -> RingWords:
        """Words ``start`` to ``stop``, uint32 [stop - start]; the caller does not write into them."""
        ...


class ParameterSource(Protocol):
    """A model's flat vector that lies somewhere."""

    def parameters(self, start: int, stop: int) -> FloatVector:
        """Parameters ``start`` to ``stop``, float32 [stop - start]; the caller does not write into them."""
        ...


def blocks_of(source: WordSource, count: int, block_words: int = BLOCK_WORDS) -> Iterator[RingWords]:
    """The first ``count`` words in consecutive blocks."""
    for start in range(0, count, block_words):
        yield source.words(start, min(start + block_words, count))


def ring_sum(sources: Sequence[WordSource], start: int, stop: int) -> RingWords:
    """The wrapping sum of all sources over one block.

    Returns:
        uint32 [stop - start], a fresh array.
    """
    total: RingWords = np.zeros(stop - start, np.uint32)
    for source in sources:
        add_in_place(total, source.words(start, stop))
    return total


def mean_blocks(sources: Sequence[WordSource], parameters: int, block_words: int = BLOCK_WORDS) -> Iterator[FloatVector]:
    """The weighted mean of the updates, as consecutive blocks.

    Args:
        sources: uint32 [parameters + 1] each; the last word is the weight.

    Yields:
        float32 blocks that together have ``parameters`` values.

    Raises:
        UpdateRejected: the summed weight is not positive.
    """
    weight = ring_sum(sources, parameters, parameters + 1)
    for start in range(0, parameters, block_words):
        block = ring_sum(sources, start, min(start + block_words, parameters))
        yield weighted_mean(np.concatenate((block, weight)))


def changed(model: ParameterSource, change: Iterable[FloatVector]) -> Iterator[FloatVector]:
    """A model plus a change that comes in consecutive blocks, as consecutive float32 blocks."""
    start = 0
    for block in change:
        yield model.parameters(start, start + block.size) + block
        start += block.size

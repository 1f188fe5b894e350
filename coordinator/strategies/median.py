"""Coordinate-wise median (Yin, Chen, Kannan & Bartlett 2018, arXiv 1803.01498, definition 1 and algorithm 1, option I)::

    delta[c] = median over sites k of delta_k[c]

Every value of the result lies between two honest sites' values as long as fewer than half of the sites are malicious. Ignores
weights: a site's number of images is its own word. Costs accuracy where hospitals differ, because the median of skewed values is
not their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from coordinator.averaging import BLOCK_WORDS
from coordinator.strategies.strategy import (
    Combination,
    Submission,
    block_for,
    deltas,
    equal_shares,
    in_order,
    mean_of_rows,
    spans,
    weight_words,
)
from fedmentor.robust import CoordinateMedian as Rule
from fedmentor.tensors import FloatVector


class CoordinateMedian:
    """See the module. Of two middle values it takes the mean.

    Args:
        rule: what the manifest says.
    """

    def __init__(self, rule: Rule) -> None:
        self.least_updates = rule.least_updates

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """See Strategy."""
        chosen = in_order(updates, self.least_updates)
        return Combination(inner_means(chosen, (len(chosen) - 1) // 2, parameters, block_words), equal_shares(chosen))


def inner_means(updates: Sequence[Submission], cut: int, parameters: int, block_words: int) -> Iterator[FloatVector]:
    """The mean of each coordinate without its ``cut`` smallest and largest values, as consecutive blocks."""
    weights = weight_words(updates, parameters)
    for start, stop in spans(parameters, block_for(updates, block_words)):
        ordered = np.sort(deltas(updates, weights, start, stop), axis=0)
        yield mean_of_rows(ordered[cut : len(updates) - cut])

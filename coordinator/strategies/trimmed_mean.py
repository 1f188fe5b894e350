"""Coordinate-wise trimmed mean (Yin, Chen, Kannan & Bartlett 2018, arXiv 1803.01498, definition 2 and algorithm 1, option II)::

    delta[c] = mean of {delta_k[c]} without its f largest and f smallest values

Every value of the result lies between two honest sites' values as long as at most f sites are malicious and n >= 2 f + 1. Ignores
weights: a site's number of images is its own word. Keeps more of what honest sites say than the median does.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.averaging import BLOCK_WORDS
from coordinator.strategies.median import inner_means
from coordinator.strategies.strategy import Combination, Submission, equal_shares, in_order
from fedmentor.robust import TrimmedMean as Rule


class TrimmedMean:
    """See the module.

    Args:
        rule: f.
    """

    def __init__(self, rule: Rule) -> None:
        self._cut = rule.malicious
        self.least_updates = rule.least_updates

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """See Strategy."""
        chosen = in_order(updates, self.least_updates)
        return Combination(inner_means(chosen, self._cut, parameters, block_words), equal_shares(chosen))

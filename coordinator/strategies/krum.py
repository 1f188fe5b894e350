"""Krum and multi-Krum (Blanchard, El Mhamdi, Guerraoui & Stainer 2017, NeurIPS, sections 4 and 5)::

    s(i) = sum of |delta_i - delta_j|^2 over the n - f - 2 updates j closest to i
    delta = mean of the m updates with the smallest s

for n >= 2 f + 3 updates of which f may be malicious. m = 1 is Krum: the published model is then one site's update in the clear, so
nodes that ask for a quorum of two or more sites refuse such a run. Ignores weights. What is left out is left out whole: always
n - m updates, also where every site is honest, and then those of the hospitals that are unlike the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from coordinator.averaging import BLOCK_WORDS
from coordinator.strategies.exact import gram, squared_distances
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
from fedmentor.robust import Krum as Rule
from fedmentor.tensors import FloatVector


class Krum:
    """See the module. Equal scores are told apart by the sites' names.

    Args:
        rule: f and m.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.least_updates = rule.least_updates

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """See Strategy."""
        everybody = in_order(updates, self.least_updates)
        weights = weight_words(everybody, parameters)
        products = gram([update.words for update in everybody], parameters, block_words)
        scores = krum_scores(squared_distances(products, weights), self._rule.malicious)
        count = self._rule.selected or len(everybody) - self._rule.malicious
        best = sorted(range(len(everybody)), key=lambda i: (scores[i], everybody[i].site))[:count]
        chosen = [everybody[i] for i in sorted(best)]
        left_out = tuple(everybody[i].site for i in range(len(everybody)) if i not in best)
        return Combination(_means(chosen, parameters, block_words), equal_shares(chosen), left_out=left_out)


def krum_scores(distances: Sequence[Sequence[Fraction]], malicious: int) -> list[Fraction]:
    """s(i) of the module, exact.

    Args:
        distances: squared distances, [n][n].
        malicious: f, with n >= 2 f + 3.
    """
    count = len(distances)
    return [
        sum(sorted(distances[i][j] for j in range(count) if j != i)[: count - malicious - 2], Fraction(0)) for i in range(count)
    ]


def _means(updates: Sequence[Submission], parameters: int, block_words: int) -> Iterator[FloatVector]:
    weights = weight_words(updates, parameters)
    for start, stop in spans(parameters, block_for(updates, block_words)):
        yield mean_of_rows(deltas(updates, weights, start, stop))

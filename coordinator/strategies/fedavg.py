"""FedAvg (McMahan, Moore, Ramage, Hampson & Aguera y Arcas 2017, arXiv 1602.05629, algorithm 1): the weighted mean in the ring.

::

    delta = sum_k n_k delta_k / sum_k n_k

No defence: one site moves the mean as far as the run's ``clip_norm`` and ``max_weight`` let it.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.averaging import BLOCK_WORDS, mean_blocks
from coordinator.strategies.strategy import Combination, Submission, in_order, weight_words


class FedAvg:
    """See the module. Weighs sites by their images."""

    least_updates = 1

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """See Strategy."""
        chosen = in_order(updates, self.least_updates)
        weights = weight_words(chosen, parameters)
        shares = {update.site: weight / sum(weights) for update, weight in zip(chosen, weights, strict=True)}
        return Combination(mean_blocks([update.words for update in chosen], parameters, block_words), shares)

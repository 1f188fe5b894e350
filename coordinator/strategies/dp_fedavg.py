"""DP-FedAvg with central noise (McMahan, Ramage, Talwar & Zhang 2018, arXiv 1710.06963, algorithm 1, f_f, flat clipping)::

    delta = (sum_k delta_k * min(1, C / |delta_k|_2) + N(0, (z C)^2)) / K

All sites weigh the same, so the sum has sensitivity C to one site's presence whatever the site claims; K is the size of the roster
whoever delivered, so the denominator tells nothing. The sum is exact integer arithmetic and cut towards zero: no site adds more
than C.

fedmentor.privacy.central accounts for it, once a round: the noise of an attempt comes from one seed, which the journal keeps until
the round is published, so computing it again after a crash gives the same model and never a second look at the same sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from coordinator.averaging import BLOCK_WORDS
from coordinator.strategies.exact import squared_norms, squares
from coordinator.strategies.norm_clipping import Contribution, clip_factor, contribution, scaled_sites, sum_block
from coordinator.strategies.strategy import Combination, Submission, in_order, spans, weight_words
from fedmentor.privacy.noise import PlacedNoise
from fedmentor.tensors import FloatVector


@dataclass(frozen=True)
class DpFedAvg:
    """See the module.

    Attributes:
        clip_norm: C.
        noise_multiplier: z.
        sites: K, the size of the roster.
        one: what 1.0 is in units of a ring word, 2**fraction_bits.
        seed: 32 bytes from which this attempt's noise comes; used for one sum.
    """

    clip_norm: float
    noise_multiplier: float
    sites: int
    one: int
    seed: bytes
    least_updates: int = 1

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """See Strategy. Shares are of what was delivered; sites that are missing count as updates of zero."""
        chosen = in_order(updates, self.least_updates)
        weights = weight_words(chosen, parameters)
        norms = squared_norms(squares([update.words for update in chosen], parameters, block_words), weights)
        bound = Fraction(self.clip_norm) ** 2
        parts = [
            contribution(update, weight, self.one, clip_factor(norm, bound))
            for update, weight, norm in zip(chosen, weights, norms, strict=True)
        ]
        shares = {update.site: 1.0 / self.sites for update in chosen}
        return Combination(self._blocks(parts, parameters, block_words), shares, scaled_sites(parts))

    def _blocks(self, parts: Sequence[Contribution], parameters: int, block_words: int) -> Iterator[FloatVector]:
        noise = PlacedNoise(self.seed)
        deviation = self.noise_multiplier * self.clip_norm * self.one
        for start, stop in spans(parameters, block_words):
            total = sum_block(parts, start, stop) + deviation * noise.gaussian(start, stop)
            yield (total / (self.sites * self.one)).astype(np.float32)

"""Norm clipping (Sun, Kairouz, Suresh & McMahan 2019, arXiv 1911.07963, section 4, "norm thresholding of updates")::

    delta = sum_k w_k delta_k / max(1, |delta_k|_2 / M) / sum_k w_k

with the bound M fixed by the manifest or the median norm of the round's updates, and weights w_k capped at a multiple of the
round's median weight. Shejwalkar, Houmansadr, Kairouz & Ramage 2022 (IEEE S&P, arXiv 2108.10241) find this enough against the share
of malicious sites that a closed roster makes realistic.

A malicious site is one voice among n: it moves the mean by at most its capped share times M. It is not found out, and it may point
that voice anywhere. Weights count up to the cap; with ``weight_cap`` 1 a site that lies about its images gains nothing over the
median site.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, sqrt

import numpy as np
import numpy.typing as npt

from coordinator.averaging import BLOCK_WORDS
from coordinator.strategies.exact import low_median, squared_norms, squares
from coordinator.strategies.strategy import Combination, Submission, in_order, signed, spans, weight_words
from fedmentor.ids import SiteId
from fedmentor.robust import NormClipping as Rule
from fedmentor.tensors import FloatVector

SLACK = 1 - 2.0**-50
"""Factors are made this much smaller than computed, which is more than their rounding: what is clipped is never over the bound."""


@dataclass(frozen=True)
class Contribution:
    """What one site adds to a sum: its words times ``scale``, cut towards zero, and ``weight``.

    Attributes:
        update: whose.
        factor: by which its delta was shortened, at most 1.
        scale: factor of the words.
        weight: in the units of a weight word.
    """

    update: Submission
    factor: float
    scale: float
    weight: int

    def values(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Words ``start`` to ``stop``, int64 [stop - start]; towards zero, so that rounding lengthens nothing."""
        return np.trunc(signed(self.update, start, stop) * self.scale).astype(np.int64)


class NormClipping:
    """See the module.

    Args:
        rule: bound and cap.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.least_updates = rule.least_updates

    def combine(self, updates: Sequence[Submission], parameters: int, block_words: int = BLOCK_WORDS) -> Combination:
        """See Strategy."""
        chosen = in_order(updates, self.least_updates)
        weights = weight_words(chosen, parameters)
        norms = squared_norms(squares([update.words for update in chosen], parameters, block_words), weights)
        bound = low_median(norms) if self._rule.norm is None else Fraction(self._rule.norm) ** 2
        most = floor(Fraction(self._rule.weight_cap) * low_median([Fraction(weight) for weight in weights]))
        parts = [
            contribution(update, weight, min(weight, most), clip_factor(norm, bound))
            for update, weight, norm in zip(chosen, weights, norms, strict=True)
        ]
        total = sum(part.weight for part in parts)
        shares = {part.update.site: part.weight / total for part in parts}
        return Combination(_means(parts, total, parameters, block_words), shares, scaled_sites(parts))


def clip_factor(squared_norm: Fraction, squared_bound: Fraction) -> float:
    """By what to multiply a delta so that its norm is at most the bound; 1.0 exactly where it is already."""
    if squared_norm <= squared_bound:
        return 1.0
    return sqrt(squared_bound / squared_norm) * SLACK


def contribution(update: Submission, weight: int, counted: int, factor: float) -> Contribution:
    """A site's part where its weight word ``weight`` counts as ``counted``; nothing is scaled where nothing changes."""
    same = counted == weight and factor == 1.0
    return Contribution(update, factor, 1.0 if same else factor * counted / weight * SLACK, counted)


def sum_block(parts: Sequence[Contribution], start: int, stop: int) -> npt.NDArray[np.int64]:
    """The exact sum of all contributions over one block, int64 [stop - start]."""
    total = np.zeros(stop - start, np.int64)
    for part in parts:
        total += part.values(start, stop)
    return total


def scaled_sites(parts: Sequence[Contribution]) -> dict[SiteId, float]:
    """Sites that were clipped, and their factors."""
    return {part.update.site: part.factor for part in parts if part.factor < 1.0}


def _means(parts: Sequence[Contribution], weight: int, parameters: int, block_words: int) -> Iterator[FloatVector]:
    for start, stop in spans(parameters, block_words):
        yield (sum_block(parts, start, stop) / weight).astype(np.float32)

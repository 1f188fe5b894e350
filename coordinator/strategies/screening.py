"""Free riders: sites that send something without having trained. Pure; what follows from a flag is coordinator.conduct's.

Three cheap forges are told, each by exact arithmetic:

* ZERO: the norm of the delta is under ZERO_SHARE of the round's median norm;
* ECHO: the cosine between the delta and the last round's change of the global model, which every site can compute from two models
  that it fetched, is over ECHO_COSINE;
* COPY: the words are bit for bit those of another site in this round, or the site's own of the round before. Both of a pair are
  flagged: who copied cannot be seen from here, and honest sites never send the same words.

A free rider who adds enough noise of its own passes as a site that trains badly: Fraboni, Vidal & Lorenzi 2021 (AISTATS, arXiv
2006.11901) show that such updates cannot be told apart from honest ones. What is flagged here is idleness, not cunning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from coordinator.averaging import BLOCK_WORDS, ParameterSource, WordSource
from coordinator.strategies.exact import gram, low_median, squared_norms
from coordinator.strategies.strategy import Submission, in_order, weight_words
from fedmentor.ids import Digest, SiteId
from fedmentor.robust import Flag
from fedmentor.secagg.ring import Ring, RingWords

ZERO_SHARE = Fraction(1, 1000)
"""Honest norms of one round lie within a factor of ten or so of each other, also where sites differ in size."""

ECHO_COSINE = Fraction(999, 1000)
"""A replay differs from the change it replays by rounding alone; honest updates share a direction only in part."""


@dataclass(frozen=True)
class ModelChange:
    """What one round changed in the global model, as ring words of weight one; a coordinator.averaging.WordSource.

    Attributes:
        before, after: the model before and after.
        ring: of the run.
    """

    before: ParameterSource
    after: ParameterSource
    ring: Ring

    def words(self, start: int, stop: int) -> RingWords:
        """See WordSource."""
        change = self.after.parameters(start, stop).astype(np.float64) - self.before.parameters(start, stop)
        clipped = np.clip(change, -self.ring.clip_value, self.ring.clip_value)
        return np.rint(clipped * 2.0**self.ring.fraction_bits).astype(np.int32).view(np.uint32)


def idle_sites(
    updates: Sequence[Submission], parameters: int, change: WordSource | None, block_words: int = BLOCK_WORDS
) -> dict[SiteId, Flag]:
    """Sites whose update is next to nothing, or an echo.

    Args:
        change: the last round's change of the global model; None where there was none.
    """
    chosen = in_order(updates, 0)
    sources = [[update.words, *([change] if change is not None else [])] for update in chosen]
    products = [gram(pair, parameters, block_words) for pair in sources]
    norms = squared_norms([product[0][0] for product in products], weight_words(chosen, parameters))
    least = low_median(norms) * ZERO_SHARE**2 if norms else Fraction(0)
    found = {update.site: Flag.ZERO for update, norm in zip(chosen, norms, strict=True) if norm <= least}
    echoes = {u.site: Flag.ECHO for u, product in zip(chosen, products, strict=True) if change is not None and _is_echo(product)}
    return {**echoes, **found}


def copied(now: Mapping[SiteId, Digest], before: Mapping[SiteId, Digest]) -> tuple[SiteId, ...]:
    """Sites whose words are another site's of this round, or their own of the round before; by SHA-256."""
    count = Counter(now.values())
    return tuple(sorted(site for site, digest in now.items() if count[digest] > 1 or before.get(site) == digest))


def _is_echo(products: Sequence[Sequence[int]]) -> bool:
    """Whether the cosine of the two is over ECHO_COSINE."""
    (mine, both), (_, theirs) = products[0], products[1]
    return both > 0 and Fraction(both) ** 2 >= ECHO_COSINE**2 * mine * theirs


def flagged_sites(
    idle: Mapping[SiteId, Flag], copies: Collection[SiteId], left_out: Collection[SiteId]
) -> list[tuple[SiteId, Flag]]:
    """All flags of one aggregation, sorted."""
    copy_flags = [(site, Flag.COPY) for site in copies]
    return sorted([*idle.items(), *copy_flags, *((site, Flag.LEFT_OUT) for site in left_out)])

"""The clear sum of masked updates, block by block over the spool; no single update is ever clear. Pure but for what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.averaging import WordSource, ring_sum
from fedmentor.secagg.aggregator import Unmasking
from fedmentor.secagg.masks import BLOCK_WORDS, MaskedWords
from fedmentor.secagg.ring import RingWords


@dataclass(frozen=True)
class ClearSum:
    """A coordinator.averaging.WordSource: the ring sum of all survivors' uploads with what is left of their masks taken away.

    Attributes:
        uploads: masked words of exactly the survivors.
        unmasking: what takes the masks away.
    """

    uploads: Sequence[WordSource]
    unmasking: Unmasking

    def words(self, start: int, stop: int) -> RingWords:
        """See WordSource."""
        # Masks begin at whole cipher blocks; the few words before ``start`` are thrown away.
        lead = start % BLOCK_WORDS
        total = MaskedWords(np.concatenate((np.zeros(lead, np.uint32), ring_sum(self.uploads, start, stop))))
        return self.unmasking.remove(total, start=start - lead)[lead:]

"""Embeddings of pictures seen lately, bounded in bytes. A second prompt on a picture then costs a decode, not an encode."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from fedmentor.ids import Digest


@dataclass(frozen=True)
class Seen:
    """What is kept of a picture: its embedding, and its size (H, W), in which prompts are given."""

    embedding: torch.Tensor
    size: tuple[int, int]


class EmbeddingCache:
    """Least recently used embeddings go first. Not thread-safe: its owner holds the lock.

    Attributes:
        hits: look-ups that found something.
        misses: look-ups that did not.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[Digest, Seen] = OrderedDict()
        self._held_bytes = 0
        self.hits = 0
        self.misses = 0

    @property
    def held_bytes(self) -> int:
        """Bytes in use; never over the limit."""
        return self._held_bytes

    def __contains__(self, image: Digest) -> bool:
        return image in self._held

    def get(self, image: Digest) -> Seen | None:
        """What is kept of a picture, or None."""
        found = self._held.get(image)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._held.move_to_end(image)
        return found

    def put(self, image: Digest, seen: Seen) -> None:
        """Remember a picture; one whose embedding is over the limit by itself is not kept."""
        size = seen.embedding.nbytes
        if image in self._held or size > self._limit_bytes:
            return
        while self._held_bytes + size > self._limit_bytes:
            _, oldest = self._held.popitem(last=False)
            self._held_bytes -= oldest.embedding.nbytes
        self._held[image] = seen
        self._held_bytes += size

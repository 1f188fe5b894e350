"""The embedding cache is bounded in bytes and forgets what was used longest ago."""

import torch

from teacher_service.embeddings import EmbeddingCache, Seen


def embedding(value):
    return Seen(torch.full((25,), float(value)), (8, 9))  # 100 bytes


def test_the_least_recently_used_goes_first():
    cache = EmbeddingCache(250)
    cache.put("a", embedding(1))
    cache.put("b", embedding(2))
    assert cache.get("a").embedding[0] == 1  # now b is the older one
    cache.put("c", embedding(3))
    assert cache.get("b") is None
    assert cache.get("a").embedding[0] == 1
    assert cache.get("c").embedding[0] == 3
    assert (cache.hits, cache.misses) == (3, 1)
    assert cache.held_bytes == 200


def test_what_is_over_the_limit_by_itself_is_not_kept():
    cache = EmbeddingCache(99)
    cache.put("a", embedding(1))
    assert cache.get("a") is None
    assert cache.held_bytes == 0


def test_a_second_put_of_the_same_picture_counts_once():
    cache = EmbeddingCache(250)
    cache.put("a", embedding(1))
    cache.put("a", embedding(1))
    assert cache.held_bytes == 100

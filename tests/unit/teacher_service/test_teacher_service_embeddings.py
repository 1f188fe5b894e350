"""The embedding cache is bounded in bytes and forgets what was used longest ago; the one on disk is never needed."""

import numpy as np
import torch

from fedmentor.teacher.contract import Box, Prompt
from teacher_service.embeddings import EmbeddingCache, Seen
from teacher_service.local import local_teacher


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


def test_a_disk_that_is_full_costs_no_answer_and_is_told_once(tmp_path, caplog):
    """The folder's name is taken by a file, which even the superuser cannot write into."""
    prompt, pictures = Prompt((Box(8, 8, 56, 56),)), [np.full((64, 64), level, np.uint8) for level in (10, 20)]
    teacher = local_teacher(embeddings=tmp_path / "embeddings")
    teacher.soften(pictures[0], prompt)
    for path in sorted((tmp_path / "embeddings").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "embeddings").rmdir()
    (tmp_path / "embeddings").write_bytes(b"")
    told = [teacher.soften(picture, prompt).timings_ms["embedding_cached"] for picture in (*pictures, pictures[1])]
    assert told == [1.0, 0.0, 1.0]
    assert len(caplog.messages) == 1
    assert "the embeddings in" in caplog.messages[0]

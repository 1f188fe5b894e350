"""Masks hide: uniform, uncorrelated, independent; and they are the same words on every machine, in any blocks."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from fedmentor.secagg.aggregator import Unmasking
from fedmentor.secagg.masks import BLOCK_WORDS, Mask, MaskedWords, apply_masks, derive, words_sha256
from fedmentor.secagg.ring import Ring, quantise
from fedmentor.secagg.secret import Secret
from fedmentor.testing.secagg import InProcessRound, Leg, Phase, enrol, plain_sum, random_updates

WORDS = 100_000
RING = Ring()


def _update(seed, size=WORDS):
    delta = np.random.default_rng(seed).normal(scale=1e-2, size=size - 1).astype(np.float32)
    return quantise(delta, 500, RING)


def _uploads(seed=b"", sites=4, size=WORDS):
    """What the coordinator sees: the masked words of every site, and the clear ones."""
    seen = {}

    def tap(leg, data):
        if leg.words:
            seen[leg.site] = np.frombuffer(data, "<u4")
        return data

    enrolled = enrol(sites)
    updates = {index: _update(index, size) for index in range(sites)}
    opened = {index: enrolled.site(index, enrolled.context(), seed=seed) for index in range(sites)}
    result = InProcessRound(enrolled, updates, wire=tap, sites=opened).run()
    assert result.total.tolist() == plain_sum(updates, result.survivors)
    return seen, updates


@pytest.fixture(scope="module")
def uploads():
    return _uploads()


def test_a_masked_upload_does_not_correlate_with_its_plaintext(uploads):
    masked, clear = uploads
    for index in clear:
        r = np.corrcoef(masked[index].astype(np.float64), clear[index].view(np.int32).astype(np.float64))[0, 1]
        assert abs(r) < 0.01


def test_two_runs_of_the_same_update_are_independent(uploads):
    first, clear = uploads
    second, _ = _uploads(b"another run")
    for index in clear:
        r = np.corrcoef(first[index].astype(np.float64), second[index].astype(np.float64))[0, 1]
        assert abs(r) < 0.01
        assert (first[index] == second[index]).sum() <= 3
        # The difference of two uploads of one update is uniform as well: it is a difference of masks.
        assert kstest((first[index] - second[index]) / 2**32, "uniform").pvalue > 1e-3


def test_uploads_of_two_sites_and_partial_sums_are_uniform(uploads):
    masked, clear = uploads
    for some in ((0,), (0, 1), (0, 1, 2)):
        total = sum((masked[index] for index in some), np.zeros(WORDS, np.uint32))
        assert kstest(total / 2**32, "uniform").pvalue > 1e-3
        r = np.corrcoef(total.astype(np.float64), sum(clear[index].view(np.int32).astype(np.float64) for index in some))[0, 1]
        assert abs(r) < 0.01


@pytest.mark.parametrize("seed", range(8))
def test_a_constant_update_looks_uniform_under_a_mask(seed):
    words = np.full(WORDS, 12345, np.uint32)
    apply_masks(words, [Mask(derive(bytes([seed]), b"tr", b"self"), 1)])
    assert kstest(words / 2**32, "uniform").pvalue > 1e-3
    for shift in (0, 8, 16, 24):
        assert chisquare(np.bincount((words >> shift) & 255, minlength=256)).pvalue > 1e-3
    # Neighbouring words know nothing of each other.
    assert abs(np.corrcoef(words[:-1].astype(np.float64), words[1:].astype(np.float64))[0, 1]) < 0.01


KEYS = [Mask(Secret(bytes([number]) * 32), sign) for number, sign in ((1, 1), (2, -1), (3, 1))]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 40), st.lists(st.integers(0, 3000), max_size=5))
def test_chunks_and_blocks_do_not_change_the_words(size, chunk_blocks, cuts):
    start = np.random.default_rng(size).integers(0, 2**32, size, np.uint32)
    whole, chunked, blocks = start.copy(), start.copy(), start.copy()
    apply_masks(whole, KEYS)
    apply_masks(chunked, KEYS, chunk_words=chunk_blocks * BLOCK_WORDS)
    edges = sorted({0, size, *(cut // BLOCK_WORDS * BLOCK_WORDS for cut in cuts if cut < size)})
    for begin, end in pairwise(edges):
        apply_masks(blocks[begin:end], KEYS, start=begin)
    assert whole.tolist() == chunked.tolist() == blocks.tolist()


def test_words_across_chunk_edges_are_those_of_one_stream():
    size = (1 << 18) * 2 + 7
    whole, other = np.zeros(size, np.uint32), np.zeros(size, np.uint32)
    apply_masks(whole, KEYS)
    apply_masks(other, KEYS, chunk_words=1 << 20)
    assert np.array_equal(whole, other)


def test_masks_are_little_endian_whatever_the_machine():
    native = np.zeros(64, np.uint32)
    swapped = np.zeros(64, np.dtype(np.uint32).newbyteorder(">" if sys.byteorder == "little" else "<"))
    apply_masks(native, KEYS)
    apply_masks(swapped, KEYS)
    assert native.tolist() == swapped.tolist()
    assert words_sha256(native) == words_sha256(swapped)
    assert MaskedWords(native).to_bytes() == MaskedWords(swapped).to_bytes()


def test_a_mask_and_its_removal_cancel():
    words = np.arange(10, dtype=np.uint32)
    apply_masks(words, [*KEYS, *(mask.removal for mask in KEYS)])
    assert words.tolist() == list(range(10))


@pytest.mark.parametrize(("start", "chunk"), [(1, 4), (0, 6)])
def test_masks_begin_at_blocks(start, chunk):
    with pytest.raises(ValueError, match="multiples of 4"):
        apply_masks(np.zeros(8, np.uint32), KEYS, start=start, chunk_words=chunk)


def test_nothing_to_mask():
    apply_masks(np.zeros(0, np.uint32), KEYS)


def test_a_sum_is_unmasked_block_by_block():
    whole = np.arange(1000, dtype=np.uint32)
    blocks = whole.copy()
    unmasking = Unmasking((0, 1, 2), tuple(KEYS), ())
    unmasking.remove(MaskedWords(whole))
    for begin in range(0, 1000, 256):
        unmasking.remove(MaskedWords(blocks[begin : begin + 256]), start=begin)
    assert whole.tolist() == blocks.tolist()


def test_masked_words_do_not_show():
    masked = MaskedWords(np.array([123456789], np.uint32))
    assert "123456789" not in repr(masked)
    assert len(masked) == 1


def test_a_round_over_several_chunks():
    updates = random_updates(3, 300_001)
    seen: list[Leg] = []
    result = InProcessRound(enrol(3), updates, wire=lambda leg, data: seen.append(leg) or data).run()
    assert np.array_equal(result.total, sum(updates.values(), np.zeros(300_001, np.uint32)))
    assert {leg.phase for leg in seen} == set(Phase)

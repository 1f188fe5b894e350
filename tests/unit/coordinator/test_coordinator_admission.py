"""Admission, check by check."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from coordinator.admission import check_offer, check_site, check_words, update_size_bytes
from coordinator.state import AcceptedUpdate, PhaseName, RunState
from coordinator.testing import PARAMETERS, toy_manifest
from fedmentor.errors import (
    DigestMismatch,
    IdentityRefused,
    LimitExceeded,
    RoundClosed,
    UpdateConflict,
    UpdateRejected,
)
from fedmentor.federation import Receipt, RoundRef, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.secagg.ring import Ring, quantise
from fedmentor.tensors import sha256_hex

MODEL, OTHER = Digest("1" * 64), Digest("2" * 64)
MANIFEST = toy_manifest(MODEL)
STATE = RunState(PhaseName.COLLECT, Round(1), Attempt(2), MODEL)
REF = RoundRef(RunId("toy-run"), Round(1), Attempt(2))
SIZE = 4 * (PARAMETERS + 1)
HEADER = UpdateHeader(REF, Digest("a" * 64), SIZE, MODEL)
A = SiteId("a")
ACCEPTED = AcceptedUpdate(Receipt(REF, A, HEADER.sha256, "2026-01-01T00:00:00+00:00"), SIZE, 1)


class _Words:
    def __init__(self, words):
        self._words = words

    def words(self, start, stop):
        return self._words[start:stop]


def test_a_good_offer_may_send():
    assert update_size_bytes(MANIFEST) == SIZE
    assert check_offer(MANIFEST, STATE, A, HEADER, None) is None


def test_1_strangers_are_refused_even_with_a_good_header():
    with pytest.raises(IdentityRefused, match="not on the roster"):
        check_site(MANIFEST, SiteId("x"))
    with pytest.raises(IdentityRefused):
        check_offer(MANIFEST, STATE, SiteId("x"), HEADER, None)


def test_2_another_run_is_not_here():
    with pytest.raises(RoundClosed, match="does not run other"):
        check_offer(MANIFEST, STATE, A, replace(HEADER, round=replace(REF, run=RunId("other"))), None)


@pytest.mark.parametrize("phase", PhaseName)
def test_3_the_same_update_gets_its_receipt_in_every_phase(phase):
    later = replace(STATE, phase=phase, round=Round(7))
    assert check_offer(MANIFEST, later, A, HEADER, ACCEPTED) == ACCEPTED.receipt


def test_3_another_update_is_a_conflict():
    with pytest.raises(UpdateConflict):
        check_offer(MANIFEST, STATE, A, replace(HEADER, sha256=OTHER), ACCEPTED)


@pytest.mark.parametrize("phase", [phase for phase in PhaseName if phase is not PhaseName.COLLECT])
def test_4_only_collect_takes_updates(phase):
    with pytest.raises(RoundClosed):
        check_offer(MANIFEST, replace(STATE, phase=phase), A, HEADER, None)


@pytest.mark.parametrize(("round_", "attempt"), [(0, 2), (2, 2), (1, 1), (1, 3)])
def test_4_stale_and_future_rounds_are_closed(round_, attempt):
    header = replace(HEADER, round=replace(REF, round=Round(round_), attempt=Attempt(attempt)))
    with pytest.raises(RoundClosed, match="is not open"):
        check_offer(MANIFEST, STATE, A, header, None)


@pytest.mark.parametrize(
    ("size", "error"), [(0, UpdateRejected), (SIZE - 4, UpdateRejected), (SIZE + 1, LimitExceeded), (2**63, LimitExceeded)]
)
def test_5_the_size_is_the_architectures(size, error):
    with pytest.raises(error, match=str(SIZE)):
        check_offer(MANIFEST, STATE, A, replace(HEADER, size_bytes=size), None)


def test_6_the_delta_starts_from_the_rounds_model():
    with pytest.raises(UpdateRejected, match="round's model"):
        check_offer(MANIFEST, STATE, A, replace(HEADER, base_model=OTHER), None)


def _check(words, ring=MANIFEST.ring):
    header = replace(HEADER, sha256=sha256_hex([words.astype("<u4").tobytes()]), size_bytes=4 * words.size)
    return check_words(_Words(words), header, ring)


@given(
    arrays(np.float32, PARAMETERS, elements=st.floats(-2.0, 2.0, width=32)),
    st.integers(1, 3000),
    st.sampled_from([Ring(), Ring(clip_norm=0.5), Ring(clip_value=0.25), Ring(fraction_bits=8, max_weight=10)]),
)
def test_whatever_an_honest_site_makes_is_let_in(delta, examples, ring):
    assert _check(quantise(delta, examples, ring), ring) == round(ring.weight_of(examples) * 2**ring.fraction_bits)


def _honest():
    return quantise(np.full(PARAMETERS, 0.5, np.float32), 500, MANIFEST.ring)


def test_7_other_bytes_than_declared_are_found():
    words = _honest()
    header = replace(HEADER, sha256=sha256_hex([words.tobytes()]))
    for position in (0, PARAMETERS):
        damaged = words.copy()
        damaged[position] ^= 1
        with pytest.raises(DigestMismatch):
            check_words(_Words(damaged), header, MANIFEST.ring)


@pytest.mark.parametrize("weight", [0, -1, 2**24 + 1, -(2**31)])
def test_8_the_weight_is_a_share_of_the_largest(weight):
    words = np.zeros(PARAMETERS + 1, np.int32)
    words[-1] = weight
    with pytest.raises(UpdateRejected, match="weight"):
        _check(words.view(np.uint32))


@pytest.mark.parametrize("value", [2**24 + 2, -(2**24) - 2, 2**31 - 1, -(2**31)])
def test_9_no_value_is_over_the_clip(value):
    words = np.zeros(PARAMETERS + 1, np.int32)
    words[3], words[-1] = value, 2**24
    with pytest.raises(UpdateRejected, match="clip_value"):
        _check(words.view(np.uint32))


def test_9_a_light_site_cannot_hide_a_heavy_value():
    words = _honest().view(np.int32).copy()
    words[-1] //= 4
    with pytest.raises(UpdateRejected, match="clip_value"):
        _check(words.view(np.uint32))


def test_10_the_norm_is_bounded():
    words = quantise(np.full(PARAMETERS, 0.5, np.float32), 1000, Ring())
    norm = 0.5 * PARAMETERS**0.5
    _check(words, Ring(clip_norm=norm))
    with pytest.raises(UpdateRejected, match="clip_norm"):
        _check(words, Ring(clip_norm=norm * 0.999))

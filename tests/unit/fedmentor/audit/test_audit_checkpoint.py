"""Checkpoints: one spelling each, one purpose each, and nobody else's signature."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.audit.checkpoint import (
    CHECKPOINT_PURPOSE,
    COUNTERSIGNATURE_PURPOSE,
    MAX_CHECKPOINT_BYTES,
    Checkpoint,
    Countersignature,
    SignedCheckpoint,
    checkpoint_from_bytes,
    countersign,
    is_countersigned,
    is_signed,
    sign_checkpoint,
    signed_checkpoint,
)
from fedmentor.errors import DataError
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.testing.audit import ToyTrail

TOY = ToyTrail()
CHECKPOINT = Checkpoint("federation", RunId("toy-run"), 3, Digest("a" * 64), "2026-01-01T00:00:00+00:00")
SIGNED = sign_checkpoint(CHECKPOINT, TOY.coordinator_key)
SITE = SiteId("b")
MINE = countersign(CHECKPOINT, SITE, TOY.site_keys[SITE])


def test_the_form_is_fixed():
    """What was signed years ago must still verify, by hand as well."""
    assert CHECKPOINT.to_bytes() == (
        b'{"federation":"federation","head":"' + b"a" * 64 + b'","records":3,"run":"toy-run","utc":"2026-01-01T00:00:00+00:00"}'
    )
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    assert sign_checkpoint(CHECKPOINT, key).signature == key.sign(b"fedmentor audit checkpoint 1\n" + CHECKPOINT.to_bytes())
    assert countersign(CHECKPOINT, SITE, key).signature == key.sign(b"fedmentor audit countersignature 1\n" + CHECKPOINT.to_bytes())


def test_a_checkpoint_reads_back():
    assert checkpoint_from_bytes(CHECKPOINT.to_bytes()) == CHECKPOINT
    assert signed_checkpoint(CHECKPOINT.to_bytes(), SIGNED.signature) == SIGNED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 900,
        CHECKPOINT.to_bytes() + b"\n",
        CHECKPOINT.to_bytes().replace(b'"records":3', b'"records": 3'),
        CHECKPOINT.to_bytes().replace(b'"records":3', b'"records":true'),
        CHECKPOINT.to_bytes().replace(b'"records":3', b'"records":0'),
        CHECKPOINT.to_bytes().replace(b'"records":3', b'"records":3.0'),
        CHECKPOINT.to_bytes().replace(b'"records":3', b'"records":99999999999'),
        CHECKPOINT.to_bytes().replace(b'"records":3', b'"records":3,"more":1'),
        CHECKPOINT.to_bytes().replace(b"toy-run", b"Toy Run"),
        CHECKPOINT.to_bytes().replace(b"aaa", b"AAA"),
        CHECKPOINT.to_bytes().replace(b"+00:00", b""),
        CHECKPOINT.to_bytes().replace(b'"federation":"federation"', b'"federation":"Federation"'),
        CHECKPOINT.to_bytes().replace(b'"federation":"federation"', b'"federation":null'),
        b" " * MAX_CHECKPOINT_BYTES + CHECKPOINT.to_bytes(),
    ],
)
def test_what_is_no_checkpoint_is_refused(data: bytes):
    with pytest.raises(DataError):
        checkpoint_from_bytes(data)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_do_more_than_be_refused(data: bytes):
    with pytest.raises(DataError):
        checkpoint_from_bytes(data)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_has_its_length(length: int):
    with pytest.raises(DataError, match="64 bytes"):
        signed_checkpoint(CHECKPOINT.to_bytes(), bytes(length))


def test_signatures_hold_for_what_was_signed_by_whom():
    assert is_signed(SIGNED, TOY.keys)
    assert is_countersigned(CHECKPOINT, MINE, TOY.keys)
    assert not is_signed(SignedCheckpoint(replace(CHECKPOINT, records=4), SIGNED.signature), TOY.keys)
    assert not is_signed(sign_checkpoint(CHECKPOINT, TOY.site_keys[SITE]), TOY.keys)
    assert not is_signed(sign_checkpoint(replace(CHECKPOINT, federation="other"), TOY.coordinator_key), TOY.keys)
    assert not is_countersigned(replace(CHECKPOINT, head=Digest("b" * 64)), MINE, TOY.keys)
    assert not is_countersigned(CHECKPOINT, replace(MINE, site=SiteId("a")), TOY.keys)
    assert not is_countersigned(CHECKPOINT, replace(MINE, site=SiteId("stranger")), TOY.keys)
    assert not is_countersigned(CHECKPOINT, replace(MINE, records=4), TOY.keys)
    assert not is_signed(SIGNED, replace(TOY.keys, coordinator=b"not a key"))


def test_a_signature_is_worth_nothing_for_another_purpose():
    assert CHECKPOINT_PURPOSE != COUNTERSIGNATURE_PURPOSE
    assert not is_signed(SignedCheckpoint(CHECKPOINT, countersign(CHECKPOINT, SITE, TOY.coordinator_key).signature), TOY.keys)
    reused = Countersignature(3, SITE, sign_checkpoint(CHECKPOINT, TOY.site_keys[SITE]).signature)
    assert not is_countersigned(CHECKPOINT, reused, TOY.keys)


@given(st.integers(0, 511))
def test_any_bit_of_a_signature_counts(bit: int):
    flipped = bytearray(SIGNED.signature)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not is_signed(SignedCheckpoint(CHECKPOINT, bytes(flipped)), TOY.keys)

"""Messages: one canonical form each, read back to the same value, everything else refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmentor.errors import BrokenStore
from fedmentor.ids import Attempt, Digest, Round, RunId
from fedmentor.secagg import messages
from fedmentor.secagg.memory import Mark, Persist, SiteMemory, persist_from_line, persist_to_line
from fedmentor.secagg.messages import (
    BOX_BYTES,
    Advert,
    Box,
    Commit,
    Consent,
    Delivery,
    Reveal,
    RevealedShare,
    ShareKind,
    Shares,
    UploadHeader,
    bundle_bytes,
    bundle_from_bytes,
)
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import MAX_SIGNED_BYTES, Signed
from fedmentor.secagg.terms import MAX_SITES

HASH = st.binary(min_size=32, max_size=32)
INDEX = st.integers(0, MAX_SITES - 1)
SIGNED = st.builds(Signed, st.binary(min_size=1, max_size=40), st.binary(min_size=64, max_size=64))
BOXES = st.lists(st.builds(Box, INDEX, st.binary(min_size=BOX_BYTES, max_size=BOX_BYTES)), max_size=3).map(tuple)
SHARE = st.builds(RevealedShare, INDEX, st.sampled_from(ShareKind), st.binary(min_size=33, max_size=33))

KINDS = {
    "advert": st.builds(Advert, HASH, INDEX, HASH, HASH, HASH),
    "commit": st.builds(Commit, HASH, INDEX, HASH, HASH),
    "upload_header": st.builds(UploadHeader, HASH, INDEX, st.integers(0, 2**64 - 1), HASH),
    "consent": st.builds(Consent, HASH, INDEX, HASH, st.lists(INDEX, max_size=9).map(tuple)),
    "reveal": st.builds(Reveal, HASH, INDEX, HASH, st.lists(SHARE, max_size=4).map(tuple)),
    "shares": st.builds(Shares, SIGNED, BOXES),
    "delivery": st.builds(Delivery, st.lists(SIGNED, max_size=3).map(tuple), BOXES),
}


def _read(kind, data):
    return getattr(messages, f"{kind}_from_bytes")(data)


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind):
    @given(KINDS[kind])
    def check(message):
        assert _read(kind, message.to_bytes()) == message

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_cut_short_or_longer_is_refused(kind):
    @settings(max_examples=30)
    @given(KINDS[kind], st.data())
    def check(message, data):
        encoded = message.to_bytes()
        for wrong in (encoded[: data.draw(st.integers(0, len(encoded) - 1))], encoded + b"\0"):
            with pytest.raises(ProtocolRefused) as refusal:
                _read(kind, wrong)
            assert refusal.value.reason is Reason.MALFORMED

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_are_a_message_in_canonical_form_or_refused(kind):
    @settings(max_examples=200)
    @given(st.binary(max_size=300) | st.tuples(st.integers(1, 5), st.binary(max_size=300)).map(lambda t: bytes(t[:1]) + t[1]))
    def check(data):
        try:
            message = _read(kind, data)
        except ProtocolRefused:
            return
        assert message.to_bytes() == data

    check()


def test_one_kind_is_not_read_as_another():
    consent = Consent(bytes(32), 1, bytes(32), (1, 2))
    for kind in ("advert", "commit", "upload_header", "reveal"):
        with pytest.raises(ProtocolRefused, match="another kind"):
            _read(kind, consent.to_bytes())


@given(st.lists(SIGNED, max_size=4).map(tuple))
def test_bundles(signed):
    assert bundle_from_bytes(bundle_bytes(signed)) == signed


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff",
        (MAX_SITES + 1).to_bytes(2, "little") + bytes(4 * MAX_SITES + 4),
        b"\x01\x00" + (MAX_SIGNED_BYTES + 1).to_bytes(4, "little"),
        b"\x01\x00" + (64).to_bytes(4, "little") + bytes(64),
        b"\x01\x00" + (65).to_bytes(4, "little") + bytes(64),
        b"\x00\x00\x00",
    ],
    ids=["count without entries", "count over the limit", "length over the limit", "no body", "too short", "more after the end"],
)
def test_bundles_that_declare_what_they_do_not_hold(data):
    with pytest.raises(ProtocolRefused) as refusal:
        bundle_from_bytes(data)
    assert refusal.value.reason is Reason.MALFORMED


def test_a_share_of_a_third_kind_is_refused():
    encoded = bytearray(Reveal(bytes(32), 0, bytes(32), (RevealedShare(0, ShareKind.MASK_KEY, bytes(33)),)).to_bytes())
    encoded[-34] = 2
    with pytest.raises(ProtocolRefused, match="neither kind"):
        _read("reveal", bytes(encoded))


def test_shares_come_with_one_commit():
    with pytest.raises(ProtocolRefused, match="one commit"):
        _read("shares", Delivery((), ()).to_bytes())


RUN = RunId("run")
PERSISTS = st.builds(
    Persist,
    st.sampled_from(Mark),
    st.just(RUN),
    st.integers(0, 9).map(Round),
    st.integers(0, 9).map(Attempt),
    HASH.map(lambda digest: Digest(digest.hex())),
    st.none() | HASH.map(lambda digest: Digest(digest.hex())),
)


@given(PERSISTS)
def test_marks_there_and_back(persist):
    line = persist_to_line(persist)
    assert b"\n" not in line
    assert persist_from_line(line) == persist


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"mark": "guessed"}'])
def test_a_damaged_memory_is_not_guessed_at(line):
    with pytest.raises(BrokenStore, match="damaged"):
        persist_from_line(line)


@given(st.lists(PERSISTS, max_size=12))
def test_memory_is_the_sum_of_its_marks(persists):
    memory = SiteMemory(RUN)
    for persist in persists:
        memory = memory.after(persist)
    assert memory.high_water == max(((p.round, p.attempt) for p in persists), default=None)
    assert memory.revealed_round == max((p.round for p in persists if p.mark is Mark.REVEALED), default=None)
    updates = [(p.round, p.update) for p in persists if p.mark is Mark.UPLOADED and p.update is not None]
    assert memory.update == (updates[-1] if updates else None)


def test_marks_of_another_run_are_another_memorys():
    persist = Persist(Mark.REVEALED, RunId("other"), Round(3), Attempt(0), Digest("0" * 64))
    assert SiteMemory(RUN).after(persist) == SiteMemory(RUN)

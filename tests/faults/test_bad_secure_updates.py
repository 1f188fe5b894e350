"""What a member of a secure run may send and must not get away with: two tables, through real gRPC over mutual TLS.

bad_input.py says what holds after every case. The honest answer or upload still counts then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from bad_input import (
    CLOSED,
    DENIED,
    INVALID,
    LIMIT,
    OK,
    REFUSED_ANSWER,
    REFUSED_UPDATE,
    SIZE,
    A,
    B,
    Case,
    check_case,
    client,
    parts,
)
from secure_crew import NAMES, SecureCrew
from served_coordinator import TIMEOUT_S, served

from fedmentor.federation import StepAnswer, StepName, UpdateHeader
from fedmentor.ids import Attempt, Digest, RunId
from fedmentor.secagg.messages import advert_from_bytes
from fedmentor.tensors import sha256_hex
from fedmentor.wire import codec


def answer(code: grpc.StatusCode, sentence: str, change: Callable[[bytes], bytes], audited: str | None = REFUSED_ANSWER) -> Any:
    """What a site would honestly say in the step, changed."""
    return code, sentence, audited, lambda said, _: replace(said, message=change(said.message))


def flipped(place: int) -> Callable[[bytes], bytes]:
    """One bit is another."""
    return lambda message: bytes(byte ^ (index == place % len(message)) for index, byte in enumerate(message))


def counted(place: int, count: int = 0xFFFF) -> Callable[[bytes], bytes]:
    """Two bytes of a count say something else."""
    return lambda message: message[:place] + count.to_bytes(2, "little") + message[place + 2 :]


SECURE: dict[str, tuple[StepName, Any]] = {
    "advert: nothing": (StepName.ADVERTISE, answer(DENIED, "signed message of 0 bytes", lambda _: b"")),
    "advert: zeros": (StepName.ADVERTISE, answer(DENIED, "", lambda message: bytes(len(message)))),
    "advert: cut short": (StepName.ADVERTISE, answer(DENIED, "", lambda message: message[:-1])),
    "advert: a byte is left over": (StepName.ADVERTISE, answer(DENIED, "", lambda message: message + b"0")),
    "advert: over 64 KiB": (StepName.ADVERTISE, answer(DENIED, "signed message of", lambda _: bytes(1 << 17))),
    "advert: 3 MB": (StepName.ADVERTISE, answer(DENIED, "signed message of", lambda _: bytes(3 << 20))),
    "advert: another signature": (StepName.ADVERTISE, answer(DENIED, "not signed by the site", flipped(-1))),
    "advert: another key under the signature": (StepName.ADVERTISE, answer(DENIED, "not signed by the site", flipped(40))),
    "advert: of another site": (StepName.ADVERTISE, (DENIED, "names another site", REFUSED_ANSWER, lambda _, crew: crew.said(B))),
    "advert: index of another site": (StepName.ADVERTISE, answer(DENIED, "names another site", counted(33, 1))),
    "advert: index beyond the roster": (StepName.ADVERTISE, answer(DENIED, "names another site", counted(33))),
    "advert: of the attempt to come": (
        StepName.ADVERTISE,
        (CLOSED, "not at the step", None, lambda said, _: replace(said, round=replace(said.round, attempt=Attempt(2)))),
    ),
    "advert: of another run": (
        StepName.ADVERTISE,
        (CLOSED, "not at the step", None, lambda said, _: replace(said, round=replace(said.round, run=RunId("other")))),
    ),
    "advert: as a share": (StepName.ADVERTISE, (CLOSED, "not at the step", None, lambda s, _: replace(s, step=StepName.SHARE))),
    "advert: as a reveal": (StepName.ADVERTISE, (CLOSED, "not at the step", None, lambda s, _: replace(s, step=StepName.REVEAL))),
    "shares: as an advert": (
        StepName.SHARE,
        (DENIED, "already said something else", REFUSED_ANSWER, lambda said, _: replace(said, step=StepName.ADVERTISE)),
    ),
    "shares: as a consent": (StepName.SHARE, (CLOSED, "not at the step", None, lambda s, _: replace(s, step=StepName.CONSENT))),
    "shares: nothing": (StepName.SHARE, answer(DENIED, "ends too early", lambda _: b"")),
    "shares: no commit": (StepName.SHARE, answer(DENIED, "", lambda message: b"\0\0" + message[2:])),
    "shares: 65,535 commits": (StepName.SHARE, answer(DENIED, "declares 65535 entries", counted(0))),
    "shares: a commit of 4 GB": (StepName.SHARE, answer(DENIED, "over the limit", lambda m: m[:2] + b"\xff" * 4 + m[6:])),
    "shares: a box is missing": (StepName.SHARE, answer(DENIED, "", lambda message: message[:-20])),
    "shares: a box is another": (StepName.SHARE, answer(DENIED, "", flipped(-1))),
    "shares: of another site": (StepName.SHARE, (DENIED, "names another site", REFUSED_ANSWER, lambda _, crew: crew.said(B))),
    "consent: nothing": (StepName.CONSENT, answer(DENIED, "", lambda _: b"")),
    "consent: another signature": (StepName.CONSENT, answer(DENIED, "not signed by the site", flipped(-1))),
    "consent: of another site": (StepName.CONSENT, (DENIED, "names another site", REFUSED_ANSWER, lambda _, crew: crew.said(B))),
    "consent: without the survivors": (StepName.CONSENT, answer(DENIED, "", lambda message: message[:67] + message[-64:])),
    "reveal: nothing": (StepName.REVEAL, answer(DENIED, "", lambda _: b"")),
    "reveal: another share": (StepName.REVEAL, answer(DENIED, "not signed by the site", flipped(80))),
    "reveal: of another site": (StepName.REVEAL, (DENIED, "names another site", REFUSED_ANSWER, lambda _, crew: crew.said(B))),
}  # fmt: skip


@pytest.mark.parametrize("name", SECURE)
def test_a_wrong_answer_in_a_secure_run_is_refused_and_the_honest_one_still_counts(place: Path, certificates: Path, name: str):
    at, (code, sentence, audited, change) = SECURE[name]
    crew = SecureCrew(place).go_to(at)
    federation = crew.federation
    try:
        honest = crew.said(A)
        assert isinstance(honest, StepAnswer)
        bad = change(honest, crew)
        with served(federation, certificates) as one:
            case = Case("AnswerStep", lambda _: [codec.answer_to_wire(bad)], code, sentence, audited)
            check_case(case, federation, one.address, certificates)
            with client(one.address, certificates) as sender:
                sender.AnswerStep(codec.answer_to_wire(honest), timeout=TIMEOUT_S)
                repeated = Case("AnswerStep", lambda _: [codec.answer_to_wire(honest)], OK, "", None)
                check_case(repeated, federation, one.address, certificates)
                other = replace(honest, message=flipped(-1)(honest.message))
                second = Case(
                    "AnswerStep", lambda _: [codec.answer_to_wire(other)], DENIED, "already said something else", REFUSED_ANSWER
                )
                check_case(second, federation, one.address, certificates)
        assert A in federation.moment.answered
    finally:
        federation.close()


UPLOADS: dict[str, tuple[grpc.StatusCode, str, Any]] = {
    "plain": (INVALID, "takes masked updates only", lambda header, words, _: (replace(header, masked=b""), words)),
    "signed by nobody": (DENIED, "", lambda header, words, _: (replace(header, masked=bytes(139)), words)),
    "signed header is no header": (DENIED, "signed message of", lambda header, words, _: (replace(header, masked=b"x"), words)),
    "another signature": (DENIED, "not signed by", lambda h, words, _: (replace(h, masked=flipped(-1)(h.masked)), words)),
    "another site's": (DENIED, "names another site", lambda _h, _w, crew: crew.said(B)),
    "other words than the signed ones": (DENIED, "", lambda header, words, _: _other_words(header, words)),
    "words that are not those of the header": (
        INVALID, "not those that its SHA-256 names", lambda header, words, _: (header, flipped(5)(words)),
    ),
    "a word less": (INVALID, "is not this run's", lambda header, words, _: (replace(header, size_bytes=SIZE - 4), words[:-4])),
    "3 GB": (LIMIT, "over this run's", lambda header, words, _: (replace(header, size_bytes=3 * 10**9), words)),
}  # fmt: skip


def _other_words(header: UpdateHeader, words: bytes) -> tuple[UpdateHeader, bytes]:
    other = flipped(5)(words)
    return replace(header, sha256=Digest(sha256_hex([other]))), other


@pytest.mark.parametrize("name", UPLOADS)
def test_a_wrong_masked_update_is_refused_and_the_honest_one_still_counts(place: Path, certificates: Path, name: str):
    code, sentence, change = UPLOADS[name]
    crew = SecureCrew(place).go_to(StepName.UPLOAD)
    federation = crew.federation
    try:
        honest = crew.said(A)
        assert isinstance(honest, tuple)
        header, words = change(*honest, crew)
        with served(federation, certificates) as one:
            case = Case("SendUpdate", lambda _: parts(words, codec.header_to_wire(header)), code, sentence, REFUSED_UPDATE)
            check_case(case, federation, one.address, certificates)
            with client(one.address, certificates) as sender:
                state = sender.SendUpdate(iter(parts(honest[1], codec.header_to_wire(honest[0]))), timeout=TIMEOUT_S)
        assert codec.state_from_wire(state).site == A
        for site in NAMES[1:]:
            crew.say(site)
        federation.settle()
        assert federation.moment.delivered == set(NAMES)
    finally:
        federation.close()


def test_answers_of_an_earlier_attempt_are_worth_nothing_in_the_next(place: Path, certificates: Path):
    """Replayed as they were, and under the new attempt's number."""
    crew = SecureCrew(place)
    federation = crew.federation
    try:
        old = crew.said(A)
        assert isinstance(old, StepAnswer)
        assert advert_from_bytes(old.message[:-64]).sender == 0
        federation.clock.advance(1000.0)
        federation.settle()
        assert federation.ref.attempt == 2
        with served(federation, certificates) as one:
            case = Case("AnswerStep", lambda _: [codec.answer_to_wire(old)], CLOSED, "not at the step", None)
            check_case(case, federation, one.address, certificates)
            moved = replace(old, round=federation.ref)
            case = Case("AnswerStep", lambda _: [codec.answer_to_wire(moved)], DENIED, "", REFUSED_ANSWER)
            check_case(case, federation, one.address, certificates)
    finally:
        federation.close()


def test_the_tables_are_told():
    """Repeats and second answers are played with every case of the first table."""
    assert len(SECURE) + len(UPLOADS) >= 30
    print(f"bad input, secure runs: {len(SECURE) + len(UPLOADS) + 2} cases")  # noqa: T201 - the campaign's result

"""What a member of a plain run may send and must not get away with: one table, through real gRPC over mutual TLS.

bad_input.py says what holds after every case. Honest updates are accepted then, the sender's own included.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bad_input import (
    CLOSED,
    EXISTS,
    FORM,
    INVALID,
    LIMIT,
    LINE,
    OK,
    REFUSED_SCORES,
    REFUSED_UPDATE,
    SIZE,
    UNREADABLE,
    ZEROS,
    A,
    B,
    Case,
    check_case,
    chunk,
    client,
    delivered,
    header_of,
    memory_bounded,
    parts,
    records,
    words_of,
)
from served_coordinator import TIMEOUT_S, served, stub, tls_of

from coordinator.store.journal import site_actor
from coordinator.testing import ToyFederation
from fedmentor.federation import CHUNK_BYTES, Scores
from fedmentor.identity.credentials import site_credentials
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb


def offer(code: grpc.StatusCode, sentence: str, audited: str | None = UNREADABLE, **changes: Any) -> Case:
    """An offer with other fields."""
    return Case("OfferUpdate", lambda federation: [header_of(federation, **changes)], code, sentence, audited)


def transfer(
    make: Callable[[ToyFederation], Iterable[pb.UpdatePart]], code: grpc.StatusCode, sentence: str, audited: str | None = UNREADABLE
) -> Case:
    """A transfer of these parts."""
    return Case("SendUpdate", make, code, sentence, audited)


def begun(*more: pb.UpdatePart) -> Callable[[ToyFederation], list[pb.UpdatePart]]:
    """An honest header, and then these parts."""
    return lambda federation: [pb.UpdatePart(header=header_of(federation)), *more]


def update(change: Callable[[np.ndarray], np.ndarray], sentence: str, code: grpc.StatusCode = INVALID) -> Case:
    """A transfer, formally sound, of other words."""

    def make(federation: ToyFederation) -> list[pb.UpdatePart]:
        words = change(np.frombuffer(words_of(federation), "<u4").copy()).astype("<u4").tobytes()
        return parts(words, header_of(federation, words))

    return Case("SendUpdate", make, code, sentence, REFUSED_UPDATE if code is not OK else "accept_update")


def put(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    """One word is another one; of a float, its bits: as from a site that sends floats where words are expected."""

    def change(words: np.ndarray) -> np.ndarray:
        bits = np.float32(value).view(np.uint32) if isinstance(value, float) else np.uint32(value % 2**32)
        words[place] = bits
        return words

    return change


def floats(words: np.ndarray) -> np.ndarray:
    """A delta as float32, not quantised."""
    return np.random.default_rng(0).normal(size=words.size).astype(np.float32).view(np.uint32)


def scores(code: grpc.StatusCode, sentence: str, audited: str | None = UNREADABLE, **changes: Any) -> Case:
    """Scores with other fields."""

    def make(federation: ToyFederation) -> list[pb.Scores]:
        good = Scores(federation.ref, federation.moment.state.model, 4, 5, 0.5, 0.4, float("nan"))
        message = codec.scores_to_wire(good)
        for name, value in changes.items():
            setattr(message.round if name in ("run", "round", "attempt") else message, name, value)
        return [message]

    return Case("ReportScores", make, code, sentence, audited)


def fetch(
    code: grpc.StatusCode, sentence: str, audited: str | None = UNREADABLE, offset: int = 0, digest: str | None = None
) -> Case:
    """Asks for a model."""

    def make(federation: ToyFederation) -> list[pb.FetchModelRequest]:
        named = federation.moment.state.model if digest is None else digest
        return [pb.FetchModelRequest(model=pb.ModelRef(digest=named, size_bytes=1 << 62), offset=offset)]

    return Case("FetchModel", make, code, sentence, audited)


def step(code: grpc.StatusCode, sentence: str, message: bytes, name: int = 1, audited: str | None = UNREADABLE) -> Case:
    """Answers a step of secure aggregation."""

    def make(federation: ToyFederation) -> list[pb.StepAnswer]:
        return [pb.StepAnswer(round=codec.round_to_wire(federation.ref), name=name, message=message)]

    return Case("AnswerStep", make, code, sentence, audited)


BAD_RUNS = {
    "empty": "",
    "a path": "../toy-run",
    "upper case": "Toy-Run",
    "64 characters": "r" * 64,
    "a megabyte": "r" * (1 << 20),
    "Cyrillic o": "t\N{CYRILLIC SMALL LETTER O}y-run",
    "a space without width": "toy\N{ZERO WIDTH SPACE}-run",
    "full width": "".join(chr(ord(letter) + 0xFEE0) for letter in "toy-run"),
    "right to left": "\N{RIGHT-TO-LEFT OVERRIDE}nur-yot",
    "composed": "töy-run",
    "line end": "toy-run\n",
    "zero byte": "toy-run\0",
    "escape": "\x1b[31mtoy-run",
    "SQL": "toy-run' OR 1=1 --",
}
BAD_DIGESTS = {
    "short": "0" * 63,
    "long": "0" * 65,
    "upper case": "A" * 64,
    "a path": "../" + "0" * 61,
    "Arabic digits": "\N{ARABIC-INDIC DIGIT ZERO}" * 64,
    "full width": "\N{FULLWIDTH DIGIT ZERO}" * 64,
    "Cyrillic a": "\N{CYRILLIC SMALL LETTER A}" * 64,
    "line end": "0" * 64 + "\n",
}

PLAIN: dict[str, Case] = {
    "size: none": offer(INVALID, f"0 bytes is not this run's {SIZE}", REFUSED_UPDATE, size_bytes=0),
    "size: a word less": offer(INVALID, "is not this run's", REFUSED_UPDATE, size_bytes=SIZE - 4),
    "size: half a word": offer(INVALID, "is not this run's", REFUSED_UPDATE, size_bytes=SIZE - 2),
    "size: 16-bit floats": offer(INVALID, "is not this run's", REFUSED_UPDATE, size_bytes=SIZE // 2),
    "size: a word more": offer(LIMIT, f"over this run's {SIZE}", REFUSED_UPDATE, size_bytes=SIZE + 4),
    "size: 64-bit floats": offer(LIMIT, "over this run's", REFUSED_UPDATE, size_bytes=2 * SIZE),
    "size: 2^31": offer(LIMIT, "over this run's", REFUSED_UPDATE, size_bytes=1 << 31),
    "size: 3 GB": offer(LIMIT, "over this run's", REFUSED_UPDATE, size_bytes=3 * 10**9),
    "size: 2^63": offer(LIMIT, "over this run's", REFUSED_UPDATE, size_bytes=1 << 63),
    "size: 2^64 - 1": offer(LIMIT, "over this run's", REFUSED_UPDATE, size_bytes=(1 << 64) - 1),
    "base: another model": offer(INVALID, "does not start from this round's model", REFUSED_UPDATE, base_model=ZEROS),
    "round: future": offer(CLOSED, "round 1 attempt 1 is not open", None, round=1),
    "round: 2^32 - 1": offer(CLOSED, "is not open", None, round=(1 << 32) - 1),
    "attempt: future": offer(CLOSED, "round 0 attempt 2 is not open", None, attempt=2),
    "attempt: before the first": offer(CLOSED, "round 0 attempt 0 is not open", None, attempt=0),
    "run: another": offer(CLOSED, "does not run other-run", None, run="other-run"),
    "masked: in a plain run": offer(INVALID, "takes plain updates only", REFUSED_UPDATE, masked=b"signed"),
    "masked: over its limit": offer(INVALID, "over 1024 bytes", masked=bytes(1025)),
    "masked: 3 MB": offer(INVALID, "over 1024 bytes", masked=bytes(3 << 20)),
    **{f"run: {kind}": offer(CLOSED, "is not a run name", run=text) for kind, text in BAD_RUNS.items()},
    **{f"digest: {kind}": offer(CLOSED, "64 lower-case hexadecimal", sha256=text) for kind, text in BAD_DIGESTS.items()},
    "base: no digest": offer(CLOSED, "64 lower-case hexadecimal", base_model="latest"),
    "parts: none": transfer(lambda _: [], INVALID, "begins with its header"),
    "parts: an empty one": transfer(lambda _: [pb.UpdatePart()], INVALID, "begins with its header"),
    "parts: chunk before header": transfer(lambda _: [chunk(0, b"1234")], INVALID, "begins with its header"),
    "parts: header twice": transfer(
        lambda f: [pb.UpdatePart(header=header_of(f))] * 2, INVALID, "one header and then chunks"
    ),
    "parts: header again at the end": transfer(
        lambda f: [*parts(words_of(f), header_of(f))[:-1], pb.UpdatePart(header=header_of(f))],
        INVALID, "one header and then chunks",
    ),
    "chunk: empty": transfer(begun(chunk(0, b"")), INVALID, "a chunk of 0 bytes does not fit"),
    "chunk: beyond the size": transfer(begun(chunk(0, bytes(SIZE + 1))), INVALID, "does not fit"),
    "chunk: over 1 MiB": transfer(begun(chunk(0, bytes(CHUNK_BYTES + 1))), INVALID, "does not fit"),
    "chunk: over 4 MiB": transfer(begun(chunk(0, bytes(5 << 20))), LIMIT, "larger than max", None),
    "chunk: does not begin at 0": transfer(begun(chunk(4, bytes(8))), LINE, "the update is at byte 0, not 4", None),
    "chunk: overlaps": transfer(begun(chunk(0, bytes(78)), chunk(40, bytes(78))), LINE, "the update is at byte 78, not 40", None),
    "chunk: twice": transfer(begun(chunk(0, bytes(78)), chunk(0, bytes(78))), LINE, "the update is at byte 78, not 0", None),
    "chunk: a gap": transfer(begun(chunk(0, bytes(78)), chunk(80, bytes(8))), LINE, "the update is at byte 78, not 80", None),
    "chunk: before 0": transfer(begun(chunk((1 << 64) - 1, bytes(8))), LINE, "the update is at byte 0", None),
    "chunk: in the other order": transfer(
        lambda f: [parts(words_of(f), header_of(f))[place] for place in (0, 2, 1)], LINE, "the update is at byte 0, not 78", None
    ),
    "bytes: one is left over": transfer(
        lambda f: [*parts(words_of(f), header_of(f)), chunk(SIZE, b"0")], INVALID, "does not fit"
    ),
    "bytes: one bit is another": transfer(
        lambda f: parts(bytes([words_of(f)[0] ^ 1]) + words_of(f)[1:], header_of(f)), INVALID, "not those that its SHA-256 names",
        REFUSED_UPDATE,
    ),
    "bytes: another site's": transfer(
        lambda f: parts(words_of(f, B), header_of(f)), INVALID, "not those that its SHA-256 names", REFUSED_UPDATE
    ),
    "bytes: cut short": transfer(lambda f: parts(words_of(f), header_of(f))[:-1], OK, "", None),
    "words: NaN": update(put(3, float("nan")), "over the run's clip_value"),
    "words: infinity": update(put(3, float("inf")), "over the run's clip_value"),
    "words: minus infinity": update(put(3, float("-inf")), "over the run's clip_value"),
    "words: 32-bit floats": update(floats, "the weight of the update is not between 0 and 1"),
    "words: most significant byte first": update(lambda words: words.byteswap(), "the weight of the update"),
    "words: the largest denormal is a number like others": update(put(3, 1e-44), "", OK),
    "words: over clip_value": update(put(0, 1 << 30), "over the run's clip_value"),
    "words: smallest integer": update(put(0, -(1 << 31)), "over the run's clip_value"),
    "words: over clip_norm": update(lambda words: _all(words, 0.2), "over the run's clip_norm"),
    "weight: none": update(put(-1, 0), "the weight of the update is not between 0 and 1"),
    "weight: negative": update(put(-1, -1), "the weight of the update is not between 0 and 1"),
    "weight: over the cap": update(put(-1, (1 << 24) + 1), "the weight of the update is not between 0 and 1"),
    "weight: 1e30": update(put(-1, 1e30), "the weight of the update is not between 0 and 1"),
    "weight: NaN": update(put(-1, float("nan")), "the weight of the update is not between 0 and 1"),
    "weight: all of it, for nothing": update(put(-1, 1), "over the run's clip_value"),
    "model: unknown": fetch(CLOSED, "no longer serves that model", None, digest=ZEROS),
    "model: no digest": fetch(CLOSED, "64 lower-case hexadecimal", digest="../../etc/passwd"),
    "model: beyond its end": fetch(INVALID, "outside the model's 152 bytes", None, offset=153),
    "model: at 2^63": fetch(INVALID, "outside the model's", None, offset=1 << 63),
    "model: at its end": fetch(OK, "", None, offset=152),
    "scores: NaN": scores(INVALID, "the reported dice is not between 0 and 1", dice=float("nan")),
    "scores: infinity": scores(INVALID, "the reported iou is not between 0 and 1", iou=float("inf")),
    "scores: below 0": scores(INVALID, "the reported dice is not between 0 and 1", dice=-5e-324),
    "scores: above 1": scores(INVALID, "the reported iou is not between 0 and 1", iou=1.0000000000000002),
    "scores: a denormal is a number like others": scores(OK, "", "report_scores", dice=5e-324),
    "scores: endless distance": scores(INVALID, "the reported hd95", hd95=float("inf")),
    "scores: distance below 0": scores(INVALID, "the reported hd95", hd95=-1.0),
    "scores: no patients": scores(INVALID, "counts of patients and images", patients=0),
    "scores: more patients than images": scores(INVALID, "counts of patients and images", patients=6),
    "scores: 2^32 - 1 patients": scores(INVALID, "counts of patients and images", patients=(1 << 32) - 1, images=(1 << 32) - 1),
    "scores: another model": scores(INVALID, "is not that of round 0", REFUSED_SCORES, model_digest=ZEROS),
    "scores: of a round to come": scores(CLOSED, "scores of round 1 are not asked for", None, round=1),
    "scores: of another run": scores(CLOSED, "scores of round 0 are not asked for", None, run="other-run"),
    "step: in a plain run": step(INVALID, "does not aggregate securely", b"advert", audited=None),
    "step: unknown": step(INVALID, "an unknown step", b"", name=0),
    "step: from the future": step(INVALID, "an unknown step", b"", name=99),
    "step: over 3 MiB": step(INVALID, "is over 3145728", bytes((3 << 20) + 1)),
    "step: over 4 MiB": step(LIMIT, "larger than max", bytes(5 << 20), audited=None),
    "sits out: of no run": Case("SitOut", lambda _: [pb.SitOutNotice(reason="x")], CLOSED, "is not a run name"),
    "sits out: for a megabyte of reasons": Case(
        "SitOut", lambda _: [pb.SitOutNotice(round=pb.RoundRef(run="other"), reason="\x1b" * (1 << 20))], OK, "", None
    ),
    "follows: a megabyte of software": Case("Follow", lambda _: [pb.FollowRequest(software="9" * (1 << 20))], OK, "", None),
    "audit: from the end of time": Case("FetchAudit", lambda _: [pb.FetchAuditRequest(from_record=(1 << 64) - 1)], OK, "", None),
    "countersigns: nothing": Case("Countersign", lambda _: [pb.Countersignature(signature=bytes(64))], INVALID, "checkpoint"),
    "countersigns: half a signature": Case(
        "Countersign", lambda _: [pb.Countersignature(signature=bytes(32))], INVALID, "64 bytes"
    ),
    "countersigns: 3 MB": Case(
        "Countersign", lambda _: [pb.Countersignature(content=b"[" * (3 << 20), signature=bytes(64))], INVALID, "checkpoint"
    ),
}  # fmt: skip


def _all(words: np.ndarray, share: float) -> np.ndarray:
    words[:-1] = int(share * int(words[-1]))
    return words


# --- the stage ---


@pytest.mark.parametrize("name", PLAIN)
def test_what_is_wrong_is_refused_in_its_own_words_and_changes_nothing(place: Path, certificates: Path, name: str):
    federation = ToyFederation(place, clip_norm=1.0)
    try:
        federation.connect()
        federation.settle()
        with served(federation, certificates) as one:
            check_case(PLAIN[name], federation, one.address, certificates)
            accepted = PLAIN[name].audited == "accept_update"
            for site in (A, B):
                if site == A and accepted:
                    continue
                with client(one.address, certificates, site) as honest:
                    assert delivered(honest, federation, words_of(federation, site)).site == site
            assert federation.moment.delivered == {A, B}
    finally:
        federation.close()


def test_a_second_update_is_a_conflict_and_the_same_one_gets_its_receipt_again(place: Path, certificates: Path):
    federation = ToyFederation(place)
    try:
        federation.connect()
        federation.settle()
        words, other = words_of(federation), words_of(federation, B)
        with served(federation, certificates) as one, client(one.address, certificates) as sender:
            first = sender.SendUpdate(iter(parts(words, header_of(federation))), timeout=TIMEOUT_S)
            same = Case("OfferUpdate", lambda f: [header_of(f)], OK, "", None)
            check_case(same, federation, one.address, certificates)
            again = sender.SendUpdate(iter(parts(words, header_of(federation))), timeout=TIMEOUT_S)
            assert again == first
            conflict = Case("OfferUpdate", lambda f: [header_of(f, other)], EXISTS, "already has another", REFUSED_UPDATE)
            check_case(conflict, federation, one.address, certificates)
            federation.play(["b", "c"])
            assert federation.ref.round == 1
            stale = Case("OfferUpdate", lambda f: [header_of(f, other, round=0)], EXISTS, "already has another", REFUSED_UPDATE)
            check_case(stale, federation, one.address, certificates)
        with served(federation, certificates) as one:
            late = Case("OfferUpdate", lambda f: [header_of(f, round=0, attempt=2)], CLOSED, "round 0 attempt 2 is not open", None)
            check_case(late, federation, one.address, certificates)
    finally:
        federation.close()


# --- bytes that are no messages ---

NO_MESSAGES = {
    "not UTF-8": pb.UpdateHeader(sha256="aa").SerializeToString().replace(b"aa", b"\xff\xfe"),
    "cut short": pb.UpdateHeader(sha256="a" * 64).SerializeToString()[:-5],
    "a length of 2^31": b"\x12\xff\xff\xff\xff\x07abc",
    "a length of 2^63": b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc",
    "a number that never ends": b"\x18" + b"\xff" * 20,
    "a field of number 0": b"\x00\x01",
    "groups without end": b"\x0b" * 10_000,
    "another wire type": b"\x15\x00\x00\x00\x00" * 3,
}


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_bytes_that_are_no_message_are_refused(place: Path, certificates: Path, name: str):
    """Refused by gRPC, or read as a message of nothing but unknown fields, which is refused for what it lacks."""
    federation = ToyFederation(place)
    credentials = site_credentials(certificates, A, datetime.now(timezone.utc))
    try:
        with served(federation, certificates) as one, memory_bounded():
            before = records(federation)
            with stub(one.address, tls_of(credentials)) as made:
                made.OfferUpdate._request_serializer = bytes  # raw bytes go as they are
                with pytest.raises(grpc.RpcError) as caught:
                    made.OfferUpdate(NO_MESSAGES[name], timeout=TIMEOUT_S)
            assert caught.value.code() in (FORM, CLOSED), caught.value.details()
            assert records(federation)[len(before) :] == ([] if caught.value.code() is FORM else [(site_actor(A), UNREADABLE)])
    finally:
        federation.close()


# --- bombs: from a process of its own, since the client has to hold what it compresses ---

BOMB = """
import sys
from datetime import datetime, timezone
from pathlib import Path
import grpc
from served_coordinator import pb, stub, tls_of
from fedmentor.identity.credentials import site_credentials
address, folder, site, megabytes = sys.argv[1:]
tls = tls_of(site_credentials(Path(folder), site, datetime.now(timezone.utc)))
with stub(address, tls, ("grpc.max_send_message_length", -1)) as client:
    part = pb.UpdatePart(chunk=pb.Chunk(data=bytes(int(megabytes) << 20)))
    for compression in grpc.Compression:
        try:
            client.SendUpdate(iter([part]), compression=compression, timeout=60)
        except grpc.RpcError as error:
            print(error.code().name, error.details())
"""


def test_messages_that_unpack_to_96_mib_are_refused_at_the_cap(place: Path, certificates: Path):
    federation = ToyFederation(place)
    try:
        with served(federation, certificates) as one, memory_bounded():
            before = records(federation)
            command = [sys.executable, "-c", BOMB, one.address, str(certificates), A, "96"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
            said = done.stdout.splitlines()
            assert len(said) == 3, "plain, gzip and deflate"
            assert all(line.startswith("RESOURCE_EXHAUSTED") and "larger than max" in line for line in said)
            assert {*records(federation)[len(before) :]} <= {(site_actor(A), UNREADABLE)}
    finally:
        federation.close()


def test_the_table_is_long_enough():
    """Beside it: conflicts and bombs."""
    assert len(PLAIN) >= 40
    print(f"bad input, plain runs: {len(PLAIN) + len(NO_MESSAGES) + 6} cases")  # noqa: T201 - the campaign's result

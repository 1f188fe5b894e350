"""Every domain value survives the wire; every malformed message is a domain error."""

import math
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ConfigError, FedMentorError, UpdateRejected
from fedmentor.federation import (
    CHUNK_BYTES,
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    Offset,
    Outcome,
    Receipt,
    RoundRef,
    RunManifest,
    Scores,
    Train,
    UpdateHeader,
    Wait,
)
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.text import MAX_LINE_CHARACTERS
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb

REF = RoundRef(RunId("run"), Round(3), Attempt(2))
DIGEST = Digest("ab" * 32)
MODEL = ModelRef(DIGEST, 152)
MANIFEST = RunManifest(
    run=RunId("run"),
    roster=(SiteId("a"), SiteId("b"), SiteId("c")),
    rounds=2,
    architecture="toy",
    tensors=(("w", (2, 3)),),
    initial_model=DIGEST,
)


@pytest.mark.parametrize(
    "directive",
    [
        Manifest(MANIFEST),
        Train(REF, MODEL, 12.345),
        Evaluate(REF, MODEL, 0.0),
        Wait("später"),
        Finished(Outcome.COMPLETED, "all rounds are done"),
        Finished(Outcome.FAILED, "why"),
    ],
)
def test_directives(directive):
    message = pb.Directive.FromString(codec.directive_to_wire(directive).SerializeToString())
    assert codec.directive_from_wire(message) == directive


@pytest.mark.parametrize("make", [Wait, lambda reason: Finished(Outcome.FAILED, reason)])
def test_reasons_cannot_write_to_a_terminal_or_forge_a_log_line(make):
    message = codec.directive_to_wire(make("over\n\x1b[2J\u202e" + "x" * 10_000))
    reason = codec.directive_from_wire(message).reason
    assert reason.startswith("over\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J")
    assert reason.isprintable()
    assert len(reason) == MAX_LINE_CHARACTERS


@pytest.mark.parametrize("state", [Offset(0), Offset(2**40), Receipt(REF, SiteId("a"), DIGEST, "2026-01-01T00:00:00+00:00")])
def test_update_states(state):
    assert codec.state_from_wire(pb.UpdateState.FromString(codec.state_to_wire(state).SerializeToString())) == state


def test_headers():
    header = UpdateHeader(REF, DIGEST, 2**33, DIGEST)
    assert codec.header_from_wire(codec.header_to_wire(header)) == header


@given(st.integers(1, codec.MAX_PATIENTS), st.floats(0, 1), st.floats(0, 1), st.floats(0, codec.MAX_HD95) | st.just(math.nan))
def test_scores(patients, dice, iou, hd95):
    scores = Scores(REF, DIGEST, patients, patients + 1, dice, iou, hd95)
    back = codec.scores_from_wire(pb.Scores.FromString(codec.scores_to_wire(scores).SerializeToString()))
    assert repr(back) == repr(scores)  # NaN is not equal to itself


@given(st.timedeltas(timedelta(0), timedelta(days=2_900_000)).map(lambda since: datetime(1970, 1, 1, tzinfo=timezone.utc) + since))
def test_times_are_told_to_the_millisecond(time):
    told = codec.time_from_wire(pb.TimeReading.FromString(codec.time_to_wire(time).SerializeToString()))
    assert abs(told - time) < timedelta(milliseconds=2)
    assert told.utcoffset() == timedelta(0)


def test_a_time_after_all_calendars_is_none():
    with pytest.raises(FedMentorError, match="a time that is none"):
        codec.time_from_wire(pb.TimeReading(unix_ms=2**64 - 1))


@pytest.mark.parametrize(("hd95", "undefined"), [(3.0, None), (3.0, 0), (3.0, 4), (math.nan, None), (math.nan, 5)])
def test_how_many_images_a_distance_leaves_out_may_be_told(hd95, undefined):
    message = codec.scores_to_wire(Scores(REF, DIGEST, 4, 5, 0.5, 0.4, hd95, undefined))
    assert message.HasField("hd95_undefined") == (undefined is not None), "as nodes wrote it that did not know the field"
    assert codec.scores_from_wire(pb.Scores.FromString(message.SerializeToString())).hd95_undefined == undefined


@pytest.mark.parametrize(
    "changes",
    [
        {"dice": math.nan},
        {"dice": -0.1},
        {"dice": 1.1},
        {"iou": math.inf},
        {"hd95": -1.0},
        {"hd95": math.inf},
        {"hd95": 1e308},
        {"hd95": 363.0},
        {"hd95_undefined": 5},
        {"hd95_undefined": 6},
        {"hd95": math.nan, "hd95_undefined": 4},
        {"hd95": math.nan, "hd95_undefined": 6},
        {"patients": codec.MAX_PATIENTS + 1, "images": 2**32 - 1},
        {"patients": 0},
        {"patients": 6},
    ],
)
def test_scores_out_of_range_are_refused(changes):
    fields = {"patients": 4, "images": 5, "dice": 0.5, "iou": 0.4, "hd95": 3.0} | changes
    message = pb.Scores(round=codec.round_to_wire(REF), model_digest=DIGEST, **fields)
    with pytest.raises(UpdateRejected):
        codec.scores_from_wire(message)


@pytest.mark.parametrize("name", ["", "Run", "a/b", "x" * 64])
def test_malformed_run_names_are_refused(name):
    with pytest.raises(ConfigError):
        codec.round_from_wire(pb.RoundRef(run=name))


@pytest.mark.parametrize("digest", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33])
def test_malformed_digests_are_refused(digest):
    with pytest.raises(ConfigError):
        codec.model_from_wire(pb.ModelRef(digest=digest))


def test_empty_messages_are_refused():
    with pytest.raises(FedMentorError, match="does not know"):
        codec.directive_from_wire(pb.Directive())
    with pytest.raises(FedMentorError):
        codec.state_from_wire(pb.UpdateState())


def test_a_chunk_must_continue_and_fit():
    assert codec.check_chunk(pb.Chunk(offset=5, data=b"abc"), 5, 3) == b"abc"
    for chunk, remaining in (
        (pb.Chunk(offset=4, data=b"abc"), 10),
        (pb.Chunk(offset=5, data=b""), 10),
        (pb.Chunk(offset=5, data=b"abc"), 2),
        (pb.Chunk(offset=5, data=bytes(CHUNK_BYTES + 1)), 2 * CHUNK_BYTES),
    ):
        with pytest.raises(UpdateRejected):
            codec.check_chunk(chunk, 5, remaining)


@given(st.binary(max_size=200))
def test_bytes_from_anywhere_give_a_value_or_a_domain_error(data):
    for kind, decode in (
        (pb.Directive, codec.directive_from_wire),
        (pb.UpdateHeader, codec.header_from_wire),
        (pb.UpdateState, codec.state_from_wire),
        (pb.Scores, codec.scores_from_wire),
    ):
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue  # gRPC refuses it before our code
        with suppress(FedMentorError):
            decode(message)

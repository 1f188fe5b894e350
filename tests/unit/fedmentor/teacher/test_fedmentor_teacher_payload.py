"""The wire format: what goes in comes out, and what is no answer is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from fedmentor import errors
from fedmentor.teacher.contract import Box, Point, Prompt, SoftLabels
from fedmentor.teacher.payload import (
    decode_answer,
    decode_card,
    decode_error,
    encode_answer,
    encode_card,
    encode_error,
    request_prompt,
)
from fedmentor.testing.teacher import AnalyticTeacher

coordinate = st.floats(0, 100, allow_nan=False)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.lists(st.builds(Box, coordinate, coordinate, coordinate, coordinate), max_size=3),
    st.lists(st.builds(Point, coordinate, coordinate, st.integers(0, 1)), max_size=3),
    st.sampled_from([(4, 7), (4.75, 7), (0.25, 7)]),
)
def test_answers_survive_the_wire_bit_for_bit(seed, objects, boxes, points, content):
    rng = np.random.default_rng(seed)
    soft = SoftLabels(
        logits=rng.normal(0, 10, (objects, 5, 7)).astype(np.float16),
        predicted_iou=rng.random(objects, np.float32),
        content=content,
        image_size=(40, 70),
        image_digest=AnalyticTeacher().card().digest,
        prompt=Prompt(tuple(boxes), tuple(points)),
        teacher=AnalyticTeacher().card(),
        timings_ms={"encode": 1.5},
    )
    back = decode_answer(encode_answer(soft))
    assert encode_answer(back) == encode_answer(soft)
    assert back.logits.tobytes() == soft.logits.tobytes()
    assert back.predicted_iou.tobytes() == soft.predicted_iou.tobytes()
    for name in ("content", "image_size", "image_digest", "prompt", "teacher", "timings_ms"):
        assert getattr(back, name) == getattr(soft, name)


GOOD = encode_answer(AnalyticTeacher().soften(np.zeros((16, 16), np.uint8), Prompt((Box(1, 1, 9, 9),))))


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"<html></html>",
        GOOD[:-1],
        GOOD[:40],
        b"\xff" * 64,
        save({"logits": np.zeros((1, 2, 2), np.float16), "predicted_iou": np.zeros(1, np.float32)}),
        save({"logits": np.zeros((1, 2, 2), np.float32)}, {"fedmentor": "{}"}),
        GOOD.replace(b'\\"content\\": [64', b'\\"content\\": ["x'),
    ],
)
def test_what_is_no_answer_is_refused(blob):
    with pytest.raises(errors.TeacherUnreachable, match="not that of a teacher"):
        decode_answer(blob)


@pytest.mark.parametrize(
    "changes",
    [
        {"content": (0, 64)},
        {"content": (64, 65)},
        {"content": (64, float("nan"))},
        {"content": (float("inf"), 64)},
        {"content": (10**400, 64)},
        {"image_size": (float("inf"), 64)},
        {"image_size": (0, 64)},
        {"logits": np.full((1, 64, 64), np.nan, np.float16)},
        {"logits": np.zeros((0, 64, 64), np.float16), "predicted_iou": np.zeros(0, np.float32)},
    ],
    ids=[
        "no content",
        "content beyond the map",
        "content of NaN",
        "infinite content",
        "huge content",
        "infinite image",
        "no image",
        "not numbers",
        "no object",
    ],
)
def test_an_answer_that_nobody_could_learn_from_is_refused(changes):
    good = AnalyticTeacher().soften(np.zeros((64, 64), np.uint8), Prompt((Box(1, 1, 20, 20),)))
    assert good.logits.shape == (1, 64, 64)
    with pytest.raises(errors.TeacherUnreachable, match="not that of a teacher"):
        decode_answer(encode_answer(replace(good, **changes)))


def test_an_answer_of_a_teacher_without_a_digest_is_refused():
    good = AnalyticTeacher().soften(np.zeros((64, 64), np.uint8), Prompt((Box(1, 1, 20, 20),)))
    for digest in ("unknown", 5):
        with pytest.raises(errors.TeacherUnreachable):
            decode_answer(encode_answer(replace(good, teacher=replace(good.teacher, digest=digest))))


def test_logits_of_another_type_are_refused():
    with pytest.raises(errors.TeacherUnreachable):
        decode_answer(GOOD.replace(b'"F16"', b'"I16"'))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.PromptRefused("m", cure="c"), 422, "prompt_refused"),
        (errors.UnreadableImage("m", cure="c"), 422, "unreadable_image"),
        (errors.LimitExceeded("m", cure="c"), 413, "limit_exceeded"),
        (errors.DataError("m", cure="c"), 400, "bad_request"),
        (errors.DigestMismatch("m", cure="c"), 500, "digest_mismatch"),
        (errors.WrongArchitecture("m", cure="c"), 500, "wrong_architecture"),
    ],
)
def test_errors_travel_with_a_stable_code(error, status, code):
    body = json.loads(json.dumps(encode_error(error)))
    assert (body["status"], body["code"]) == (status, code)
    back = decode_error(body)
    assert type(back) is type(error)
    assert (back.message, back.cure) == ("m", "c")


def test_an_unknown_code_is_a_failure_of_the_teacher():
    assert isinstance(decode_error({"code": "new", "message": "m"}), errors.TeacherUnreachable)
    assert isinstance(decode_error(encode_error(errors.FedMentorError("m"))), errors.TeacherUnreachable)


def test_cards_travel():
    card = AnalyticTeacher().card()
    assert decode_card(json.loads(json.dumps(encode_card(card)))) == card


@pytest.mark.parametrize("body", [None, [], {}, {"teacher": {}}, {"teacher": {"prompts": 1}}])
def test_what_is_no_card_is_refused(body):
    with pytest.raises(errors.TeacherUnreachable):
        decode_card(body)


def test_the_prompt_field_is_the_documented_json():
    assert json.loads(request_prompt(Prompt((Box(1, 2, 3, 4),), (Point(5, 6, 0),)), "json")) == {
        "boxes": [[1, 2, 3, 4]],
        "points": [[5, 6, 0]],
        "answer": "json",
    }

"""Requests are checked before anything is decoded; answers for people hold the right numbers."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from fedmentor.errors import DataError, FedMentorError, LimitExceeded, PromptRefused, UnreadableImage
from fedmentor.teacher.contract import MAX_BOXES, Answer, Box, Prompt
from fedmentor.teacher.images import png_bytes, read_image
from fedmentor.teacher.payload import DESCRIBE, decode_answer, decode_card, encode_error, request_prompt
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.payload import (
    MAX_ANSWER_BYTES,
    MAX_PROMPT_BYTES,
    MAX_READABLE_PIXELS,
    Describe,
    answer,
    object_numbers,
    read_request,
    readable,
)

PIXELS = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
PROMPT = Prompt((Box(0, 0, 64, 48), Box(16, 12, 48, 36)))


def fields(**changes):
    return {"image": png_bytes(PIXELS), "prompt": request_prompt(PROMPT), **changes}


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda data: data.decode(), json.loads])
def test_the_prompt_is_read_in_every_form_that_torchserve_hands_over(form):
    request = read_request(fields(prompt=form(request_prompt(PROMPT, "json"))))
    assert request.question.prompt == PROMPT
    assert request.question.wish.form == "json"
    assert (request.pixels == PIXELS).all()


def test_describe_needs_no_picture():
    assert read_request({"prompt": bytearray(DESCRIBE)}) == Describe()
    reply = answer(AnalyticTeacher(), {"prompt": DESCRIBE})
    assert decode_card(json.loads(reply.body)) == AnalyticTeacher().card()
    assert reply.content_type == "application/json"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"prompt": 7}, DataError),
        ({"prompt": b"{"}, PromptRefused),
        ({"prompt": b"[]"}, PromptRefused),
        ({"prompt": b"[" * 30_000}, PromptRefused),
        ({"prompt": b'{"boxes": [[0, 0, 1]]}'}, PromptRefused),
        ({"prompt": b'{"boxes": [[0, 0, 1, 1' + b"0" * 400 + b"]]}"}, PromptRefused),
        ({"prompt": b'{"points": [[1, 1, Infinity]]}'}, PromptRefused),
        ({"prompt": b'{"points": [[1, 1, NaN]]}'}, PromptRefused),
        ({"prompt": b'{"boxes": [], "answer": "pickle"}'}, PromptRefused),
        ({"prompt": b'{"boxes": [], "rm": 1}'}, PromptRefused),
        ({"prompt": b" " * (MAX_PROMPT_BYTES + 1)}, LimitExceeded),
        ({"image": None}, DataError),
        ({"image": "text"}, DataError),
        ({"image": b"no picture"}, UnreadableImage),
    ],
)
def test_bad_requests_are_refused(changes, error):
    with pytest.raises(error):
        read_request(fields(**changes))


def test_the_default_answer_is_one_safetensors_blob():
    reply = answer(AnalyticTeacher(), fields())
    soft = decode_answer(reply.body)
    assert reply.content_type == "application/octet-stream"
    assert soft.logits.shape == (2, 64, 64)
    assert soft.prompt == PROMPT


def test_the_readable_answer_has_masks_at_the_size_of_the_image():
    reply = answer(AnalyticTeacher(), fields(prompt=request_prompt(PROMPT, "json")))
    body = json.loads(reply.body)
    assert body["status"] == 200
    assert (body["image"]["height"], body["image"]["width"]) == (48, 64)
    mask = read_image(base64.b64decode(body["objects"][0]["mask_png_base64"]))
    assert mask.shape == (48, 64)
    assert int((mask > 0).sum()) == body["objects"][0]["area_px"]


SCHEMA = json.loads((Path(__file__).resolve().parents[3] / "docs" / "teacher.schema.json").read_text())


def valid(name, value):
    jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"}).validate(value)


def facts(body):
    return json.loads(json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])["__metadata__"]["fedmentor"])


def test_answers_are_what_the_schema_says():
    valid("facts", facts(answer(AnalyticTeacher(), fields()).body))
    everything = {
        **PROMPT.to_json(),
        "outputs": ["logits", "probability", "mask", "predicted_iou", "embedding"],
        "compress": "zlib",
    }
    valid("facts", facts(answer(AnalyticTeacher(), fields(prompt=everything)).body))
    for mask_format in ("png", "rle"):
        question = {**PROMPT.to_json(), "answer": "json", "mask_format": mask_format}
        valid("readable", json.loads(answer(AnalyticTeacher(), fields(prompt=question)).body))
    soft = AnalyticTeacher().soften(PIXELS, PROMPT)
    three = Answer(soft, candidates=(np.stack([soft.logits] * 3, 1), np.stack([soft.predicted_iou] * 3, 1)))
    shown = json.loads(json.dumps(readable(three)))
    valid("readable", shown)
    assert [len(each["candidates"]) for each in shown["objects"]] == [3, 3]


@pytest.mark.parametrize("error", [PromptRefused("m"), LimitExceeded("m", cure="c"), DataError("m"), FedMentorError("m")])
def test_errors_are_what_the_schema_says(error):
    valid("error", encode_error(error))


def test_numbers_of_an_ellipse():
    numbers = object_numbers(AnalyticTeacher().soften(PIXELS, PROMPT), 0)
    assert numbers["area_share"] == pytest.approx(np.pi / 4, abs=0.01)
    assert numbers["predicted_iou"] == 1.0
    assert 0.5 < numbers["mean_probability"] < 1.0
    # The logit 8 (1 - r^2) lies between -2.944 and 2.944 (p = 0.05 and 0.95) where r^2 is between 0.632 and 1.368. Per quadrant of
    # the unit square the ring has an area of pi/4 (1.368 - 0.632) less what lies outside the square.
    assert 0.3 < numbers["soft_share"] < np.pi / 4 * 0.736


def test_an_empty_mask_has_mean_probability_zero():
    soft = AnalyticTeacher().soften(PIXELS, Prompt((Box(0, 0, 0.01, 0.01),)))
    assert object_numbers(soft, 0)["area_px"] == 0
    assert object_numbers(soft, 0)["mean_probability"] == 0.0
    assert readable(Answer(soft))["objects"][0]["area_px"] == 0


def test_a_readable_answer_over_the_pixel_limit_is_refused_before_the_teacher_is_asked():
    teacher = AnalyticTeacher()
    side = int((MAX_READABLE_PIXELS / MAX_BOXES) ** 0.5) + 1
    prompt = Prompt((Box(0, 0, side, side),) * MAX_BOXES)
    with pytest.raises(LimitExceeded, match="200000000"):
        answer(teacher, fields(image=png_bytes(np.zeros((side, side), np.uint8)), prompt=request_prompt(prompt, "json")))
    assert teacher.asked == 0


class Verbose(AnalyticTeacher):
    """A teacher with a mask resolution nobody would want."""

    def soften(self, pixels, prompt):
        """See Teacher."""
        return replace(super().soften(pixels, prompt), logits=np.zeros((2, 2100, 2100), np.float16))


def test_an_answer_that_would_kill_the_worker_is_refused():
    with pytest.raises(LimitExceeded, match=str(MAX_ANSWER_BYTES)):
        answer(Verbose(), fields())

"""The JSON form of a question: the parser, the schema in docs and the text in docs agree."""

import base64
import io
import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fedmentor.errors import PromptRefused
from fedmentor.ids import Digest
from fedmentor.teacher import payload
from fedmentor.teacher.contract import Box, ObjectPrompt, Point, Prompt, check_prompt, mask_hint
from fedmentor.teacher.grey_levels import View
from fedmentor.teacher.images import png_bytes
from fedmentor.teacher.prompts import AUTOMATIC
from fedmentor.teacher.question import (
    COMPRESSIONS,
    ENCODINGS,
    FORMS,
    MASK_FORMATS,
    MASKS,
    OUTPUTS,
    SIZES,
    Question,
    Wish,
    question_from_json,
)

DOCS = Path(__file__).resolve().parents[4] / "docs"
SCHEMA = json.loads((DOCS / "teacher.schema.json").read_text())


def validator(name):
    return jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}"})


coordinate = st.floats(0, 5000, allow_nan=False)
boxes = st.builds(Box, coordinate, coordinate, coordinate, coordinate)
points = st.builds(Point, coordinate, coordinate, st.integers(0, 1))
hints = st.binary(min_size=12, max_size=12).map(lambda data: mask_hint(np.frombuffer(data, np.uint8).reshape(3, 4)))
objects = st.builds(ObjectPrompt, st.none() | boxes, st.lists(points, max_size=3).map(tuple), st.none() | hints)
prompts = st.one_of(
    st.sampled_from(sorted(AUTOMATIC)),
    st.builds(Prompt, st.lists(boxes, max_size=3).map(tuple), st.lists(points, max_size=3).map(tuple)),
    st.builds(Prompt, objects=st.lists(objects, min_size=1, max_size=3).map(tuple)),
)
wishes = st.builds(
    Wish,
    form=st.sampled_from(FORMS),
    outputs=st.lists(st.sampled_from(OUTPUTS), min_size=1, unique=True).map(tuple),
    encoding=st.sampled_from(ENCODINGS),
    size=st.sampled_from(SIZES),
    masks=st.sampled_from(MASKS),
    compress=st.sampled_from(COMPRESSIONS),
    mask_format=st.sampled_from(MASK_FORMATS),
)
questions = st.builds(
    Question,
    prompt=prompts,
    image_id=st.none() | st.just(Digest("a" * 64)),
    wish=wishes,
    view=st.builds(View, st.none() | st.integers(0, 9), st.none() | st.just((1.0, 2.5))),
    architecture=st.none() | st.just("sam-med2d"),
)


@given(questions)
def test_a_question_survives_its_json_form_and_is_what_the_schema_says(question):
    value = json.loads(payload.request_question(question))
    validator("question").validate(value)
    assert question_from_json(value) == question


@pytest.mark.parametrize(
    "value",
    [
        {"boxes": 1},
        {"boxes": [[1, 2, 3]]},
        {"boxes": [[1, 2, 3, "4"]]},
        {"boxes": [[1, 2, 3, True]]},
        {"boxes": [[0, 0, 1, 1]] * 65},
        {"points": [[1, 2]]},
        {"points": [[1, 2, 0.5]]},
        {"objects": [7]},
        {"objects": [{"boxes": []}]},
        {"objects": [{"box": [1, 2, 3]}]},
        {"objects": [{"mask": 1}]},
        {"auto": "liver"},
        {"auto": True},
        {"image_id": "abc"},
        {"image_id": 7},
        {"architecture": 7},
        {"frame": -1},
        {"frame": 1.5},
        {"frame": True},
        {"window": [1]},
        {"window": [1, "2"]},
        {"window": "wide"},
        {"answer": "pickle"},
        {"outputs": []},
        {"outputs": "logits"},
        {"outputs": ["weights"]},
        {"encoding": "float64"},
        {"size": "256"},
        {"size": 512},
        {"masks": 2},
        {"masks": True},
        {"compress": True},
        {"mask_format": "gif"},
        {"colour": "red"},
    ],
    ids=json.dumps,
)
def test_what_the_schema_refuses_is_refused(value):
    assert not validator("question").is_valid(value)
    with pytest.raises(PromptRefused) as caught:
        question_from_json(value)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", [{"window": [2, 1]}, {"window": [1, 1]}, {"auto": "whole", "boxes": [[0, 0, 1, 1]]}])
def test_what_no_schema_can_tell_is_refused_too(value):
    with pytest.raises(PromptRefused):
        question_from_json(value)


def test_the_schema_lists_what_the_code_knows():
    members = SCHEMA["$defs"]["question"]["properties"]
    assert members["outputs"]["items"]["enum"] == list(OUTPUTS)
    assert members["encoding"]["enum"] == list(ENCODINGS)
    assert members["size"]["enum"] == list(SIZES)
    assert members["masks"]["enum"] == list(MASKS)
    assert members["auto"]["enum"] == list(AUTOMATIC)
    assert SCHEMA["$defs"]["error"]["properties"]["code"]["enum"] == sorted({code for _, _, code in payload._ERRORS})
    for name in ("answer", "outputs", "encoding", "size", "masks", "compress", "mask_format"):
        assert members[name]["default"] == {"answer": "safetensors", **vars(Wish()), "outputs": list(Wish().outputs)}[name]


def test_every_member_and_code_is_in_the_text():
    text = (DOCS / "teacher.md").read_text()
    for name in SCHEMA["$defs"]["question"]["properties"]:
        assert f"`{name}`" in text, name
    for code in SCHEMA["$defs"]["error"]["properties"]["code"]["enum"]:
        assert f"`{code}`" in text, code


def test_json_examples_in_the_text_are_questions():
    found = re.findall(r"prompt=(\{.*?\})'", (DOCS / "teacher.md").read_text())
    assert len(found) >= 2
    for example in found:
        validator("question").validate(json.loads(example))


def hint_png(mode, size):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("mask", ["", "AAAA", "?", hint_png("RGB", (8, 8)), hint_png("L", (513, 8)), hint_png("1", (9000, 9000))])
def test_hints_that_are_no_small_grey_png_are_refused(mask):
    with pytest.raises(PromptRefused, match="mask hint"):
        question_from_json({"objects": [{"mask": mask}]})


def test_a_hint_is_what_its_png_shows():
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)
    encoded = base64.b64encode(png_bytes(pixels)).decode()
    (each,) = question_from_json({"objects": [{"mask": encoded}]}).prompt.objects
    assert (each.mask.array() == pixels).all()


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2, 2)), np.full((3, 3), 1.5), np.zeros((3, 3), int), np.zeros((0, 3)), np.zeros((1, 600))]
)
def test_hints_of_another_form_are_refused(mask):
    with pytest.raises(PromptRefused):
        mask_hint(mask)


def test_masks_and_soft_masks_become_hints():
    assert mask_hint(np.eye(3, dtype=bool)).array().tolist() == (255 * np.eye(3, dtype=int)).tolist()
    assert mask_hint(np.full((2, 2), 0.5)).array().tolist() == [[128, 128], [128, 128]]


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt((Box(0, 0, 9, 9),), objects=(ObjectPrompt(Box(0, 0, 9, 9)),)),
        Prompt(objects=(ObjectPrompt(),)),
        Prompt(objects=(ObjectPrompt(Box(0, 0, 99, 9)),)),
        Prompt(objects=(ObjectPrompt(None, (Point(99, 0),)),)),
        Prompt(objects=(ObjectPrompt(None, (Point(1, 1),) * 65),)),
        Prompt(objects=(ObjectPrompt(Box(0, 0, 9, 9)),) * 65),
    ],
)
def test_objects_that_mean_nothing_are_refused(prompt):
    with pytest.raises(PromptRefused):
        check_prompt(prompt, (10, 10))


def test_cache_keys_of_the_short_form_are_what_they_were_and_the_long_form_has_its_own():
    box = Box(1, 2, 3, 4)
    assert Prompt((box,)).canonical() == b'{"boxes":[[1.0,2.0,3.0,4.0]],"points":[]}'
    forms = {
        Prompt((box,)).canonical(),
        Prompt(objects=(ObjectPrompt(box),)).canonical(),
        Prompt(objects=(ObjectPrompt(box, (Point(1, 1),)),)).canonical(),
        Prompt(objects=(ObjectPrompt(box, mask=mask_hint(np.zeros((2, 2), bool))),)).canonical(),
        Prompt(objects=(ObjectPrompt(box, mask=mask_hint(np.ones((2, 2), bool))),)).canonical(),
    }
    assert len(forms) == 5

"""From a request's fields to an answer's bytes; pure. The wire format itself is fedmentor.teacher.payload.

Nothing is decoded before its size is checked, and every refusal is one of fedmentor.errors.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedmentor.errors import DataError, LimitExceeded, PromptRefused
from fedmentor.teacher.contract import Pixels, Prompt, SoftLabels, Teacher, logits_at, probability, prompt_from_json
from fedmentor.teacher.images import png_bytes, read_image
from fedmentor.teacher.payload import IMAGE_FIELD, JSON, PROMPT_FIELD, SAFETENSORS, STATUS_OK, encode_answer, encode_card

MAX_PROMPT_BYTES = 64 << 10
"""Largest prompt field: the most boxes and points in JSON are a tenth of it."""

MAX_ANSWER_BYTES = 16 << 20
"""TorchServe kills a worker whose answer is over its limit, so larger ones are refused before. 64 maps of 256x256 float16 are half
of it."""

MAX_READABLE_PIXELS = 200_000_000
"""Objects times image pixels of a JSON answer: about ten seconds of resizing on one core."""

JSON_TYPE = "application/json"
SAFETENSORS_TYPE = "application/octet-stream"

Fields = Mapping[str, Any]
"""What TorchServe hands over for one request: field name to bytes, or to what it made of them."""


@dataclass(frozen=True)
class Request:
    """One picture, one prompt, one kind of answer."""

    pixels: Pixels
    prompt: Prompt
    answer: str


@dataclass(frozen=True)
class Describe:
    """The question who answers."""


@dataclass(frozen=True)
class Reply:
    """What goes back, whatever the door."""

    body: bytes
    content_type: str


def read_request(fields: Fields) -> Request | Describe:
    """Check and decode one request, the prompt first: it is cheap and may make the picture unnecessary.

    Raises:
        DataError: a field is missing or not of its form.
        PromptRefused: the prompt is not of its form.
        LimitExceeded: a field is over its size limit.
        UnreadableImage: see fedmentor.teacher.images.read_image.
    """
    question = _prompt_object(fields.get(PROMPT_FIELD))
    if question == {"describe": True}:
        return Describe()
    answer = question.pop("answer", SAFETENSORS)
    if answer not in (SAFETENSORS, JSON):
        raise PromptRefused(f"an answer is {SAFETENSORS!r} or {JSON!r}")
    prompt = prompt_from_json(question)
    image = fields.get(IMAGE_FIELD)
    if not isinstance(image, (bytes, bytearray, memoryview)):
        raise DataError(f"the request has no field {IMAGE_FIELD!r} with a PNG or JPEG file", cure="send it as multipart/form-data")
    return Request(read_image(image), prompt, answer)


def answer(teacher: Teacher, fields: Fields) -> Reply:
    """Answer one request.

    Raises:
        FedMentorError: the request is refused; see read_request and Teacher.soften.
    """
    request = read_request(fields)
    if isinstance(request, Describe):
        return Reply(json.dumps(encode_card(teacher.card())).encode(), JSON_TYPE)
    if request.answer == JSON:
        _check_readable(request)
    soft = teacher.soften(request.pixels, request.prompt)
    body = json.dumps(readable(soft), indent=1).encode() if request.answer == JSON else encode_answer(soft)
    if len(body) > MAX_ANSWER_BYTES:
        raise LimitExceeded(f"an answer of {len(body)} bytes is over the limit of {MAX_ANSWER_BYTES}", cure="ask for fewer objects")
    return Reply(body, JSON_TYPE if request.answer == JSON else SAFETENSORS_TYPE)


def readable(soft: SoftLabels) -> dict[str, Any]:
    """Soft labels for people and for curl: numbers and a mask picture for each object, at the size of the image as sent."""
    return {
        "status": STATUS_OK,
        "teacher": soft.teacher.to_json(),
        "image": {"digest": soft.image_digest, "height": soft.image_size[0], "width": soft.image_size[1]},
        "prompt": soft.prompt.to_json(),
        "objects": [_object(soft, index) for index in range(len(soft.logits))],
        "timings_ms": dict(soft.timings_ms),
    }


def object_numbers(soft: SoftLabels, index: int) -> dict[str, float | int]:
    """Area and certainty of one object at the size of the image as sent.

    Returns:
        ``area_px``; ``area_share`` of the image; ``mean_probability`` inside the mask (0 if it is empty); ``soft_share``, the share
        of the image's pixels whose probability lies between 0.05 and 0.95; ``predicted_iou``.
    """
    soft_mask = probability(logits_at(one_object(soft, index), soft.image_size))
    mask = soft_mask > 0.5
    return {
        "area_px": int(mask.sum()),
        "area_share": round(float(mask.mean()), 6),
        "mean_probability": round(float(soft_mask[mask].mean()), 6) if mask.any() else 0.0,
        "soft_share": round(float(((soft_mask > 0.05) & (soft_mask < 0.95)).mean()), 6),
        "predicted_iou": round(float(soft.predicted_iou[index]), 6),
    }


def one_object(soft: SoftLabels, index: int) -> SoftLabels:
    """The same answer with one of its objects only."""
    return SoftLabels(
        logits=soft.logits[index : index + 1],
        predicted_iou=soft.predicted_iou[index : index + 1],
        content=soft.content,
        image_size=soft.image_size,
        image_digest=soft.image_digest,
        prompt=soft.prompt,
        teacher=soft.teacher,
        timings_ms=soft.timings_ms,
    )


def _check_readable(request: Request) -> None:
    pixels = request.pixels.shape[0] * request.pixels.shape[1] * max(1, len(request.prompt.boxes))
    if pixels > MAX_READABLE_PIXELS:
        raise LimitExceeded(
            f"a readable answer of {pixels} pixels in all is over the limit of {MAX_READABLE_PIXELS}",
            cure=f"ask for {SAFETENSORS!r}, or for fewer objects",
        )


def _object(soft: SoftLabels, index: int) -> dict[str, Any]:
    mask = logits_at(one_object(soft, index), soft.image_size) > 0
    picture = png_bytes((mask * 255).astype(np.uint8))
    return {**object_numbers(soft, index), "mask_png_base64": base64.b64encode(picture).decode()}


def _prompt_object(field: object) -> dict[str, Any]:
    """The prompt field as an object. TorchServe hands over bytes, or text or parsed JSON where the part names such a type."""
    if isinstance(field, Mapping):
        return dict(field)
    if not isinstance(field, (bytes, bytearray, memoryview, str)):
        raise DataError(f"the request has no field {PROMPT_FIELD!r} with JSON", cure="send it as multipart/form-data")
    if len(field) > MAX_PROMPT_BYTES:
        raise LimitExceeded(f"a prompt of {len(field)} bytes is over the limit of {MAX_PROMPT_BYTES}")
    try:
        value = json.loads(field if isinstance(field, str) else bytes(field))
    except (ValueError, RecursionError) as error:
        raise PromptRefused("the prompt is not JSON") from error
    if not isinstance(value, dict):
        raise PromptRefused("a prompt is an object with 'boxes' and 'points'")
    return value

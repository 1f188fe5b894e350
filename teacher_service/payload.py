"""From a request's fields to an answer's bytes; pure. The wire format itself is fedmentor.teacher.payload.

Nothing is decoded before its size is checked, and every refusal is one of fedmentor.errors.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmentor.errors import DataError, LimitExceeded, PromptRefused, UnknownArchitecture
from fedmentor.teacher.contract import (
    Answer,
    Content,
    Extras,
    Foundation,
    Pixels,
    Prompt,
    SoftLabels,
    TeacherCard,
    image_digest,
    logits_at,
    maps_at,
    probability,
)
from fedmentor.teacher.encodings import encode_probability, float16_logits, run_lengths
from fedmentor.teacher.grey_levels import AS_IT_IS
from fedmentor.teacher.images import png_bytes, read_image
from fedmentor.teacher.payload import IMAGE_FIELD, PROMPT_FIELD, STATUS_OK, encode_answer, encode_card, encode_outputs
from fedmentor.teacher.prompts import AUTOMATIC
from fedmentor.teacher.question import DEFAULT_AUTO, JSON, SAFETENSORS, SOFT_LABELS, Question, Wish, question_from_json
from fedmentor.teacher.resizing import resized, whole

MAX_PROMPT_BYTES = 1 << 20
"""Largest prompt field: room for some mask hints; the most boxes and points in JSON are a hundredth of it."""

MAX_ANSWER_BYTES = 16 << 20
"""TorchServe kills a worker whose answer is over its limit, so larger ones are refused before. 64 maps of 256x256 float16 are half
of it."""

MAX_READABLE_PIXELS = 200_000_000
"""Objects times image pixels of a JSON answer: about ten seconds of resizing on one core."""

JSON_TYPE = "application/json"
SAFETENSORS_TYPE = "application/octet-stream"

Fields = Mapping[str, Any]
"""What TorchServe hands over for one request: field name to bytes, or to what it made of them."""

FOR_PEOPLE = Wish(form=JSON)
"""Numbers, and masks as PNG."""

_MIDDLE = 256
_BYTES = {"logits": 2, "mask": 1, "float16": 2, "uint16": 2, "uint8": 1}


@dataclass(frozen=True)
class Request:
    """One picture, or the digest of one inside the question, and everything else that was asked."""

    pixels: Pixels | None
    question: Question
    read_ms: float = 0.0


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

    A request without a prompt asks for the automatic prompt DEFAULT_AUTO.

    Raises:
        DataError: a field is missing or not of its form.
        PromptRefused: the prompt is not of its form.
        LimitExceeded: a field is over its size limit.
        UnreadableImage: see fedmentor.teacher.images.read_image.
    """
    value = {"auto": DEFAULT_AUTO} if fields.get(PROMPT_FIELD) is None else _prompt_object(fields[PROMPT_FIELD])
    if value == {"describe": True}:
        return Describe()
    question = question_from_json(value)
    image = fields.get(IMAGE_FIELD)
    if image is None and question.image_id is not None:
        if question.view != AS_IT_IS:
            raise PromptRefused("frame and window choose from a file, and an image_id names one picture", cure="send the file")
        return Request(None, question)
    if not isinstance(image, (bytes, bytearray, memoryview)):
        raise DataError(f"the request has no field {IMAGE_FIELD!r} with a picture file", cure="send it as multipart/form-data")
    start = time.perf_counter()
    pixels = read_image(image, question.view)
    if question.image_id is not None and image_digest(pixels) != question.image_id:
        raise DataError("the image is not the one that image_id names", cure="send one of the two")
    return Request(pixels, question, round(1000 * (time.perf_counter() - start), 3))


def answer(teacher: Foundation, fields: Fields) -> Reply:
    """Read one request and answer it.

    Raises:
        FedMentorError: the request is refused; see read_request and reply_to.
    """
    return reply_to(teacher, read_request(fields))


def reply_to(teacher: Foundation, request: Request | Describe) -> Reply:
    """Answer one request.

    Raises:
        FedMentorError: the request is refused; see Foundation.ask.
    """
    if isinstance(request, Describe):
        return Reply(json.dumps(encode_card(teacher.card())).encode(), JSON_TYPE)
    card, wish = teacher.card(), request.question.wish
    if request.question.architecture not in (None, card.architecture):
        raise UnknownArchitecture(f"this teacher is {card.architecture}, not the one that was asked for")
    size = _size(teacher, request)
    prompt = request.question.prompt
    if isinstance(prompt, str):
        prompt = Prompt(AUTOMATIC[prompt](size))
    _check_room(card, size, len(prompt.each()), wish)
    image = request.question.image_id if request.pixels is None else request.pixels
    assert image is not None  # noqa: S101  # read_request returns one of the two
    told = teacher.ask(image, prompt, _extras(wish))
    told = replace(told, soft=replace(told.soft, timings_ms={**told.soft.timings_ms, "read": request.read_ms}))
    body = json.dumps(readable(told, wish), indent=1).encode() if wish.form == JSON else _encoded(told, wish)
    if len(body) > MAX_ANSWER_BYTES:
        raise _too_long(len(body))
    return Reply(body, JSON_TYPE if wish.form == JSON else SAFETENSORS_TYPE)


def _extras(wish: Wish) -> Extras:
    """Maps that are asked for by name are made from what the network said, so that each is rounded once."""
    by_name = wish.form != JSON and wish != SOFT_LABELS
    return Extras(candidates=wish.masks > 1, embedding="embedding" in wish.outputs, exact=by_name)


def _size(teacher: Foundation, request: Request) -> tuple[int, int]:
    if request.pixels is not None:
        return request.pixels.shape[0], request.pixels.shape[1]
    assert request.question.image_id is not None  # noqa: S101  # read_request
    return teacher.size_of(request.question.image_id)


def _check_room(card: TeacherCard, size: tuple[int, int], objects: int, wish: Wish) -> None:
    """Refuse what would be over a limit, before the teacher is asked."""
    if wish.form == JSON:
        pixels = size[0] * size[1] * max(1, objects) * wish.masks
        if pixels > MAX_READABLE_PIXELS:
            raise LimitExceeded(
                f"a readable answer of {pixels} pixels in all is over the limit of {MAX_READABLE_PIXELS}",
                cure=f"ask for {SAFETENSORS!r}, or for fewer objects",
            )
        return
    side = {"native": card.mask_size, _MIDDLE: max(card.mask_size, _MIDDLE)}.get(wish.size, 0)
    area = size[0] * size[1] if wish.size == "original" else side * side
    stored = [wish.encoding if name == "probability" else name for name in wish.outputs]
    each = sum(_BYTES.get(name, 0) for name in stored)
    if (expected := area * each * objects * wish.masks) > MAX_ANSWER_BYTES:
        raise _too_long(expected)


def _too_long(size: int) -> LimitExceeded:
    return LimitExceeded(
        f"an answer of {size} bytes is over the limit of {MAX_ANSWER_BYTES}",
        cure="ask for fewer objects, a smaller size or a shorter encoding",
    )


def _encoded(told: Answer, wish: Wish) -> bytes:
    """The safetensors form."""
    if wish == SOFT_LABELS:
        return encode_answer(told.soft)
    assert told.exact is not None  # noqa: S101  # see _extras
    logits, content = _sized(told.exact, told.soft, wish)
    arrays: dict[str, npt.NDArray[Any]] = {
        "logits": float16_logits(logits),
        "predicted_iou": told.soft.predicted_iou if told.candidates is None else told.candidates[1],
        **({} if told.embedding is None else {"embedding": told.embedding}),
    }
    if "probability" in wish.outputs:
        arrays["probability"] = encode_probability(logits, wish.encoding)
    if "mask" in wish.outputs:
        arrays["mask"] = (logits > 0).astype(np.uint8)
    return encode_outputs(told.soft, {name: arrays[name] for name in wish.outputs}, content, wish)


def _sized(maps: npt.NDArray[np.float32], soft: SoftLabels, wish: Wish) -> tuple[npt.NDArray[np.float32], Content]:
    """Maps at the size that was asked for, and which part of them shows the image."""
    if wish.size == "original":
        return maps_at(maps, soft, soft.image_size), soft.image_size
    if wish.size == _MIDDLE and maps.shape[-1] != _MIDDLE:
        height, width = (extent * _MIDDLE / maps.shape[-1] for extent in soft.content)
        return resized(maps, (_MIDDLE, _MIDDLE)), (whole(height), whole(width))
    return maps, soft.content


def readable(told: Answer, wish: Wish = FOR_PEOPLE) -> dict[str, Any]:
    """An answer for people and for curl: numbers and a mask for each object, at the size of the image as sent."""
    soft = told.soft
    objects = [_object(soft, index, wish) for index in range(len(soft.logits))]
    if told.candidates is not None:
        for index, (maps, quality) in enumerate(zip(*told.candidates, strict=True)):
            three = replace(soft, logits=maps, predicted_iou=quality)
            objects[index]["candidates"] = [_object(three, one, wish) for one in range(len(maps))]
    return {
        "status": STATUS_OK,
        "teacher": soft.teacher.to_json(),
        "image": {"digest": soft.image_digest, "height": soft.image_size[0], "width": soft.image_size[1]},
        "prompt": soft.prompt.to_json(),
        "objects": objects,
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
    return replace(soft, logits=soft.logits[index : index + 1], predicted_iou=soft.predicted_iou[index : index + 1])


def _object(soft: SoftLabels, index: int, wish: Wish) -> dict[str, Any]:
    numbers = object_numbers(soft, index)
    mask = logits_at(one_object(soft, index), soft.image_size) > 0
    if wish.mask_format == "rle":
        return {**numbers, "mask_rle": {"size": list(mask.shape), "counts": run_lengths(mask)}}
    picture = png_bytes((mask * 255).astype(np.uint8))
    return {**numbers, "mask_png_base64": base64.b64encode(picture).decode()}


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

"""The wire format between a teacher service and its client; pure, the same on both ends and at every door.

Request: fields ``image`` (a PNG, JPEG, DICOM or NumPy file) and ``prompt`` (JSON, see fedmentor.teacher.question). ``{"describe":
true}`` as the prompt, without an image, asks who answers.

Answer: one safetensors blob with the outputs by name, of which ``logits`` float16 [K, h, w] and ``predicted_iou`` float32 [K] are
the default; everything else is JSON in the blob's metadata. An error is JSON ``{"status", "code", "message", "cure"}``. The status
stands inside the payload as well as in the reply's status line, because TorchServe's gRPC door drops the latter for single items of
a batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmentor.errors import (
    DataError,
    DigestMismatch,
    FedMentorError,
    LimitExceeded,
    ModelError,
    PromptRefused,
    TeacherUnreachable,
    UnknownArchitecture,
    UnknownImage,
    UnreadableImage,
    WrongArchitecture,
)
from fedmentor.ids import Digest, digest
from fedmentor.teacher.contract import Content, Prompt, SoftLabels, TeacherCard, card_from_json, prompt_from_json
from fedmentor.teacher.door import Busy
from fedmentor.teacher.encodings import decode_probability, pack, unpack
from fedmentor.teacher.question import SAFETENSORS, Question, Wish

IMAGE_FIELD = "image"
PROMPT_FIELD = "prompt"
STATUS_OK = 200

DESCRIBE = json.dumps({"describe": True}).encode()
"""The prompt that asks who answers."""

_METADATA = "fedmentor"

_MAPS = ("logits", "probability", "mask")
"""Outputs that are pictures: they have a size, and they may be packed."""

_ERRORS: tuple[tuple[type[FedMentorError], int, str], ...] = (
    (UnknownArchitecture, 404, "unknown_architecture"),
    (PromptRefused, 422, "prompt_refused"),
    (UnreadableImage, 422, "unreadable_image"),
    (UnknownImage, 404, "unknown_image"),
    (DataError, 400, "bad_request"),
    (Busy, 503, "stopping"),
    (LimitExceeded, 413, "limit_exceeded"),
    (DigestMismatch, 500, "digest_mismatch"),
    (WrongArchitecture, 500, "wrong_architecture"),
    (ModelError, 500, "model_error"),
    (FedMentorError, 500, "internal"),
)
"""Our errors, most specific first, with the HTTP status and the stable code under which they travel."""


def request_prompt(prompt: Prompt, answer: str = SAFETENSORS) -> bytes:
    """The ``prompt`` field of a request."""
    return json.dumps({**prompt.to_json(), "answer": answer}).encode()


def request_question(question: Question) -> bytes:
    """The ``prompt`` field of a request, in full."""
    return json.dumps(question.to_json()).encode()


@dataclass(frozen=True)
class Outputs:
    """What was asked for, by name, decoded.

    Attributes:
        arrays: ``logits`` float16 and ``probability`` float32 [K, h, w], ``mask`` bool [K, h, w], ``predicted_iou`` float32 [K],
            ``embedding`` float32 [C, g, g]. With three masks, [K, 3, h, w] and [K, 3]; the best has the highest predicted IoU.
        content: (height, width) of the top-left part of each map that shows the image; integers but for SAM.
        image_size: (H, W) of the image as sent.
        image_id: the image's digest; a later question may name it instead of sending the image.
        prompt: what was asked, an automatic prompt as its boxes.
        teacher: who answered.
        timings_ms: milliseconds by step, and ``embedding_cached`` 1 or 0.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    content: Content
    image_size: tuple[int, int]
    image_id: Digest
    prompt: Prompt
    teacher: TeacherCard
    timings_ms: Mapping[str, float]


def encode_outputs(soft: SoftLabels, arrays: Mapping[str, npt.NDArray[Any]], content: Content, wish: Wish) -> bytes:
    """Named arrays as one safetensors blob.

    Args:
        soft: for the facts.
        arrays: see Outputs, the probability in its wire encoding and masks as uint8.
        content: of the maps as they are sent.
        wish: what was asked for.
    """
    packed = {name: array for name, array in arrays.items() if wish.compress == "zlib" and name in _MAPS}
    tensors = {name: pack(array) if name in packed else np.ascontiguousarray(array) for name, array in arrays.items()}
    forms = {name: {"dtype": array.dtype.name, "shape": list(array.shape)} for name, array in packed.items()}
    facts = _facts(soft) | {"content": list(content), "size": wish.size, "masks": wish.masks, "packed": forms}
    return save(tensors, {_METADATA: json.dumps(facts)})


def decode_outputs(blob: bytes) -> Outputs:
    """The inverse of encode_outputs; reads encode_answer's blobs as well.

    Raises:
        TeacherUnreachable: the blob is not a teacher's answer.
    """
    try:
        tensors, facts = _opened(blob)
        arrays = {name: _decoded(name, tensor, facts.get("packed", {})) for name, tensor in tensors.items()}
        return _outputs(arrays, facts)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, FedMentorError) as error:
        raise _no_teacher() from error


def encode_answer(soft: SoftLabels) -> bytes:
    """Soft labels as one safetensors blob."""
    tensors: dict[str, npt.NDArray[Any]] = {
        "logits": np.ascontiguousarray(soft.logits),
        "predicted_iou": np.ascontiguousarray(soft.predicted_iou),
    }
    return save(tensors, {_METADATA: json.dumps(_facts(soft))})


def decode_answer(blob: bytes) -> SoftLabels:
    """The inverse of encode_answer.

    Raises:
        TeacherUnreachable: the blob is not a teacher's answer (truncated, or from something that is no teacher).
    """
    try:
        tensors, facts = _opened(blob)
        return _soft_labels(tensors["logits"], tensors["predicted_iou"], facts)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, FedMentorError) as error:
        raise _no_teacher() from error


def encode_error(error: FedMentorError) -> dict[str, Any]:
    """The JSON form of an error; holds its public message only."""
    status, code = next((status, code) for kind, status, code in _ERRORS if isinstance(error, kind))
    return {"status": status, "code": code, "message": error.message, "cure": error.cure}


def decode_error(body: Mapping[str, Any]) -> FedMentorError:
    """The error that a teacher reported, ready to be raised; an unknown code becomes TeacherUnreachable."""
    kinds = {code: kind for kind, _status, code in _ERRORS if kind is not FedMentorError}
    kind = kinds.get(str(body.get("code")), TeacherUnreachable)
    return kind(str(body.get("message", "the teacher failed"))[:500], cure=str(body.get("cure", ""))[:500])


def encode_card(card: TeacherCard) -> dict[str, Any]:
    """The answer to DESCRIBE."""
    return {"status": STATUS_OK, "teacher": card.to_json()}


def decode_card(body: object) -> TeacherCard:
    """The inverse of encode_card.

    Raises:
        TeacherUnreachable: not a description of a teacher.
    """
    try:
        card: TeacherCard = card_from_json(body["teacher"])  # type: ignore[index]  # whatever it is, a wrong form raises below
        digest(card.digest)
    except (KeyError, TypeError, FedMentorError) as error:
        raise _no_teacher() from error
    return card


def _no_teacher() -> TeacherUnreachable:
    return TeacherUnreachable("the answer is not that of a teacher", cure="check that the URL is a FedMentor teacher")


def _opened(blob: bytes) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    tensors = load(blob)
    header_bytes = int.from_bytes(blob[:8], "little")
    return tensors, json.loads(json.loads(blob[8 : 8 + header_bytes])["__metadata__"][_METADATA])


def _decoded(name: str, tensor: npt.NDArray[Any], packed: Mapping[str, Any]) -> npt.NDArray[Any]:
    form = packed.get(name)
    values = tensor if form is None else unpack(tensor, str(form["dtype"]), tuple(int(extent) for extent in form["shape"]))
    if name == "probability":
        return decode_probability(values)
    return values.astype(np.bool_) if name == "mask" else values


def _facts(soft: SoftLabels) -> dict[str, Any]:
    return {
        "status": STATUS_OK,
        "teacher": soft.teacher.to_json(),
        "image_digest": soft.image_digest,
        "image_size": list(soft.image_size),
        "content": list(soft.content),
        "prompt": soft.prompt.to_json(),
        "timings_ms": dict(soft.timings_ms),
    }


def _outputs(arrays: Mapping[str, npt.NDArray[Any]], facts: Mapping[str, Any]) -> Outputs:
    content = _content(facts)
    for name, array in arrays.items():
        if name in _MAPS and not (array.ndim in (3, 4) and _lies_on(content, array)):
            raise ValueError(name)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(name)
    return Outputs(
        arrays=arrays,
        content=content,
        image_size=_size(facts["image_size"]),
        image_id=digest(facts["image_digest"]),
        prompt=prompt_from_json(facts["prompt"]),
        teacher=card_from_json(facts["teacher"]),
        timings_ms=dict(facts["timings_ms"]),
    )


def _content(facts: Mapping[str, Any]) -> Content:
    height, width = facts["content"]
    if not all(isinstance(extent, (int, float)) for extent in (height, width)):
        raise ValueError("not numbers")
    return height, width


def _lies_on(content: Content, maps: npt.NDArray[Any]) -> bool:
    """Some of it, all of it within the maps; false for NaN."""
    return all(0 < extent <= side for extent, side in zip(content, maps.shape[-2:], strict=True))


def _size(value: Any) -> tuple[int, int]:
    height, width = value
    if not all(isinstance(extent, int) and extent >= 1 for extent in (height, width)):
        raise ValueError("not a size")
    return height, width


def _soft_labels(logits: Any, predicted_iou: Any, facts: Mapping[str, Any]) -> SoftLabels:
    if logits.dtype != np.float16 or logits.ndim != 3 or predicted_iou.shape != logits.shape[:1]:
        raise ValueError
    content = _content(facts)
    if not (len(logits) and _lies_on(content, logits) and np.isfinite(logits).all()):
        raise ValueError  # nobody could learn from it, and a cache would keep it for ever
    card = card_from_json(facts["teacher"])
    digest(card.digest)
    return SoftLabels(
        logits=logits,
        predicted_iou=predicted_iou.astype(np.float32),
        content=content,
        image_size=_size(facts["image_size"]),
        image_digest=digest(facts["image_digest"]),
        prompt=prompt_from_json(facts["prompt"]),
        teacher=card,
        timings_ms=dict(facts["timings_ms"]),
    )

"""The wire format between a teacher service and its client; pure, the same on both ends.

Request: multipart fields ``image`` (PNG or JPEG bytes) and ``prompt``
(JSON ``{"boxes": [[x0, y0, x1, y1], …], "points": [[x, y, label], …], "answer": "safetensors" | "json"}``).
``{"describe": true}`` as the prompt, without an image, asks who answers.

Answer: one safetensors blob with ``logits`` float16 [K, h, w] and ``predicted_iou`` float32 [K]; everything else is JSON in the
blob's metadata. An error is JSON ``{"status", "code", "message", "cure"}``. The status stands inside the payload as well as in
the reply's status line, because TorchServe's gRPC door drops the latter for single items of a batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    UnreadableImage,
    WrongArchitecture,
)
from fedmentor.ids import digest
from fedmentor.teacher.contract import Prompt, SoftLabels, TeacherCard, card_from_json, prompt_from_json

IMAGE_FIELD = "image"
PROMPT_FIELD = "prompt"
SAFETENSORS = "safetensors"
JSON = "json"
STATUS_OK = 200

DESCRIBE = json.dumps({"describe": True}).encode()
"""The prompt that asks who answers."""

_METADATA = "fedmentor"

_ERRORS: tuple[tuple[type[FedMentorError], int, str], ...] = (
    (PromptRefused, 422, "prompt_refused"),
    (UnreadableImage, 422, "unreadable_image"),
    (DataError, 400, "bad_request"),
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
        tensors = load(blob)
        header_bytes = int.from_bytes(blob[:8], "little")
        facts = json.loads(json.loads(blob[8 : 8 + header_bytes])["__metadata__"][_METADATA])
        return _soft_labels(tensors["logits"], tensors["predicted_iou"], facts)
    except (SafetensorError, ValueError, KeyError, TypeError, FedMentorError) as error:
        raise TeacherUnreachable("the answer is not that of a teacher", cure="check that the URL is a FedMentor teacher") from error


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
        raise TeacherUnreachable("the answer is not that of a teacher", cure="check that the URL is a FedMentor teacher") from error
    return card


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


def _soft_labels(logits: Any, predicted_iou: Any, facts: Mapping[str, Any]) -> SoftLabels:
    if logits.dtype != np.float16 or logits.ndim != 3 or predicted_iou.shape != logits.shape[:1]:
        raise ValueError
    height, width = (int(n) for n in facts["content"])
    if not (len(logits) and 0 < height <= logits.shape[1] and 0 < width <= logits.shape[2] and np.isfinite(logits).all()):
        raise ValueError  # nobody could learn from it, and a cache would keep it for ever
    image_height, image_width = (int(n) for n in facts["image_size"])
    card = card_from_json(facts["teacher"])
    digest(card.digest)
    return SoftLabels(
        logits=logits,
        predicted_iou=predicted_iou.astype(np.float32),
        content=(height, width),
        image_size=(image_height, image_width),
        image_digest=digest(facts["image_digest"]),
        prompt=prompt_from_json(facts["prompt"]),
        teacher=card,
        timings_ms=dict(facts["timings_ms"]),
    )

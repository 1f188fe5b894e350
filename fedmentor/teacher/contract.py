"""The teacher contract: prompts in, soft labels out, with enough provenance to know what was asked of whom.

Coordinates are pixels of the image as sent, x to the right and y down, floats allowed; a box is (x0, y0, x1, y1) with x0 < x1.
Logits are float16 at the teacher's own mask resolution. The part of the logit map that covers the image is its top-left
``content`` rectangle: LiteMedSAM and SAM pad to a square on the right and the bottom, SAM-Med2D stretches and has no padding.
SAM's map is four times as coarse as its input, so that the rectangle may end within a pixel of the map.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedmentor.ids import Digest
from fedmentor.teacher.prompt_form import (
    MAX_BOXES,
    MAX_PIXELS,
    MAX_POINTS,
    Box,
    MaskHint,
    ObjectPrompt,
    Point,
    Prompt,
    check_prompt,
    mask_hint,
    prompt_from_json,
)
from fedmentor.teacher.resizing import Content, Maps, resized

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W] grey or [H, W, 3] RGB."""

__all__ = [
    "MAX_BOXES",
    "MAX_PIXELS",
    "MAX_POINTS",
    "Answer",
    "Box",
    "Content",
    "Extras",
    "Foundation",
    "MaskHint",
    "ObjectPrompt",
    "Pixels",
    "Point",
    "Prompt",
    "SoftLabels",
    "Teacher",
    "TeacherCard",
    "card_from_json",
    "check_prompt",
    "image_digest",
    "logits_at",
    "maps_at",
    "mask_hint",
    "probability",
    "prompt_from_json",
    "soft_label_key",
]


@dataclass(frozen=True)
class TeacherCard:
    """Who a teacher is.

    Attributes:
        architecture: e.g. ``lite-medsam`` or ``sam-med2d``.
        digest: SHA-256 of the converted weights file that is loaded.
        preprocessing: id of the pre-processing, e.g. ``longest256-area-minmax-v1``; enters cache keys.
        input_size: side of the square that the encoder sees, pixels.
        mask_size: side of the logit map, pixels.
        prompts: kinds it was trained for, of ``box``, ``point`` and ``mask``.
        licence: SPDX id of the weights.
    """

    architecture: str
    digest: Digest
    preprocessing: str
    input_size: int
    mask_size: int
    prompts: tuple[str, ...]
    licence: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.__dict__, "prompts": list(self.prompts)}


def card_from_json(value: Mapping[str, Any]) -> TeacherCard:
    """The inverse of TeacherCard.to_json."""
    return TeacherCard(**{**value, "prompts": tuple(value["prompts"])})


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's answer for one image.

    Attributes:
        logits: float16 [K, h, w], one map per object: per box in the order given, or one for points alone.
        predicted_iou: float32 [K], the teacher's own estimate.
        content: (height, width) of the top-left part of each map that covers the image; integers but for SAM.
        image_size: (H, W) of the image as sent.
        image_digest: see image_digest().
        prompt: what was asked.
        teacher: who answered.
        timings_ms: milliseconds by step, for information; empty when read from a cache.
    """

    logits: npt.NDArray[np.float16]
    predicted_iou: npt.NDArray[np.float32]
    content: Content
    image_size: tuple[int, int]
    image_digest: Digest
    prompt: Prompt
    teacher: TeacherCard
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Extras:
    """What a caller wants beyond soft labels.

    Attributes:
        candidates: all masks that the decoder offers for each object, not only the best.
        embedding: the image's embedding.
        exact: the logits before they are rounded to float16.
    """

    candidates: bool = False
    embedding: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Answer:
    """Soft labels and what was asked for beside them.

    Attributes:
        soft: for each object the mask with the highest predicted IoU.
        candidates: float16 logits [K, M, h, w] and float32 predicted IoU [K, M]; None if not asked for.
        embedding: float32 [C, g, g]; None if not asked for.
        exact: the network's own float32 logits, of the candidates [K, M, h, w] if there are any, else of soft [K, h, w]; None if
            not asked for.
    """

    soft: SoftLabels
    candidates: tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]] | None = None
    embedding: npt.NDArray[np.float32] | None = None
    exact: npt.NDArray[np.float32] | None = None


class Teacher(Protocol):
    """Anything that answers prompts with soft labels.

    Implementations: fedmentor.teacher.client.TorchServeTeacher (HTTP), teacher_service.local.LocalTeacher (this process),
    fedmentor.teacher.cache.CachedTeacher (a disk cache in front of another teacher), fedmentor.testing.AnalyticTeacher (a fake).
    All pass tests/contract/test_teacher_contract.py.
    """

    def card(self) -> TeacherCard:
        """Who answers.

        Raises:
            TeacherUnreachable: no answer within the deadline.
        """
        ...

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """Segment one image.

        The same image and prompt always give the same float16 logits on the same machine and thread count.

        Raises:
            PromptRefused: see check_prompt; also kinds of prompt that the teacher was not trained for.
            UnreadableImage: not uint8 [H, W] or [H, W, 3], or over MAX_PIXELS.
            TeacherUnreachable: no answer within the deadline, or a wrong token.
        """
        ...


class Foundation(Teacher, Protocol):
    """A teacher that runs here: it also knows images by their digest, and gives what is inside.

    Implementations: teacher_service.local.LocalTeacher and fedmentor.testing.AnalyticTeacher. A service answers requests with one.
    """

    def size_of(self, image: Digest) -> tuple[int, int]:
        """(H, W) of an image that was asked about lately.

        Raises:
            UnknownImage: it is not held, or no longer.
        """
        ...

    def expect(self, images: Sequence[Pixels]) -> None:
        """Be told of images that are about to be asked about; a teacher may encode them together, or do nothing.

        Args:
            images: each of which check_pixels accepts.
        """
        ...

    def ask(self, image: Pixels | Digest, prompt: Prompt, extras: Extras) -> Answer:
        """Like soften, for an image or for the digest of one that was asked about lately.

        Raises:
            UnknownImage: the image is not held, or no longer.
            PromptRefused, UnreadableImage: see Teacher.soften; also candidates that the teacher was not trained to give.
        """
        ...


def image_digest(pixels: Pixels) -> Digest:
    """SHA-256 over shape and pixel values, so that the same picture in two file formats has one digest."""
    state = hashlib.sha256("x".join(str(n) for n in pixels.shape).encode())
    state.update(np.ascontiguousarray(pixels).tobytes())
    return Digest(state.hexdigest())


def soft_label_key(image: Digest, prompt: Prompt, card: TeacherCard) -> Digest:
    """The content address of an answer: image, prompt, teacher weights and pre-processing."""
    state = hashlib.sha256()
    for part in (image.encode(), prompt.canonical(), card.digest.encode(), card.preprocessing.encode()):
        state.update(len(part).to_bytes(4, "little") + part)
    return Digest(state.hexdigest())


def logits_at(soft: SoftLabels, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The union of all objects, the maximum of their logits, at ``size``; see maps_at.

    Returns:
        float32 [height, width].
    """
    union: npt.NDArray[np.float32] = soft.logits.astype(np.float32).max(axis=0)
    return maps_at(union, soft, size)


def maps_at(maps: Maps, soft: SoftLabels, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Crop the padding of an answer's maps and resize the rest to ``size``, as the teachers' authors do.

    Bilinear with half-pixel centres; where a map shrinks, it is averaged first, which theirs is not. LiteMedSAM's authors crop the
    map; SAM's (segment_anything.modeling.Sam.postprocess_masks) enlarge it to the input, crop that, and resize again, so that the
    padding enters the last pixels. One step here does for their two, to within half a pixel of the input at its edges.

    Args:
        maps: [..., h, w], any of the answer's.
        soft: the answer.
        size: (height, width).

    Returns:
        float32 [..., height, width].
    """
    if soft.teacher.mask_size < soft.teacher.input_size:
        return resized(maps, size, soft.content)
    height, width = (math.ceil(extent) for extent in soft.content)
    return resized(maps[..., :height, :width], size, soft.content)


def probability(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Numerically safe sigmoid, float32, same shape."""
    clipped = np.clip(logits.astype(np.float32), -60.0, 60.0)
    return (1.0 / (1.0 + np.exp(-clipped))).astype(np.float32)

"""The teacher contract: prompts in, soft labels out, with enough provenance to know what was asked of whom.

Coordinates are pixels of the image as sent, x to the right and y down, floats allowed; a box is (x0, y0, x1, y1) with x0 < x1.
Logits are float16 at the teacher's own mask resolution. The part of the logit map that covers the image is its top-left
``content`` rectangle: LiteMedSAM pads to a square on the right and the bottom, SAM-Med2D stretches and has no padding.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedmentor.errors import PromptRefused
from fedmentor.ids import Digest

Pixels = npt.NDArray[np.uint8]
"""uint8 [H, W] grey or [H, W, 3] RGB."""

MAX_BOXES = 64
MAX_POINTS = 64
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the image as sent."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Point:
    """A click in pixels of the image as sent; ``label`` 1 is foreground, 0 background."""

    x: float
    y: float
    label: int = 1


@dataclass(frozen=True)
class Prompt:
    """What to segment. Each box is an object of its own; points belong to one object, or refine every box."""

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: ``{"boxes": [[x0, y0, x1, y1], …], "points": [[x, y, label], …]}``."""
        return {
            "boxes": [[box.x0, box.y0, box.x1, box.y1] for box in self.boxes],
            "points": [[point.x, point.y, point.label] for point in self.points],
        }

    def canonical(self) -> bytes:
        """The bytes that enter cache keys: sorted keys, no spaces, coordinates as floats."""
        boxes = [[float(v) for v in (b.x0, b.y0, b.x1, b.y1)] for b in self.boxes]
        points = [[float(p.x), float(p.y), int(p.label)] for p in self.points]
        return json.dumps({"boxes": boxes, "points": points}, sort_keys=True, separators=(",", ":")).encode()


def prompt_from_json(value: object) -> Prompt:
    """Read the JSON form of a prompt; form only, not against an image (see check_prompt).

    Raises:
        PromptRefused: not an object of that form.
    """
    if not isinstance(value, Mapping) or not value.keys() <= {"boxes", "points"}:
        raise PromptRefused("a prompt is an object with 'boxes' and 'points'")
    return Prompt(
        boxes=tuple(Box(*row) for row in _rows(value.get("boxes", []), 4, "a box is [x0, y0, x1, y1]", MAX_BOXES)),
        points=tuple(
            Point(x, y, int(label)) for x, y, label in _rows(value.get("points", []), 3, "a point is [x, y, label]", MAX_POINTS)
        ),
    )


def check_prompt(prompt: Prompt, size: tuple[int, int]) -> None:
    """Refuse prompts that cannot mean anything on an image of ``size`` (H, W).

    Raises:
        PromptRefused: nothing to segment, too many objects, not finite, an inverted or empty box, or anything outside the image.
    """
    height, width = size
    if not prompt.boxes and not prompt.points:
        raise PromptRefused("a prompt needs a box or a point", cure="pass --box x0,y0,x1,y1")
    if len(prompt.boxes) > MAX_BOXES or len(prompt.points) > MAX_POINTS:
        raise PromptRefused(f"a prompt has at most {MAX_BOXES} boxes and {MAX_POINTS} points")
    for box in prompt.boxes:
        corners = (box.x0, box.y0, box.x1, box.y1)
        if not all(np.isfinite(corners)):
            raise PromptRefused("a box has a coordinate that is not a number")
        if box.x0 >= box.x1 or box.y0 >= box.y1:
            raise PromptRefused(f"box {corners} is inverted or empty", cure="give x0,y0,x1,y1 with x0 < x1 and y0 < y1")
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
            raise PromptRefused(f"box {corners} is outside the image of {width}x{height} pixels")
    for point in prompt.points:
        if not (0 <= point.x <= width and 0 <= point.y <= height):
            raise PromptRefused(f"point ({point.x}, {point.y}) is outside the image of {width}x{height} pixels")
        if point.label not in (0, 1):
            raise PromptRefused(f"point label {point.label} is not 1 (foreground) or 0 (background)")


@dataclass(frozen=True)
class TeacherCard:
    """Who a teacher is.

    Attributes:
        architecture: e.g. ``lite-medsam`` or ``sam-med2d``.
        digest: SHA-256 of the converted weights file that is loaded.
        preprocessing: id of the pre-processing, e.g. ``longest256-area-minmax-v1``; enters cache keys.
        input_size: side of the square that the encoder sees, pixels.
        mask_size: side of the logit map, pixels.
        prompts: kinds it was trained for, of ``box`` and ``point``.
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
        content: (height, width) of the top-left part of each map that covers the image.
        image_size: (H, W) of the image as sent.
        image_digest: see image_digest().
        prompt: what was asked.
        teacher: who answered.
        timings_ms: milliseconds by step, for information; empty when read from a cache.
    """

    logits: npt.NDArray[np.float16]
    predicted_iou: npt.NDArray[np.float32]
    content: tuple[int, int]
    image_size: tuple[int, int]
    image_digest: Digest
    prompt: Prompt
    teacher: TeacherCard
    timings_ms: Mapping[str, float] = field(default_factory=dict)


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
    """Crop the padding and resize the union of all objects to ``size``.

    The union of objects is the maximum of their logits. Bilinear with half-pixel centres (``align_corners=False``),
    as the teachers' authors resize; where the map shrinks, it is averaged first, which theirs is not.

    Returns:
        float32 [height, width].
    """
    height, width = soft.content
    union: npt.NDArray[np.float32] = soft.logits[:, :height, :width].astype(np.float32).max(axis=0)
    if union.shape == size:
        return union
    resized = Image.fromarray(union, mode="F").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def probability(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Numerically safe sigmoid, float32, same shape."""
    clipped = np.clip(logits.astype(np.float32), -60.0, 60.0)
    return (1.0 / (1.0 + np.exp(-clipped))).astype(np.float32)


def _rows(value: object, length: int, form: str, limit: int) -> list[list[float]]:
    if not isinstance(value, list) or len(value) > limit:
        raise PromptRefused(f"{form}; at most {limit} of them in a list")
    for row in value:
        if not isinstance(row, list) or len(row) != length or not all(_is_number(item) for item in row):
            raise PromptRefused(form)
    return [[float(item) for item in row] for row in value]


def _is_number(value: object) -> bool:
    # The bound also keeps an integer of hundreds of digits from float(); NaN and infinity, which JSON readers accept, are refused.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= MAX_PIXELS

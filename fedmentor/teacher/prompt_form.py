"""What can be asked for on an image: boxes, clicks, rough masks, one object or many; the JSON form; and what is refused.

Coordinates are pixels of the image as sent, x to the right and y down, floats allowed; a box is (x0, y0, x1, y1) with x0 < x1.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedmentor.errors import PromptRefused

MAX_BOXES = 64
"""Also the most objects of a prompt."""

MAX_POINTS = 64
"""For one object, and together in a prompt's list of points."""

MAX_PIXELS = 50_000_000

MAX_HINT_SIDE = 512
"""Longest side of a mask hint, pixels. The networks take 64 or 256."""

_MAX_HINT_BYTES = 1 << 20


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
class MaskHint:
    """A rough mask, stretched over the whole image: the probability of foreground in 255 steps, row by row.

    Attributes:
        height, width: of the hint, not of the image; at most MAX_HINT_SIDE.
        values: ``height * width`` bytes.
    """

    height: int
    width: int
    values: bytes

    def array(self) -> npt.NDArray[np.uint8]:
        """uint8 [height, width]."""
        return np.frombuffer(self.values, np.uint8).reshape(self.height, self.width)

    def digest(self) -> str:
        """SHA-256 over size and values."""
        return hashlib.sha256(f"{self.height}x{self.width}".encode() + self.values).hexdigest()


def mask_hint(mask: npt.NDArray[Any]) -> MaskHint:
    """A hint from a mask (bool) or a soft mask (floating, 0 to 1; or uint8, 0 to 255), [h, w].

    Raises:
        PromptRefused: of another form, or over MAX_HINT_SIDE.
    """
    if mask.ndim != 2 or not 1 <= min(mask.shape) <= max(mask.shape) <= MAX_HINT_SIDE:
        raise PromptRefused(f"a mask hint is [h, w] with sides from 1 to {MAX_HINT_SIDE}, not {list(mask.shape)}")
    if mask.dtype == np.uint8:
        values = mask
    elif mask.dtype == np.bool_ or (np.issubdtype(mask.dtype, np.floating) and np.all((mask >= 0) & (mask <= 1))):
        values = np.rint(mask.astype(np.float32) * 255).astype(np.uint8)
    else:
        raise PromptRefused("a mask hint is bool, uint8, or a probability from 0 to 1")
    return MaskHint(mask.shape[0], mask.shape[1], np.ascontiguousarray(values).tobytes())


@dataclass(frozen=True)
class ObjectPrompt:
    """Everything that is known about one object: a box, clicks, a rough mask, or any of them together."""

    box: Box | None = None
    points: tuple[Point, ...] = ()
    mask: MaskHint | None = None

    def kinds(self) -> tuple[str, ...]:
        """Which of ``box``, ``point`` and ``mask`` it uses."""
        used = {"box": self.box is not None, "point": bool(self.points), "mask": self.mask is not None}
        return tuple(kind for kind, is_used in used.items() if is_used)

    def to_json(self) -> dict[str, Any]:
        """The JSON form: ``{"box": [x0, y0, x1, y1], "points": [[x, y, label], …], "mask": "PNG in base64"}``, each optional."""
        value: dict[str, Any] = {}
        if self.box is not None:
            value["box"] = _box_row(self.box)
        if self.points:
            value["points"] = [_point_row(point) for point in self.points]
        if self.mask is not None:
            value["mask"] = base64.b64encode(_png(self.mask)).decode()
        return value


@dataclass(frozen=True)
class Prompt:
    """What to segment: either boxes and points, or objects one by one.

    Attributes:
        boxes: each an object of its own.
        points: of one object without boxes; with boxes they refine every box.
        objects: the long form, for clicks or masks of single objects; then boxes and points are empty.
    """

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    objects: tuple[ObjectPrompt, ...] = ()

    def each(self) -> tuple[ObjectPrompt, ...]:
        """The objects in the order of the answer's maps, whichever form was used."""
        if self.objects:
            return self.objects
        if self.boxes:
            return tuple(ObjectPrompt(box, self.points) for box in self.boxes)
        return (ObjectPrompt(None, self.points),) if self.points else ()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: ``{"boxes": [[x0, y0, x1, y1], …], "points": [[x, y, label], …]}``, or ``{"objects": [{…}, …]}``."""
        if self.objects:
            return {"objects": [each.to_json() for each in self.objects]}
        return {"boxes": [_box_row(box) for box in self.boxes], "points": [_point_row(point) for point in self.points]}

    def canonical(self) -> bytes:
        """The bytes that enter cache keys: sorted keys, no spaces, coordinates as floats, a mask by its digest."""
        value: dict[str, Any] = {"boxes": _floats(map(_box_row, self.boxes)), "points": _clicks(self.points)}
        if self.objects:
            value["objects"] = [
                {
                    "box": None if each.box is None else _floats([_box_row(each.box)])[0],
                    "points": _clicks(each.points),
                    "mask": None if each.mask is None else each.mask.digest(),
                }
                for each in self.objects
            ]
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def prompt_from_json(value: object) -> Prompt:
    """Read the JSON form of a prompt; form only, not against an image (see check_prompt).

    Raises:
        PromptRefused: not an object of that form.
    """
    if not isinstance(value, Mapping) or not value.keys() <= {"boxes", "points", "objects"}:
        raise PromptRefused("a prompt is an object with 'boxes' and 'points', or with 'objects'")
    return Prompt(boxes=_boxes(value.get("boxes", [])), points=_points(value.get("points", [])), objects=_objects(value))


def check_prompt(prompt: Prompt, size: tuple[int, int]) -> None:
    """Refuse prompts that cannot mean anything on an image of ``size`` (H, W).

    Raises:
        PromptRefused: nothing to segment, too many objects, not finite, an inverted or empty box, or anything outside the image.
    """
    if prompt.objects and (prompt.boxes or prompt.points):
        raise PromptRefused("a prompt has either 'objects' or 'boxes' and 'points'")
    if len(prompt.boxes) > MAX_BOXES or len(prompt.points) > MAX_POINTS or len(prompt.objects) > MAX_BOXES:
        raise PromptRefused(f"a prompt has at most {MAX_BOXES} boxes or objects and {MAX_POINTS} points")
    objects = prompt.each()
    if not objects:
        raise PromptRefused("a prompt needs a box or a point", cure="pass --box x0,y0,x1,y1, or --auto central")
    for each in objects:
        _check_object(each, size)


def _check_object(each: ObjectPrompt, size: tuple[int, int]) -> None:
    if not each.kinds():
        raise PromptRefused("an object needs a box, a point or a mask")
    if len(each.points) > MAX_POINTS:
        raise PromptRefused(f"an object has at most {MAX_POINTS} points")
    if each.box is not None:
        _check_box(each.box, size)
    for point in each.points:
        _check_point(point, size)
    if each.mask is not None and len(each.mask.values) != each.mask.height * each.mask.width:
        raise PromptRefused("a mask hint has height times width values")


def check_corners(box: Box) -> None:
    """Refuse a box that is one on no image.

    Raises:
        PromptRefused: not finite, inverted or empty.
    """
    corners = (box.x0, box.y0, box.x1, box.y1)
    if not all(np.isfinite(corners)):
        raise PromptRefused("a box has a coordinate that is not a number")
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        raise PromptRefused(f"box {corners} is inverted or empty", cure="give x0,y0,x1,y1 with x0 < x1 and y0 < y1")


def _check_box(box: Box, size: tuple[int, int]) -> None:
    check_corners(box)
    height, width = size
    corners = (box.x0, box.y0, box.x1, box.y1)
    if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
        raise PromptRefused(f"box {corners} is outside the image of {width}x{height} pixels")


def _check_point(point: Point, size: tuple[int, int]) -> None:
    height, width = size
    if not (0 <= point.x <= width and 0 <= point.y <= height):
        raise PromptRefused(f"point ({point.x}, {point.y}) is outside the image of {width}x{height} pixels")
    if point.label not in (0, 1):
        raise PromptRefused(f"point label {point.label} is not 1 (foreground) or 0 (background)")


def _box_row(box: Box) -> list[float]:
    return [box.x0, box.y0, box.x1, box.y1]


def _point_row(point: Point) -> list[float]:
    return [point.x, point.y, point.label]


def _floats(rows: Any) -> list[list[float]]:
    return [[float(value) for value in row] for row in rows]


def _clicks(points: tuple[Point, ...]) -> list[list[float]]:
    return [[float(point.x), float(point.y), int(point.label)] for point in points]


def _boxes(value: object) -> tuple[Box, ...]:
    return tuple(Box(*row) for row in _rows(value, 4, "a box is [x0, y0, x1, y1]", MAX_BOXES))


def _points(value: object) -> tuple[Point, ...]:
    rows = _rows(value, 3, "a point is [x, y, label]", MAX_POINTS)
    if any(label != int(label) for _x, _y, label in rows):
        raise PromptRefused("a point's label is 1 (foreground) or 0 (background)")
    return tuple(Point(x, y, int(label)) for x, y, label in rows)


def _objects(value: Mapping[str, Any]) -> tuple[ObjectPrompt, ...]:
    objects = value.get("objects", [])
    if not isinstance(objects, list) or len(objects) > MAX_BOXES:
        raise PromptRefused(f"'objects' is a list of at most {MAX_BOXES}")
    return tuple(_object(each) for each in objects)


def _object(value: object) -> ObjectPrompt:
    if not isinstance(value, Mapping) or not value.keys() <= {"box", "points", "mask"}:
        raise PromptRefused("an object has a 'box', 'points' and a 'mask', each of them optional")
    boxes = _boxes([value["box"]]) if "box" in value else (None,)
    hint = _hint_from_png(value["mask"]) if "mask" in value else None
    return ObjectPrompt(boxes[0], _points(value.get("points", [])), hint)


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


def _png(hint: MaskHint) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(hint.array()).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _hint_from_png(text: object) -> MaskHint:
    form = f"a mask hint is a grey 8-bit PNG in base64, at most {MAX_HINT_SIDE} pixels a side"
    if not isinstance(text, str) or len(text) > _MAX_HINT_BYTES:
        raise PromptRefused(form)
    try:
        data = base64.b64decode(text, validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
                if picture.mode not in ("1", "L") or max(picture.size) > MAX_HINT_SIDE:
                    raise PromptRefused(form)
                return mask_hint(np.asarray(picture.convert("L"), np.uint8))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PromptRefused(form) from error

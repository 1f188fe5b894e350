"""A prompt in a network's own coordinates: objects of one kind go through the decoder together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fedmentor.teacher.contract import Box, MaskHint, ObjectPrompt, Point
from teacher_service.models.network import Points
from teacher_service.preprocess import Preprocessing, Size

Kind = tuple[bool, int, bool]
"""Box or not, how many points, mask or not: what objects must share to be decoded together."""

PROBABILITY = "probability"
LOGITS = "logits"

_FULL = 255.0
_LARGEST_LOGIT = 8.0
"""A hint of 0 or 255 says this, not infinity: logits of a decoder's own first answer lie in this range."""


@dataclass(frozen=True)
class Frame:
    """How a picture lies on a network's input.

    Attributes:
        preprocessing: of the architecture.
        input_size: side of the input, pixels.
        hint_size: side of a rough mask as the network takes it: four times the token grid.
        hint_form: PROBABILITY (SAM-Med2D) or LOGITS (SAM).
        size: (H, W) of the picture.
    """

    preprocessing: Preprocessing
    input_size: int
    hint_size: int
    hint_form: str
    size: Size


def together(objects: Sequence[ObjectPrompt]) -> list[list[int]]:
    """Positions of objects of one kind, kinds in the order of their first object."""
    groups: dict[Kind, list[int]] = {}
    for index, each in enumerate(objects):
        groups.setdefault((each.box is not None, len(each.points), each.mask is not None), []).append(index)
    return list(groups.values())


def boxes_on_input(objects: Sequence[ObjectPrompt], frame: Frame) -> torch.Tensor | None:
    """float32 [K, 4], or None for objects without boxes."""
    boxes: list[Box] = [each.box for each in objects if each.box is not None]
    if not boxes:
        return None
    corners = np.array([[(box.x0, box.y0), (box.x1, box.y1)] for box in boxes], np.float64)
    return _coordinates(corners, frame).reshape(len(boxes), 4)


def points_on_input(objects: Sequence[ObjectPrompt], frame: Frame) -> Points | None:
    """float32 [K, N, 2] and int32 [K, N], or None for objects without points."""
    points: list[tuple[Point, ...]] = [each.points for each in objects if each.points]
    if not points:
        return None
    clicks = np.array([[(point.x, point.y) for point in row] for row in points], np.float64)
    labels = torch.tensor([[point.label for point in row] for row in points], dtype=torch.int32)
    return _coordinates(clicks, frame), labels


def masks_on_input(objects: Sequence[ObjectPrompt], frame: Frame) -> torch.Tensor | None:
    """float32 [K, 1, S, S], or None for objects without masks."""
    hints = [_hint(each.mask, frame) for each in objects if each.mask is not None]
    return torch.from_numpy(np.stack(hints)[:, None]) if hints else None


def _coordinates(xy: npt.NDArray[np.float64], frame: Frame) -> torch.Tensor:
    return torch.from_numpy(frame.preprocessing.coordinates(xy, frame.size))


def _hint(mask: MaskHint, frame: Frame) -> npt.NDArray[np.float32]:
    """The hint over the picture's part of the input, nothing beside it."""
    ratio = frame.hint_size / frame.input_size
    content = [extent * ratio for extent in frame.preprocessing.content(frame.size)]
    rows, columns = (math.ceil(extent) for extent in content)
    unit = np.zeros((frame.hint_size, frame.hint_size), np.float32)
    unit[:rows, :columns] = _over(mask.array(), content) / _FULL
    if frame.hint_form == PROBABILITY:
        return unit
    edge = 1 / (1 + np.exp(_LARGEST_LOGIT))
    clipped = np.clip(unit, edge, 1 - edge)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float32)


def _over(grey: npt.NDArray[np.uint8], content: Sequence[float]) -> npt.NDArray[np.float32]:
    """Stretched over (height, width), which may end within a pixel; such a pixel has as much of the hint as the picture covers."""
    rows, columns = (math.ceil(extent) for extent in content)
    height, width = (source * ends / extent for source, ends, extent in zip(grey.shape, (rows, columns), content, strict=True))
    beyond = [(0, math.ceil(reached) - source) for reached, source in zip((height, width), grey.shape, strict=True)]
    longer = Image.fromarray(np.pad(grey.astype(np.float32), beyond, mode="edge"), mode="F")
    values = np.asarray(longer.resize((columns, rows), Image.Resampling.BILINEAR, (0.0, 0.0, width, height)), np.float32)
    covered = [
        np.clip(extent - np.arange(ends), 0, 1).astype(np.float32) for extent, ends in zip(content, values.shape, strict=True)
    ]
    return values * np.outer(*covered)

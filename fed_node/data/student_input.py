"""From a radiograph of any size to the student's 256 x 256 input, and from the student's output back to the radiograph.

The aspect ratio is kept: lungs have a shape that a stretched copy would lose, and hospitals differ in it. The image is centred on
a black square, as a collimated film is; GroupNorm and the loss see the border as background. Because scale and offset are returned
as a Geometry, predictions go back exactly where they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fed_node.data.reading import GreyImage, Mask

SIDE = 256
"""Side of the student's square input, pixels."""

LOW_PERCENTILE, HIGH_PERCENTILE = 1.0, 99.0
"""Burnt-in letters and black borders fall outside; a change of exposure or contrast that is linear in grey values is undone."""

Plane = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in its square.

    Attributes:
        source: (H, W) of the radiograph.
        content: (h, w) that it has in the square.
        offset: (top, left) of its first pixel in the square.
        side: side of the square.
    """

    source: tuple[int, int]
    content: tuple[int, int]
    offset: tuple[int, int]
    side: int

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the square that the image covers."""
        (top, left), (height, width) = self.offset, self.content
        return slice(top, top + height), slice(left, left + width)


def fit(source: tuple[int, int], side: int = SIDE) -> Geometry:
    """The largest centred copy of ``source`` (H, W) in a square of ``side`` pixels."""
    height, width = source
    scale = side / max(height, width)
    content = (max(1, round(height * scale)), max(1, round(width * scale)))
    return Geometry(source, content, ((side - content[0]) // 2, (side - content[1]) // 2), side)


def to_student(image: GreyImage, side: int = SIDE) -> tuple[Plane, Geometry]:
    """Resize, normalise and pad one image.

    Returns:
        float32 [1, side, side] in [0, 1], zero outside the image; and its Geometry.
    """
    geometry = fit((image.shape[0], image.shape[1]), side)
    plane = np.zeros((1, side, side), np.float32)
    plane[0][geometry.window] = normalised(_resized(image.astype(np.float32), geometry.content, Image.Resampling.BILINEAR))
    return plane, geometry


def mask_to_student(mask: Mask, geometry: Geometry) -> Mask:
    """Put a mask [H, W] into the square: a pixel is foreground where at least half of its area is.

    Returns:
        bool [side, side].

    Raises:
        ValueError: the mask is not of ``geometry.source``.
    """
    if mask.shape != geometry.source:
        raise ValueError(f"a mask of shape {mask.shape} does not fit {geometry.source}")
    square = np.zeros((geometry.side, geometry.side), np.bool_)
    square[geometry.window] = _resized(mask.astype(np.float32), geometry.content, Image.Resampling.BOX) >= 0.5
    return square


def to_source(prediction: npt.NDArray[np.floating[Any]], geometry: Geometry) -> Plane:
    """Put a prediction [side, side] (probabilities or logits) back on the radiograph, bilinear.

    Returns:
        float32 [H, W].
    """
    return _resized(np.ascontiguousarray(prediction[geometry.window], np.float32), geometry.source, Image.Resampling.BILINEAR)


def normalised(values: Plane) -> Plane:
    """Percentiles 1 and 99 to 0 and 1, clipped; a constant image becomes zeros."""
    low, high = (float(value) for value in np.percentile(values, [LOW_PERCENTILE, HIGH_PERCENTILE]))
    if high <= low:
        return np.zeros_like(values)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), np.float32)


def _resized(values: Plane, size: tuple[int, int], filter_: Image.Resampling) -> Plane:
    if values.shape == size:
        return values
    return np.asarray(Image.fromarray(values).resize((size[1], size[0]), filter_), np.float32)

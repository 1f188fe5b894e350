"""From deeper pixels to the eight bits that teachers look at: a window where somebody chose one, else lowest to highest.

Pure. Which window is right is the modality's business: the request may name one, a DICOM file brings its own, and without either
the darkest value becomes 0 and the brightest 255, which is also what LiteMedSAM's own pre-processing does next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmentor.errors import UnreadableImage
from fedmentor.teacher.contract import MAX_PIXELS, Pixels

MIN_SIDE = 8
"""Shortest side, pixels: half a patch of the vision transformers behind the teachers. Anything smaller is no picture."""

_ROWS = 256


@dataclass(frozen=True)
class View:
    """How to look at a picture file that holds more than eight bits or more than one picture.

    Attributes:
        frame: of a multi-frame DICOM, from 0; None where there is one.
        window: (low, high) of the values, in the file's own units (Hounsfield where it is rescaled to them), that become 0 and
            255; None for the file's own window, or its lowest and highest value. Eight-bit files without it are kept as they are.
    """

    frame: int | None = None
    window: tuple[float, float] | None = None


AS_IT_IS = View()
"""The only frame, through the file's own window."""


def check_size(width: int, height: int) -> None:
    """Refuse a declared size that is no picture or too much of one, before memory is asked for.

    Raises:
        UnreadableImage: a side below MIN_SIDE, or over MAX_PIXELS.
    """
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"an image of {width}x{height} pixels is over the limit of {MAX_PIXELS} pixels")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"an image of {width}x{height} pixels is too small; the shortest side must be {MIN_SIDE} or more")


def eight_bits(values: npt.NDArray[Any], window: tuple[float, float] | None) -> Pixels:
    """Deeper pixels through a window.

    Args:
        values: any real numbers, [H, W] or [H, W, 3].
        window: (low, high), or None for the lowest and the highest value.

    Returns:
        uint8 of the same shape; black throughout where all values are equal.

    Raises:
        UnreadableImage: a value is not a finite number, or too large a one.
    """
    if window is None and values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise UnreadableImage("the image holds values that are not finite numbers", cure="replace NaN and infinity before sending")
    low, high = window or (float(values.min()), float(values.max()))
    if not math.isfinite(high - low):
        raise UnreadableImage("the image holds values too large to be shown", cure="scale them before sending")
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        # In double precision, as a site reads the same file, so that both know an image by one digest; a few rows at a time, so
        # that a large radiograph does not become eight bytes a pixel.
        for top in range(0, len(values), _ROWS):
            rows = slice(top, top + _ROWS)
            grey[rows] = np.rint(np.clip((values[rows].astype(np.float64) - low) * (255 / (high - low)), 0, 255))
    return grey


def display_window(
    values: npt.NDArray[np.float64], center: float, width: float, function: str = "LINEAR"
) -> npt.NDArray[np.float64]:
    """The display window as a map to [0, 1] (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: rescaled pixel values, any shape.
        center: window centre.
        width: window width, over 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID; anything else is taken as LINEAR, the standard's default.
    """
    width = max(width, 1e-6)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -60, 60))))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    return np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)

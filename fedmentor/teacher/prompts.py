"""Prompts that need nobody's hand: fixed boxes on an upright frontal chest X-ray, and the box around a mask that exists.

The fractions were chosen on chest X-rays with human lung masks; ``benchmarks/teacher_quality.py DATASET`` measures them.
All functions are pure; sizes are (H, W), boxes are in pixels of that image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from fedmentor.errors import ConfigError, DataError
from fedmentor.teacher.prompt_form import Box

CENTRAL = (0.0, 0.0, 1.0, 0.92)
"""x0, y0, x1, y1 of the box around both lungs, in fractions of the image's width and height: everything but the abdomen. Narrower
boxes are worse on average, because they cut wide or high lungs; so are two boxes."""

RIGHT_LUNG = (0.02, 0.04, 0.50, 0.84)
LEFT_LUNG = (0.50, 0.04, 0.98, 0.84)
"""The patient's right lung is on the viewer's left."""

MAX_MARGIN = 1000
"""Pixels."""


def central_box(size: tuple[int, int]) -> tuple[Box, ...]:
    """One box around both lung fields of a frontal chest X-ray: the best fixed prompt on average."""
    return (_fraction_box(CENTRAL, size),)


def lung_boxes(size: tuple[int, int]) -> tuple[Box, ...]:
    """Two boxes, one a lung field; the union of the two answers is the lungs."""
    return (_fraction_box(RIGHT_LUNG, size), _fraction_box(LEFT_LUNG, size))


def whole_box(size: tuple[int, int]) -> tuple[Box, ...]:
    """One box around the whole image: the automatic prompt for anything that fills it."""
    return (_fraction_box((0.0, 0.0, 1.0, 1.0), size),)


def mask_box(mask: npt.NDArray[np.generic], margin: float = 0.0) -> tuple[Box, ...]:
    """The tight box around everything that is not zero in a mask.

    Args:
        mask: [H, W]; anything but zero is foreground.
        margin: pixels added on each side, cut at the image's edge.

    Raises:
        DataError: the mask is empty or not two-dimensional.
    """
    if mask.ndim != 2 or not mask.any():
        raise DataError("a box cannot be drawn around an empty mask")
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        Box(
            x0=max(0.0, float(columns[0]) - margin),
            y0=max(0.0, float(rows[0]) - margin),
            x1=min(float(width), float(columns[-1]) + 1.0 + margin),
            y1=min(float(height), float(rows[-1]) + 1.0 + margin),
        ),
    )


def mask_margin(choice: str) -> float | None:
    """The margin in the choice ``mask`` or ``mask:PIXELS``: the box around an image's own mask; None where it is another choice.

    Raises:
        ConfigError: a margin that is not a number from 0 to MAX_MARGIN.
    """
    name, colon, text = choice.partition(":")
    if name != "mask":
        return None
    try:
        margin = float(text) if colon else 0.0
    except ValueError:
        margin = -1.0
    if not 0 <= margin <= MAX_MARGIN:
        raise ConfigError(f"{choice[:40]!r} is not a margin", cure=f"give pixels from 0 to {MAX_MARGIN}, e.g. mask:5")
    return margin


def _fraction_box(fractions: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    height, width = size
    x0, y0, x1, y1 = fractions
    return Box(x0 * width, y0 * height, x1 * width, y1 * height)


AUTOMATIC: Mapping[str, Callable[[tuple[int, int]], tuple[Box, ...]]] = {
    "central": central_box,
    "lungs": lung_boxes,
    "whole": whole_box,
}
"""The prompts that need no hand, by the names under which requests and commands ask for them."""

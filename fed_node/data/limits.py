"""Types, limits and small helpers that every image reader shares."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmentor.errors import UnreadableImage
from fedmentor.teacher.contract import MAX_PIXELS

GreyImage = npt.NDArray[np.uint8]
"""uint8 [H, W], air black and bone white."""

Mask = npt.NDArray[np.bool_]
"""bool [H, W]."""

MAX_FILE_BYTES = 256 << 20
"""Largest file that is opened: a 50-megapixel 16-bit radiograph is 100 MB uncompressed."""

MIN_SIDE = 16
"""Anything smaller is an icon or a broken export, not a radiograph."""


PREAMBLE_BYTES, MAGIC = 128, b"DICM"
"""Where and how a DICOM file says what it is (PS3.10, section 7.1)."""


def check_bytes(path: Path) -> None:
    """Refuse a missing or too large file, and what is no file: a pipe would be waited for, a device has no end.

    Raises:
        UnreadableImage: names the file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UnreadableImage(f"{path} is missing or cannot be opened") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImage(f"{path} is not a file")
    size = status.st_size
    if size > MAX_FILE_BYTES:
        raise UnreadableImage(f"{path} is {size} bytes, over the limit of {MAX_FILE_BYTES}")


def check_pixels(path: Path, height: int, width: int) -> None:
    """Refuse a declared size outside the limits, before memory is asked for.

    Raises:
        UnreadableImage: names the file.
    """
    if min(height, width) < MIN_SIDE:
        raise UnreadableImage(f"{path} is {width}x{height} pixels, under the minimum side of {MIN_SIDE}")
    if height * width > MAX_PIXELS:
        raise UnreadableImage(f"{path} is {width}x{height} pixels, over the limit of {MAX_PIXELS}")


def is_dicom(path: Path) -> bool:
    """Whether the file says that it is DICOM, whatever its name (PS3.10, section 7.1); False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE_BYTES + len(MAGIC))[PREAMBLE_BYTES:] == MAGIC
    except OSError:
        return False


def unreadable(path: Path, error: BaseException, kind: str) -> UnreadableImage:
    """The error for a file that its library refused.

    The library's own sentence may hold pixel or patient data, so only the class of its error is passed on.
    """
    return UnreadableImage(
        f"{path} is not {kind} image, or is truncated or damaged ({type(error).__name__})",
        cure="export it again from its source, or remove it",
    )


def stretched(values: npt.NDArray[Any]) -> GreyImage:
    """Smallest value to 0, largest to 255; not-a-number to 0 before that; a constant image becomes black."""
    exact = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(exact.min()), float(exact.max())
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((exact - low) * (255 / (high - low))).astype(np.uint8)

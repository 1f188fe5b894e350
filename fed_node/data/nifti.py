"""Two-dimensional NIfTI images through nibabel."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.openers import ImageOpener

from fed_node.data.limits import GreyImage, check_pixels, stretched, unreadable
from fedmentor.errors import UnreadableImage

MAX_OFFSET = 1 << 20
"""Largest header and extension block before the pixels; a larger one makes the reader inflate gigabytes just to skip them."""

_HEADER_BYTES = 540
_OFFSETS = ((348, "f", 108), (540, "q", 168))
"""Size of the header, which is also its first word, then form and place of ``vox_offset``: NIfTI-1 and NIfTI-2."""


def read_nifti(path: Path) -> GreyImage:
    """Read one 2-D image, stretched from its smallest to its largest value; see read_plane.

    Returns:
        uint8 [H, W].

    Raises:
        UnreadableImage: see read_plane.
    """
    return stretched(read_plane(path))


def read_plane(path: Path) -> npt.NDArray[np.float64]:
    """Read the values of one 2-D image; axes of extent 1 are dropped.

    The first axis runs along a row and the second down the rows, as SimpleITK writes a PNG; no flips are applied.

    Returns:
        float64 [H, W].

    Raises:
        UnreadableImage: not NIfTI, a volume, truncated, or over a limit.
    """
    try:
        _check_offset(path)
        image = nibabel.load(path)
        plane = _plane(path, tuple(int(extent) for extent in image.shape))
        return np.asarray(np.asarray(image.dataobj, np.float64).reshape(plane).T, np.float64)
    except UnreadableImage:
        raise
    except Exception as error:  # nibabel raises its own classes, OSError, zlib.error, ValueError and more
        raise unreadable(path, error, "a NIfTI") from error


def _plane(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    plane = tuple(extent for extent in shape if extent != 1)
    if len(plane) != 2:
        raise UnreadableImage(f"{path} has shape {shape}, a radiograph is 2-D", cure="export one slice as its own file")
    check_pixels(path, plane[1], plane[0])
    return plane[0], plane[1]


def _check_offset(path: Path) -> None:
    """Look at the fixed part of the header alone: nibabel reads every extension, however large, as soon as it opens a file."""
    with ImageOpener(path) as file:
        header = file.read(_HEADER_BYTES)
    for size, offset_form, place in _OFFSETS:
        for order in "<>":
            if header[:4] == struct.pack(f"{order}i", size):
                (offset,) = struct.unpack_from(order + offset_form, header, place)
                if not offset <= MAX_OFFSET:
                    raise UnreadableImage(f"{path} keeps its pixels behind {offset:.0f} bytes of header")
                return
    raise UnreadableImage(f"{path} has no NIfTI header")

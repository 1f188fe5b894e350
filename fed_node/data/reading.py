"""One function reads every image format, one reads masks; limits are checked before anything is decoded.

Images: PNG and JPEG (8 and 16 bits, grey or colour) through Pillow, single-frame DICOM (fed_node.data.dicom), with any ending or
none, and 2-D NIfTI (fed_node.data.nifti). Whatever a file holds, the result is uint8 [H, W] with air black and bone white.
Masks: PNG, 2-D NIfTI, and DICOM segmentations (fed_node.data.segmentation).
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fed_node.data.limits import GreyImage, Mask, check_bytes, check_pixels, is_dicom, stretched, unreadable
from fedmentor.errors import MaskMismatch, UnreadableImage
from fedmentor.teacher.images import PNG_START, loses_bits

__all__ = ["MASK_ENDINGS", "READERS", "GreyImage", "Mask", "read_image", "read_mask"]

MASK_ENDINGS = (".png", ".nii.gz", ".nii", ".dcm")
"""File endings of masks in a dataset folder."""

_DECODER_ERRORS = (
    OSError,
    SyntaxError,  # Pillow's error for broken PNG chunks
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for files that are not what they claim."""


def read_image(path: Path) -> GreyImage:
    """Read one image of any supported format.

    Eight-bit pixels are kept as they are; deeper ones are stretched from their smallest to their largest value, or through the
    DICOM window where the file has one. Colour becomes luma (ITU-R BT.601). EXIF orientation is ignored: pixels as stored.

    Returns:
        uint8 [H, W].

    Raises:
        UnreadableImage: missing, not of a supported format, truncated, multi-frame, or over a limit; names the file.
    """
    reader = _reader(path)
    check_bytes(path)
    return reader(path)


def read_mask(path: Path, size: tuple[int, int], image: Path | None = None) -> Mask:
    """Read a mask: zero is background, one other value is foreground; of a DICOM segmentation the lung, or its only segment.

    Args:
        path: the mask: NIfTI where its ending says so, DICOM where its content or ending says so, PNG otherwise.
        size: (H, W) that the image has.
        image: the image that the mask is of; a DICOM segmentation has to refer to it.

    Returns:
        bool [H, W].

    Raises:
        MaskMismatch: of another size or another image, more than one value besides zero, or no way to tell which segment to take.
        UnreadableImage: not a mask, truncated, or over a limit.
    """
    check_bytes(path)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return _nifti_mask(path, size)
    if path.name.lower().endswith(".dcm") or is_dicom(path):
        return _segmentation_mask(path, size, image)
    with _opened(path, ("PNG",)) as picture:
        if (picture.height, picture.width) != size:
            raise MaskMismatch(
                f"{path} is {picture.width}x{picture.height} pixels, its image {size[1]}x{size[0]}",
                cure="draw the mask on the image at its own size",
            )
        values = _decoded(path, picture, "L" if len(picture.getbands()) > 1 else None)
    return _binary(path, values)


def _nifti_mask(path: Path, size: tuple[int, int]) -> Mask:
    from fed_node.data.nifti import read_plane  # noqa: PLC0415 - nibabel is slow to load and most datasets need none of it

    values = read_plane(path)
    if values.shape != size:
        raise MaskMismatch(
            f"{path} is {values.shape[1]}x{values.shape[0]} pixels, its image {size[1]}x{size[0]}",
            cure="draw the mask on the image at its own size",
        )
    return _binary(path, values)


def _segmentation_mask(path: Path, size: tuple[int, int], image: Path | None) -> Mask:
    from fed_node.data.segmentation import instance_uid, read_segmentation  # noqa: PLC0415 - the same for pydicom

    if image is None:
        raise MaskMismatch(f"{path} is a DICOM segmentation, which only fits a DICOM image")
    return read_segmentation(path, instance_uid(image), size)


def _binary(path: Path, values: npt.NDArray[Any]) -> Mask:
    mask = np.asarray(values != 0, np.bool_)
    foreground = values[mask]
    if foreground.size and foreground.min() != foreground.max():
        raise MaskMismatch(
            f"{path} is not binary: its foreground has values from {foreground.min()} to {foreground.max()}",
            cure="save the mask as PNG with 0 for background and 255 for the organ",
        )
    return mask


def _reader(path: Path) -> Callable[[Path], GreyImage]:
    for suffix, reader in READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    if is_dicom(path):
        return _read_dicom
    raise UnreadableImage(f"{path} has no supported ending", cure=f"supported: {', '.join(READERS)}")


def _read_picture(path: Path) -> GreyImage:
    with _opened(path, ("PNG", "JPEG")) as picture:
        deep = picture.mode.startswith("I")
        values = _decoded(path, picture, None if deep else "L")
    return stretched(values) if deep else values.astype(np.uint8, copy=False)


def _opened(path: Path, formats: tuple[str, ...]) -> Image.Image:
    """Open without decoding; Pillow reads the header only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path, formats=formats)
    except _DECODER_ERRORS as error:
        kind = " or ".join(formats)
        raise unreadable(path, error, f"a {kind}") from error
    try:
        check_pixels(path, picture.height, picture.width)
        _check_still(path, picture)
        _check_levels(path, picture)
    except UnreadableImage:
        picture.close()
        raise
    return picture


def _check_still(path: Path, picture: Image.Image) -> None:
    frames = int(getattr(picture, "n_frames", 1))
    if frames > 1:
        raise UnreadableImage(f"{path} is an animation of {frames} frames", cure="give one file an image")


def _check_levels(path: Path, picture: Image.Image) -> None:
    with path.open("rb") as file:
        if loses_bits(picture, file.read(PNG_START)):
            raise UnreadableImage(f"{path} has 16 bits in colour or with transparency", cure="save it as grey, 8 or 16 bits")


def _decoded(path: Path, picture: Image.Image, mode: str | None) -> npt.NDArray[Any]:
    try:
        return np.asarray(picture.convert(mode) if mode else picture)
    except _DECODER_ERRORS as error:
        raise unreadable(path, error, f"a {picture.format}") from error


def _read_dicom(path: Path) -> GreyImage:
    from fed_node.data.dicom import read_dicom  # noqa: PLC0415 - pydicom is slow to load and most datasets need none of it

    return read_dicom(path)


def _read_nifti(path: Path) -> GreyImage:
    from fed_node.data.nifti import read_nifti  # noqa: PLC0415 - nibabel is slow to load and most datasets need none of it

    return read_nifti(path)


READERS: dict[str, Callable[[Path], GreyImage]] = {
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
    ".dcm": _read_dicom,
    ".nii.gz": _read_nifti,
    ".nii": _read_nifti,
}
"""File endings, and who reads them."""

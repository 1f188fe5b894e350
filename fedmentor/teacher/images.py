"""Pictures at the rim of the teacher: what is accepted, how a picture file is read, and how pixels become PNG bytes.

PNG, JPEG, DICOM and NumPy files are told apart by their first bytes, never by a name. Limits are checked on the file's header,
before a pixel is decoded. Whatever a file holds, the result is uint8.
"""

from __future__ import annotations

import io
import warnings
from importlib.util import find_spec

import numpy as np
from PIL import Image, UnidentifiedImageError

from fedmentor.errors import LimitExceeded, UnreadableImage
from fedmentor.teacher import numpy_file
from fedmentor.teacher.contract import MAX_PIXELS, Pixels
from fedmentor.teacher.grey_levels import AS_IT_IS, MIN_SIDE, View, check_size, eight_bits

__all__ = ["MAX_IMAGE_BYTES", "MIN_SIDE", "View", "check_pixels", "png_bytes", "read_image"]

MAX_IMAGE_BYTES = 32 << 20
"""Largest picture file. A 50 megapixel 8-bit radiograph as PNG is below it; TorchServe's request limit is set above it."""

_FORMATS = ("PNG", "JPEG")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr")
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I")
_PNG_DEPTH = 24
"""Where a PNG says how many bits a sample has (ISO/IEC 15948, 11.2.2)."""

PNG_START = _PNG_DEPTH + 1
_DEEP = 16
_DICOM_MAGIC = slice(128, 132)  # PS3.10, section 7.1


def check_pixels(pixels: Pixels) -> None:
    """Refuse what no teacher can look at.

    Raises:
        UnreadableImage: not uint8 [H, W] or [H, W, 3], a side below MIN_SIDE, or over MAX_PIXELS.
    """
    if pixels.dtype != np.uint8:
        raise UnreadableImage(f"pixels are {pixels.dtype}, expected uint8", cure="window the image to 8 bits first")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UnreadableImage(f"pixels have shape {pixels.shape}, expected [H, W] grey or [H, W, 3] RGB")
    check_size(pixels.shape[1], pixels.shape[0])


def read_image(data: bytes | bytearray | memoryview, view: View = AS_IT_IS) -> Pixels:
    """Decode a PNG, JPEG, DICOM or NumPy file.

    Transparency is dropped; palettes become RGB; EXIF orientation is ignored: pixels as stored. Eight bits are kept as they are;
    more go through ``view.window``, the DICOM file's own window, or from their lowest to their highest value.

    Args:
        data: the file.
        view: which frame and which window, where there is a choice.

    Returns:
        uint8 [H, W] or [H, W, 3] RGB.

    Raises:
        LimitExceeded: over MAX_IMAGE_BYTES.
        UnreadableImage: of another format, truncated, not finite, a side below MIN_SIDE, over MAX_PIXELS, a frame is missing, or a
            PNG with 16 bits in colour.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise LimitExceeded(f"an image of {len(data)} bytes is over the limit of {MAX_IMAGE_BYTES}")
    if data[_DICOM_MAGIC] == b"DICM":
        return _dicom(bytes(data), view)
    if data[: len(numpy_file.MAGIC)] == numpy_file.MAGIC:
        return numpy_file.read_numpy(bytes(data), view)
    return _picture(data, view)


def png_bytes(pixels: Pixels) -> bytes:
    """Encode uint8 pixels without loss, fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _dicom(data: bytes, view: View) -> Pixels:
    if find_spec("pydicom") is None:
        raise UnreadableImage("DICOM files cannot be read here", cure="pip install pydicom, or send PNG")
    from fedmentor.teacher.dicom_file import read_dicom  # noqa: PLC0415  # pydicom is an extra

    return read_dicom(data, view)


def _picture(data: bytes | bytearray | memoryview, view: View) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                check_size(*picture.size)
                _check_plain(data, picture)
                return _eight_bit(picture, view.window)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"the image has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("the file is not a PNG or JPEG image, nor DICOM or NumPy", cure="convert it to PNG") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImage("the image file is truncated or corrupt", cure="export it again") from error


def _check_plain(data: bytes | bytearray | memoryview, picture: Image.Image) -> None:
    """Refuse a PNG of which Pillow would keep the upper eight of sixteen bits, or one frame of several."""
    if loses_bits(picture, data):
        raise UnreadableImage(
            "a PNG with 16 bits has to be grey, without colours or transparency", cure="convert it, or send it as NumPy"
        )
    if picture.format == "PNG" and getattr(picture, "n_frames", 1) > 1:
        raise UnreadableImage("the PNG is an animation", cure="send one of its frames")


def loses_bits(picture: Image.Image, start: bytes | bytearray | memoryview) -> bool:
    """Whether Pillow would keep only the upper eight of sixteen bits, as it does for PNGs in colour or with transparency.

    Args:
        picture: opened, not yet decoded.
        start: of its file, PNG_START bytes or more.
    """
    return picture.format == "PNG" and picture.mode not in _DEEP_MODES and start[_PNG_DEPTH] == _DEEP


def _eight_bit(picture: Image.Image, window: tuple[float, float] | None) -> Pixels:
    if picture.mode in _GREY_MODES:
        return eight_bits(np.asarray(picture.convert("L"), np.uint8), window)
    if picture.mode in _COLOUR_MODES:
        return eight_bits(np.asarray(picture.convert("RGB"), np.uint8), window)
    if picture.mode in _DEEP_MODES:
        return eight_bits(np.asarray(picture), window)
    raise UnreadableImage(f"the image has mode {picture.mode!r}, which no teacher can look at", cure="convert it to grey or RGB")

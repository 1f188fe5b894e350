"""Pictures at the rim of the teacher: what is accepted, how a picture file is read, and how pixels become PNG bytes.

Limits are checked on the file's header, before a pixel is decoded.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from fedmentor.errors import LimitExceeded, UnreadableImage
from fedmentor.teacher.contract import MAX_PIXELS, Pixels

MAX_IMAGE_BYTES = 32 << 20
"""Largest picture file. A 50 megapixel 8-bit radiograph as PNG is below it; TorchServe's request limit is set above it."""

MIN_SIDE = 8
"""Shortest side, pixels: half a patch of the vision transformers behind the teachers. Anything smaller is no picture."""

_FORMATS = ("PNG", "JPEG")
_GREY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("P", "RGB", "RGBA", "CMYK", "YCbCr")


def check_pixels(pixels: Pixels) -> None:
    """Refuse what no teacher can look at.

    Raises:
        UnreadableImage: not uint8 [H, W] or [H, W, 3], a side below MIN_SIDE, or over MAX_PIXELS.
    """
    if pixels.dtype != np.uint8:
        raise UnreadableImage(f"pixels are {pixels.dtype}, expected uint8", cure="window the image to 8 bits first")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3):
        raise UnreadableImage(f"pixels have shape {pixels.shape}, expected [H, W] grey or [H, W, 3] RGB")
    _check_size(pixels.shape[1], pixels.shape[0])


def read_image(data: bytes | bytearray | memoryview) -> Pixels:
    """Decode a PNG or JPEG file.

    Transparency is dropped; palettes become RGB. 16-bit files are refused: only who knows the modality can choose the window.

    Returns:
        uint8 [H, W] or [H, W, 3].

    Raises:
        LimitExceeded: over MAX_IMAGE_BYTES.
        UnreadableImage: not a PNG or JPEG, truncated, more than 8 bits a sample, a side below MIN_SIDE, or over MAX_PIXELS.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise LimitExceeded(f"an image of {len(data)} bytes is over the limit of {MAX_IMAGE_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_size(*picture.size)
                return _eight_bit(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"the image has more than {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage("the file is not a PNG or JPEG image", cure="convert it to 8-bit PNG") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableImage("the image file is truncated or corrupt", cure="export it again") from error


def png_bytes(pixels: Pixels) -> bytes:
    """Encode uint8 pixels without loss, fast rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"an image of {width}x{height} pixels is over the limit of {MAX_PIXELS} pixels")
    if min(width, height) < MIN_SIDE:
        raise UnreadableImage(f"an image of {width}x{height} pixels is too small; the shortest side must be {MIN_SIDE} or more")


def _eight_bit(picture: Image.Image) -> Pixels:
    if picture.mode in _GREY_MODES:
        return np.asarray(picture.convert("L"), np.uint8)
    if picture.mode in _COLOUR_MODES:
        return np.asarray(picture.convert("RGB"), np.uint8)
    raise UnreadableImage(f"the image has mode {picture.mode!r}, more than 8 bits a sample", cure="window it to 8 bits first")

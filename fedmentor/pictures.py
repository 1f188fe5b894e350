"""Pictures for people: a grey image with a tinted probability and crisp outlines. Deterministic; NumPy and Pillow only.

Colours are sky blue and orange of the Okabe-Ito palette (https://jfly.uni-koeln.de/color/), told apart with every common
colour-vision deficiency and bright on radiographs.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from fedmentor.errors import DataError, MaskMismatch, UnreadableImage
from fedmentor.models import write_atomically

GreyImage = npt.NDArray[np.uint8]
Canvas = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8] | npt.NDArray[np.floating]

PREDICTION_COLOUR = (86, 180, 233)
TRUTH_COLOUR = (230, 159, 0)
TINT = 0.28
"""Opacity of the tint where the probability is 1: anatomy stays readable underneath."""
THRESHOLD = 0.5
SHOWN_SIDE = 512
"""Smaller images are enlarged by a whole factor towards this many pixels, so that outlines are finer than the image's pixels."""
LINE_PIXELS = 2
MAX_SIDE = 4096
_SUPERSAMPLING = 2
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def grey(image: GreyImage) -> Image.Image:
    """The bare image at the size at which overlay() shows it.

    Args:
        image: uint8 [H, W].

    Returns:
        RGB picture of [H * k, W * k] with the whole factor k of SHOWN_SIDE.

    Raises:
        UnreadableImage: not uint8 [H, W], empty, or over MAX_SIDE.
    """
    _check_image(image)
    factor = _factor(image.shape)
    height, width = image.shape
    picture = Image.fromarray(np.ascontiguousarray(image))
    return picture.resize((width * factor, height * factor), Image.Resampling.LANCZOS).convert("RGB")


def overlay(image: GreyImage, mask_or_probability: Mask | None, truth: Mask | None = None) -> Image.Image:
    """Tint the image by a probability, outline where it crosses 0.5, and outline the truth in another colour.

    Args:
        image: uint8 [H, W].
        mask_or_probability: [H, W]; bool, uint8 (non-zero is foreground) or floating probabilities in [0, 1].
            None shows the truth alone.
        truth: the human mask, same forms; an orange outline, tinted only where it stands alone.

    Returns:
        RGB picture of the size of grey(image).

    Raises:
        UnreadableImage: see grey.
        MaskMismatch: a mask of another shape, or probabilities that are not finite in [0, 1].
    """
    canvas = np.asarray(grey(image), np.float32)
    if mask_or_probability is not None:
        canvas = _draw(canvas, _probability(mask_or_probability, image.shape), PREDICTION_COLOUR, TINT)
    if truth is not None:
        tint = TINT if mask_or_probability is None else 0.0
        canvas = _draw(canvas, _probability(truth, image.shape), TRUTH_COLOUR, tint)
    return Image.fromarray(np.rint(canvas).astype(np.uint8))


def shrunk(plane: npt.NDArray[Any], side: int = 2048) -> npt.NDArray[Any]:
    """Every k-th pixel of a plane [H, W], with the smallest whole k that brings it to ``side``: for pictures, not for numbers."""
    step = -(-max(plane.shape) // side)
    return plane[::step, ::step]


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, or a JPEG where the name says so; the same picture gives the same bytes, and no metadata.

    Raises:
        DataError: a name that ends in neither.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path.name} is not the name of a picture", cure="end it in .png or .jpg")
    buffer = io.BytesIO()
    if kind == "PNG":
        picture.save(buffer, kind, optimize=True)
    else:
        # No chroma subsampling: it would smear the one coloured thing in the picture, the outline.
        picture.save(buffer, kind, quality=88, subsampling=0)
    write_atomically(path, buffer.getvalue())


def _check_image(image: GreyImage) -> None:
    if image.ndim != 2 or image.dtype != np.uint8 or 0 in image.shape:
        raise UnreadableImage(f"a picture needs a uint8 image of [height, width], not {image.dtype} {image.shape}")
    if max(image.shape) > MAX_SIDE:
        raise UnreadableImage(f"an image of {image.shape} is over the limit of {MAX_SIDE} pixels a side", cure="resize it first")


def _factor(shape: tuple[int, ...]) -> int:
    return max(1, SHOWN_SIDE // max(shape))


def _probability(mask: Mask, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if mask.shape != shape:
        raise MaskMismatch(f"a mask of {mask.shape} does not fit an image of {shape}")
    if not np.issubdtype(mask.dtype, np.floating):
        return np.asarray(mask != 0, np.float32)
    if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
        raise MaskMismatch("probabilities must be finite and between 0 and 1", cure="apply the sigmoid to logits first")
    return mask.astype(np.float32)


def _draw(canvas: Canvas, probability: npt.NDArray[np.float32], colour: tuple[int, int, int], tint: float) -> Canvas:
    """Tint and outline one mask; ``canvas`` is float32 [H, W, 3] in 0 to 255."""
    size = (canvas.shape[1], canvas.shape[0])
    tinted = _blend(canvas, colour, tint * _enlarge(probability, size))
    return _blend(tinted, colour, _outline(probability, size))


def _enlarge(plane: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR), np.float32)


def _outline(probability: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Coverage in [0, 1] of a line LINE_PIXELS wide along the threshold: drawn enlarged, then averaged down, hence smooth."""
    width, height = size
    inside = _enlarge(probability, (width * _SUPERSAMPLING, height * _SUPERSAMPLING)) > THRESHOLD
    region = Image.fromarray(inside.astype(np.uint8) * 255)
    window = LINE_PIXELS * _SUPERSAMPLING // 2 * 2 + 1
    eroded, dilated = (np.asarray(region.filter(kind(window))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter))
    band = (dilated != eroded).astype(np.float32)
    return np.asarray(band.reshape(height, _SUPERSAMPLING, width, _SUPERSAMPLING).mean(axis=(1, 3)), np.float32)


def _blend(canvas: Canvas, colour: tuple[int, int, int], opacity: npt.NDArray[np.float32]) -> Canvas:
    """``canvas`` towards a colour by an opacity [H, W] in [0, 1]."""
    weight = opacity[..., None]
    return canvas * (1 - weight) + np.asarray(colour, np.float32) * weight

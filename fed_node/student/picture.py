"""Predictions on a radiograph of any size, and the pictures that show them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn

from fed_node.data.reading import GreyImage, Mask
from fed_node.data.student_input import to_source, to_student
from fed_node.student.evaluation import predict_logits

TINT = (0, 200, 120)
"""Bluish green: told from grey and from red by colour-blind readers (Okabe & Ito)."""

TINT_SHARE = 0.35


@dataclass(frozen=True)
class Prediction:
    """A student's answer at the image's own size.

    Attributes:
        mask: bool [H, W].
        foreground: share of the image that is foreground.
        confidence: mean of max(p, 1 - p) over the image, of the student's own probabilities; not calibrated.
    """

    mask: Mask
    foreground: float
    confidence: float


def predict(model: nn.Module, pixels: Sequence[GreyImage]) -> list[Prediction]:
    """Segment radiographs of any size.

    Args:
        model: a student.
        pixels: uint8 [H, W] each.

    Raises:
        ModelError: the model's output is not finite.
    """
    squares = [to_student(image) for image in pixels]
    if not squares:
        return []
    logits = predict_logits(model, torch.from_numpy(np.stack([plane for plane, _ in squares]))).numpy()
    return [_prediction(to_source(one[0], geometry)) for one, (_, geometry) in zip(logits, squares, strict=True)]


def mask_png(mask: Mask) -> bytes:
    """A mask as a PNG of 0 and 255, the form that fed_node.data.reading.read_mask reads."""
    return _png(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)))


def overlay_png(pixels: GreyImage, mask: Mask) -> bytes:
    """The radiograph in grey with the mask as a tint and its outline in full colour."""
    colour = np.array(TINT, np.float32)
    picture = np.repeat(pixels[..., None].astype(np.float32), 3, axis=2)
    picture[mask] = (1 - TINT_SHARE) * picture[mask] + TINT_SHARE * colour
    picture[outline(mask)] = colour
    return _png(Image.fromarray(picture.round().astype(np.uint8)))


def outline(mask: Mask) -> Mask:
    """The foreground pixels that touch background, or the image's edge, on one of four sides."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inside, np.bool_)


def _prediction(logits: npt.NDArray[np.float32]) -> Prediction:
    mask = np.asarray(logits > 0, np.bool_)
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(logits), 60)))
    return Prediction(mask, float(mask.mean()), float(confidence.mean()))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()

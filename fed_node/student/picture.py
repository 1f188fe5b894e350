"""Predictions on a radiograph of any size."""

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
    buffer = io.BytesIO()
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _prediction(logits: npt.NDArray[np.float32]) -> Prediction:
    mask = np.asarray(logits > 0, np.bool_)
    confidence = 1 / (1 + np.exp(-np.minimum(np.abs(logits), 60)))
    return Prediction(mask, float(mask.mean()), float(confidence.mean()))

"""A picture of an answer: the image with its prompt on the left, the soft masks over it on the right. Pure."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fedmentor.teacher.contract import Pixels, SoftLabels, logits_at, probability
from teacher_service.payload import object_numbers, one_object

Rgb = tuple[int, int, int]
Floats = npt.NDArray[np.float32]

PANEL = 640
"""Longest side of one panel, pixels."""

PALETTE: tuple[Rgb, ...] = ((45, 212, 191), (251, 146, 60), (167, 139, 250), (74, 222, 128), (244, 114, 182), (250, 204, 21))
"""One colour an object, used in turn; told apart on grey in the common forms of colour blindness by lightness as well."""

_BACKGROUND: Rgb = (17, 20, 24)
_INK: Rgb = (226, 232, 240)
_FAINT: Rgb = (148, 163, 184)
_BACKGROUND_POINT: Rgb = (248, 113, 113)
_GAP = 12
_CAPTION = 64
_TINT = 0.42
_CONTOUR_PX = 1.4
_DASH_PX = 9


def overlay(pixels: Pixels, soft: SoftLabels) -> Pixels:
    """Draw an answer.

    Args:
        pixels: the image as it was sent.
        soft: the answer.

    Returns:
        uint8 [h, w, 3].
    """
    scale = PANEL / max(soft.image_size)
    height, width = (max(2, round(extent * scale)) for extent in soft.image_size)  # a slope needs two pixels
    plain = np.asarray(Image.fromarray(pixels).convert("RGB").resize((width, height), Image.Resampling.BICUBIC), np.float32)
    masked = plain
    for index in range(len(soft.logits)):
        masked = _masked(masked, logits_at(one_object(soft, index), (height, width)), PALETTE[index % len(PALETTE)])
    canvas = Image.new("RGB", (2 * width + 3 * _GAP, height + _GAP + _CAPTION), _BACKGROUND)
    canvas.paste(_with_prompt(plain, soft, scale), (_GAP, _GAP))
    canvas.paste(_with_prompt(masked, soft, scale), (width + 2 * _GAP, _GAP))
    _write_captions(ImageDraw.Draw(canvas), soft, height + _GAP, (_GAP, width + 2 * _GAP))
    return np.asarray(canvas, np.uint8)


def _masked(picture: Floats, logits: Floats, colour: Rgb) -> Floats:
    """Tint by probability, then a smooth line where it is one half."""
    paint = np.array(colour, np.float32)
    share = (_TINT * probability(logits))[..., None]
    tinted = picture * (1 - share) + paint * share
    down, across = np.gradient(logits)
    distance = np.abs(logits) / (np.hypot(down, across) + 1e-6)  # pixels to the line, to first order
    line = np.clip(_CONTOUR_PX + 0.5 - distance, 0, 1)[..., None]
    return np.asarray(tinted * (1 - line) + paint * line, np.float32)


def _with_prompt(picture: Floats, soft: SoftLabels, scale: float) -> Image.Image:
    image = Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for index, box in enumerate(soft.prompt.boxes):
        x0, y0, x1, y1 = (value * scale for value in (box.x0, box.y0, box.x1, box.y1))
        corners = ((x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1), (x0, y0))
        for start, stop in pairwise(corners):
            _dashed(pen, start, stop, PALETTE[index % len(PALETTE)])
    for point in soft.prompt.points:
        x, y, colour = point.x * scale, point.y * scale, PALETTE[0] if point.label else _BACKGROUND_POINT
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour, outline=_BACKGROUND, width=2)
    return image


def _dashed(pen: ImageDraw.ImageDraw, start: tuple[float, float], stop: tuple[float, float], colour: Rgb) -> None:
    length = max(abs(stop[0] - start[0]), abs(stop[1] - start[1]))
    count = max(1, round(length / _DASH_PX))
    ends = np.linspace(start, stop, count + 1)
    for index in range(0, count, 2):
        pen.line((*ends[index], *ends[index + 1]), fill=colour, width=2)


def _write_captions(pen: ImageDraw.ImageDraw, soft: SoftLabels, top: int, lefts: tuple[int, int]) -> None:
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    height, width = soft.image_size
    pen.text((lefts[0], top + 8), f"{width} x {height} pixels", fill=_INK, font=font)
    pen.text((lefts[0], top + 33), f"image {soft.image_digest[:16]}", fill=_FAINT, font=small)
    left = float(lefts[1])
    for index in range(min(len(soft.logits), 2)):
        numbers = object_numbers(soft, index)
        text = f"{100 * numbers['area_share']:.1f} % of the image, predicted IoU {numbers['predicted_iou']:.2f}"
        pen.rectangle((left, top + 13, left + 10, top + 23), fill=PALETTE[index % len(PALETTE)])
        pen.text((left + 16, top + 8), text, fill=_INK, font=font)
        left += 16 + pen.textlength(text, font=font) + 22
    pen.text((lefts[1], top + 33), f"{soft.teacher.architecture} {soft.teacher.digest[:16]}", fill=_FAINT, font=small)

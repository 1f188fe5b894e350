"""A teacher that needs no weights: it draws an ellipse in every box. Instant, exact, the same everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedmentor.errors import PromptRefused, UnknownImage
from fedmentor.ids import Digest
from fedmentor.teacher.contract import (
    Answer,
    Box,
    Extras,
    Pixels,
    Prompt,
    SoftLabels,
    TeacherCard,
    check_prompt,
    image_digest,
)
from fedmentor.teacher.images import check_pixels

MASK_SIZE = 64
STEEPNESS = 8.0
"""Logit at the centre of the ellipse; its outline is at logit 0."""


class AnalyticTeacher:
    """Implements fedmentor.teacher.contract.Foundation: the ellipse inscribed in each box, stretched to a square like SAM-Med2D.

    The logit is ``STEEPNESS * (1 - r^2)`` with r = 1 on the ellipse, cut at -STEEPNESS. Boxes only.

    Attributes:
        asked: how many images were segmented; tests of caches look at it.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._seen: dict[Digest, Pixels] = {}

    def card(self) -> TeacherCard:
        """See Teacher."""
        return TeacherCard(
            architecture="analytic-ellipse",
            digest=Digest(hashlib.sha256(b"analytic-ellipse-v1").hexdigest()),
            preprocessing="stretch64-v1",
            input_size=MASK_SIZE,
            mask_size=MASK_SIZE,
            prompts=("box",),
            licence="Apache-2.0",
        )

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """See Teacher."""
        check_pixels(pixels)
        size = (pixels.shape[0], pixels.shape[1])
        check_prompt(prompt, size)
        boxes = [each.box for each in prompt.each() if each.box is not None and each.kinds() == ("box",)]
        if len(boxes) != len(prompt.each()):
            raise PromptRefused("analytic-ellipse takes boxes only")
        self.asked += 1
        image = image_digest(pixels)
        self._seen[image] = pixels
        return SoftLabels(
            logits=_ellipses(prompt, size).astype(np.float16),
            predicted_iou=np.ones(len(boxes), np.float32),
            content=(MASK_SIZE, MASK_SIZE),
            image_size=size,
            image_digest=image,
            prompt=prompt,
            teacher=self.card(),
        )

    def expect(self, images: Sequence[Pixels]) -> None:
        """See Foundation: does nothing."""

    def size_of(self, image: Digest) -> tuple[int, int]:
        """See Foundation."""
        pixels = self._known(image)
        return pixels.shape[0], pixels.shape[1]

    def ask(self, image: Pixels | Digest, prompt: Prompt, extras: Extras) -> Answer:
        """See Foundation. The embedding is one number, the picture's mean."""
        if extras.candidates:
            raise PromptRefused("analytic-ellipse gives one mask for each object")
        pixels = self._known(image) if isinstance(image, str) else image
        soft = self.soften(pixels, prompt)
        return Answer(
            soft,
            embedding=np.full((1, 1, 1), pixels.mean(), np.float32) if extras.embedding else None,
            exact=_ellipses(prompt, soft.image_size).astype(np.float32) if extras.exact else None,
        )

    def _known(self, image: Digest) -> Pixels:
        if image not in self._seen:
            raise UnknownImage("the teacher does not hold this image", cure="send the image itself")
        return self._seen[image]


def _ellipses(prompt: Prompt, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """[K, MASK_SIZE, MASK_SIZE]."""
    return np.stack([_ellipse(each.box, size) for each in prompt.each() if each.box is not None])


def _ellipse(box: Box, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    height, width = size
    centres = (np.arange(MASK_SIZE, dtype=np.float64) + 0.5) / MASK_SIZE
    across = (2 * centres * width - box.x0 - box.x1) / (box.x1 - box.x0)
    down = (2 * centres * height - box.y0 - box.y1) / (box.y1 - box.y0)
    logits = STEEPNESS * (1.0 - across[None, :] ** 2 - down[:, None] ** 2)
    return np.maximum(logits, -STEEPNESS)

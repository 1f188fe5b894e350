"""Which architectures can teach, and what is known about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from fedmentor.errors import ConfigError, WrongArchitecture
from fedmentor.ids import Digest
from fedmentor.teacher.contract import Content, TeacherCard
from fedmentor.teacher.resizing import whole
from teacher_service.hints import LOGITS, PROBABILITY
from teacher_service.models import lite_medsam, sam, sam_med2d
from teacher_service.models.loading import check_shapes, shapes_of
from teacher_service.models.network import Network, SamModules
from teacher_service.preprocess import LONGEST256, SAM1024, STRETCH256, Preprocessing, Size


@dataclass(frozen=True)
class Architecture:
    """One kind of teacher.

    Attributes:
        id: e.g. ``sam-med2d``; names it in cards, files and commands.
        input_size: side of the square that the encoder sees, pixels.
        mask_size: side of the logit map, pixels.
        preprocessing: as its authors do it.
        prompts: kinds it was trained for; others are refused.
        licence: SPDX id of the official weights.
        weights_page: where the authors publish them.
        image_seconds: processor seconds that a new image takes with one thread (docs/teacher.md, Measured); how long everybody
            waits for it follows from that (fedmentor.teacher.pace).
        hint_form: how its decoder was fed rough masks: ``logits`` (SAM) or ``probability`` (SAM-Med2D).
        skeleton: the modules without trained values, for names and shapes.
        build: weights and a device name to a network that answers.
    """

    id: str
    input_size: int
    mask_size: int
    preprocessing: Preprocessing
    prompts: tuple[str, ...]
    licence: str
    weights_page: str
    image_seconds: float
    hint_form: str
    skeleton: Callable[[], SamModules]
    build: Callable[[Mapping[str, torch.Tensor], str], Network]

    def card(self, digest: Digest) -> TeacherCard:
        """The card of this architecture with the weights of that digest."""
        return TeacherCard(
            architecture=self.id,
            digest=digest,
            preprocessing=self.preprocessing.id,
            input_size=self.input_size,
            mask_size=self.mask_size,
            prompts=self.prompts,
            licence=self.licence,
        )

    def content(self, size: Size) -> Content:
        """See SoftLabels.content, for a picture of that size (H, W)."""
        ratio = self.mask_size / self.input_size
        height, width = (extent * ratio for extent in self.preprocessing.content(size))
        return whole(height), whole(width)


_KNOWN = (
    Architecture(
        id=lite_medsam.ARCHITECTURE,
        input_size=lite_medsam.INPUT_SIZE,
        mask_size=lite_medsam.MASK_SIZE,
        preprocessing=LONGEST256,
        prompts=("box",),
        licence="Apache-2.0",
        weights_page="https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
        image_seconds=0.94,
        hint_form=LOGITS,
        skeleton=lite_medsam.skeleton,
        build=lite_medsam.build,
    ),
    Architecture(
        id=sam_med2d.ARCHITECTURE,
        input_size=sam_med2d.INPUT_SIZE,
        mask_size=sam_med2d.MASK_SIZE,
        preprocessing=STRETCH256,
        prompts=("box", "point", "mask"),
        licence="Apache-2.0",
        weights_page="https://github.com/OpenGVLab/SAM-Med2D",
        image_seconds=1.55,
        hint_form=PROBABILITY,
        skeleton=sam_med2d.skeleton,
        build=sam_med2d.build,
    ),
)

_SAM = tuple(
    Architecture(
        id=size.id,
        input_size=sam.INPUT_SIZE,
        mask_size=sam.MASK_SIZE,
        preprocessing=SAM1024,
        prompts=("box", "point", "mask"),
        licence="Apache-2.0",
        weights_page="https://github.com/facebookresearch/segment-anything#model-checkpoints",
        image_seconds=seconds,
        hint_form=LOGITS,
        skeleton=partial(sam.skeleton, size),
        build=partial(sam.build, size),
    )
    for size, seconds in ((sam.VIT_B, 20.0), (sam.VIT_L, 50.0), (sam.VIT_H, 100.0))
)

ARCHITECTURES: Mapping[str, Architecture] = {architecture.id: architecture for architecture in (*_KNOWN, *_SAM)}


def architecture(name: str) -> Architecture:
    """Look an architecture up.

    Raises:
        ConfigError: unknown name.
    """
    found = ARCHITECTURES.get(name)
    if found is None:
        raise ConfigError(f"{name[:80]!r} is not a teacher architecture", cure=f"use one of {', '.join(ARCHITECTURES)}")
    return found


def recognise(tensors: Mapping[str, torch.Tensor]) -> Architecture:
    """Find the architecture that the tensors fit exactly.

    Raises:
        WrongArchitecture: none; the message compares with the architecture that shares most names.
    """
    found = shapes_of(tensors)
    expected = {known: shapes_of(known.skeleton().state_dict()) for known in ARCHITECTURES.values()}
    for known, shapes in expected.items():
        if shapes == found:
            return known
    nearest = max(expected, key=lambda known: len(expected[known].keys() & found.keys()))
    check_shapes(found, expected[nearest], nearest.id)
    raise WrongArchitecture("the weights fit no known teacher architecture", cure=f"known are {', '.join(ARCHITECTURES)}")

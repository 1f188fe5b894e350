"""Images, masks and soft labels in memory, ready for the student: the value that training and evaluation take.

A few hundred 256 x 256 images are small (about half a megabyte each with everything), so they are read once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fed_node.data.student_input import mask_to_student, to_student
from fed_node.student.losses import Targets
from fedmentor.errors import DataError, EmptyDataset, LimitExceeded

if TYPE_CHECKING:
    from fed_node.data.dataset import Sample

OnBad = Callable[[DataError], object]

MAX_IMAGES = 20_000
"""About 9 GB in memory; more belongs in several runs or on a larger design."""


@dataclass(frozen=True)
class Prepared:
    """One image as the student sees it.

    Attributes:
        id: of the image.
        patient_id: who it shows.
        image: float32 [1, 256, 256] in [0, 1].
        mask: bool [256, 256], or None.
        soft: teacher logits, float16 [256, 256], or None.
    """

    id: str
    patient_id: str
    image: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None = None
    soft: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True)
class StudentData:
    """N images with what is known about them.

    Attributes:
        ids, patient_ids: N each.
        images: float32 [N, 1, 256, 256] in [0, 1].
        masks: bool [N, 1, 256, 256]; all False where has_mask is False.
        has_mask: bool [N].
        soft: teacher logits float16 [N, 1, 256, 256], or None.
    """

    ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    images: Tensor
    masks: Tensor
    has_mask: Tensor
    soft: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return len(set(self.patient_ids))

    def batch(self, index: Tensor) -> tuple[Tensor, Targets]:
        """The samples at ``index`` (int64 [B]) as float32 images and targets."""
        soft = None if self.soft is None else self.soft[index].float()
        return self.images[index], Targets(self.masks[index].float(), self.has_mask[index], soft)

    def subset(self, index: Tensor) -> StudentData:
        """The samples at ``index``, int64 [M]; copies."""
        chosen = index.tolist()
        return StudentData(
            ids=tuple(self.ids[i] for i in chosen),
            patient_ids=tuple(self.patient_ids[i] for i in chosen),
            images=self.images[index],
            masks=self.masks[index],
            has_mask=self.has_mask[index],
            soft=None if self.soft is None else self.soft[index],
        )

    def with_masks(self) -> StudentData:
        """The samples that have a mask.

        Raises:
            EmptyDataset: none has.
        """
        if not bool(self.has_mask.any()):
            raise EmptyDataset("no image has a mask", cure="put masks in masks/ID.png")
        return self if bool(self.has_mask.all()) else self.subset(torch.nonzero(self.has_mask).flatten())


def prepare(sample: Sample) -> Prepared:
    """Read one sample's image and mask and bring them to the student's size.

    Raises:
        UnreadableImage: the image or the mask cannot be read.
        MaskMismatch: the mask does not fit the image.
    """
    pixels = sample.pixels()
    image, geometry = to_student(pixels)
    truth = sample.truth(geometry.source)
    mask = None if truth is None else mask_to_student(truth, geometry)
    return Prepared(sample.id, sample.patient_id, image, mask)


def load_samples(samples: Iterable[Sample], on_bad: OnBad | None = None) -> StudentData:
    """Read a dataset, or part of one.

    Args:
        samples: what to read.
        on_bad: is told why a sample cannot be used, which is then left out; None: the first one ends the reading.

    Raises:
        EmptyDataset: no samples.
        DataError: a file cannot be used and ``on_bad`` is None; see prepare.
    """
    prepared = []
    for sample in samples:
        try:
            prepared.append(prepare(sample))
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error)
    return stack(prepared)


def stack(prepared: Sequence[Prepared]) -> StudentData:
    """Put prepared images into one value.

    Raises:
        EmptyDataset: there are none.
        LimitExceeded: more than MAX_IMAGES.
        DataError: some have soft labels and some do not.
    """
    if not prepared:
        raise EmptyDataset("there is no image to learn from")
    if len(prepared) > MAX_IMAGES:
        raise LimitExceeded(f"{len(prepared)} images are over the limit of {MAX_IMAGES}", cure="use a part of the dataset")
    soft = [item.soft for item in prepared if item.soft is not None]
    if soft and len(soft) != len(prepared):
        raise DataError("some images have soft labels and some do not")
    empty = np.zeros(prepared[0].image.shape[1:], np.bool_)
    return StudentData(
        ids=tuple(item.id for item in prepared),
        patient_ids=tuple(item.patient_id for item in prepared),
        images=_planes([item.image[0] for item in prepared]),
        masks=_planes([empty if item.mask is None else item.mask for item in prepared]),
        has_mask=torch.tensor([item.mask is not None for item in prepared]),
        soft=_planes(soft) if soft else None,
    )


def _planes(planes: Sequence[npt.NDArray[Any]]) -> Tensor:
    """[N] planes [H, W] as a tensor [N, 1, H, W] of the same type."""
    return torch.from_numpy(np.stack(planes)[:, None])

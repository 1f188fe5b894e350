"""A dataset goes to the teacher, image by image, and comes back ready for the student.

While one answer is awaited, another image is on its way: reading, sending and the teacher's own work overlap. Results are put back
into the dataset's order, so what comes out does not depend on who answered first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fed_node.data.student_input import Geometry, mask_to_student, to_student
from fed_node.student.samples import Prepared
from fedmentor.errors import ConfigError, DataError, DigestMismatch, EmptyDataset, FedMentorError, LimitExceeded, PromptRefused
from fedmentor.ids import Digest
from fedmentor.teacher.contract import SoftLabels, Teacher, image_digest, logits_at

if TYPE_CHECKING:
    from fed_node.data.dataset import Sample
    from fed_node.student.prompting import PromptSource

BACKGROUND_LOGIT = -10.0
"""What the teacher would say about the black border that brings an image to a square: foreground with probability 5e-5."""

_IMAGE_FAULTS = (DataError, PromptRefused, LimitExceeded)
"""What is wrong with one image. Anything else is wrong with the teacher or the disk, and every image would meet it."""


@dataclass(frozen=True)
class LabellingOptions:
    """How a dataset is labelled.

    Attributes:
        use_masks: whether human masks are read as well.
        failure_limit: share of the images that may fail before everything stops; in [0, 1).
        in_flight: questions to the teacher at a time.

    Raises:
        ConfigError: out of range.
    """

    use_masks: bool = True
    failure_limit: float = 0.1
    in_flight: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.failure_limit < 1:
            raise ConfigError(f"a failure limit of {self.failure_limit} is not a share", cure="give a number from 0 to below 1")
        if not 1 <= self.in_flight <= 64:
            raise ConfigError(f"{self.in_flight} questions at a time are out of range", cure="give 1 to 64")


@dataclass(frozen=True)
class Failure:
    """An image that was left out, and why in one sentence."""

    id: str
    reason: str


@dataclass(frozen=True)
class LabelledImage:
    """An image with its soft label, and the digests that name what it was made of.

    ``mask_digest`` is None where no mask was used.
    """

    prepared: Prepared
    image_digest: Digest
    mask_digest: Digest | None


@dataclass(frozen=True)
class LabelledDataset:
    """What labelling made; both parts in the dataset's order."""

    images: tuple[LabelledImage, ...]
    failures: tuple[Failure, ...]


Told = Callable[[int, int, "Failure | None"], None]
"""(images done, images in all, the failure of the one just done)."""


def label_dataset(
    samples: Sequence[Sample], teacher: Teacher, prompts: PromptSource, options: LabellingOptions, told: Told
) -> LabelledDataset:
    """Ask the teacher about every sample.

    Args:
        samples: what to label.
        teacher: best a CachedTeacher, so that an interrupted run goes on where it was.
        prompts: where to look.
        options: limits.
        told: called on this thread after every image, in the order of completion.

    Raises:
        EmptyDataset: no samples.
        DataError: more images failed than ``options.failure_limit`` allows; names the first of them.
        TeacherUnreachable: the teacher stopped answering; what it said before is in its cache.
        DigestMismatch: the teacher was replaced meanwhile.
    """
    if not samples:
        raise EmptyDataset("there is no image to label")
    card = teacher.card().digest
    allowed = int(options.failure_limit * len(samples))
    outcomes: list[LabelledImage | Failure | None] = [None] * len(samples)
    failed = 0
    with ThreadPoolExecutor(options.in_flight, thread_name_prefix="label") as pool:
        try:
            asked = {
                pool.submit(_label, sample, teacher, card, prompts, options.use_masks): index
                for index, sample in enumerate(samples)
            }
            for done, future in enumerate(as_completed(asked), 1):
                outcome = _outcome(future, samples[asked[future]].id)
                outcomes[asked[future]] = outcome
                failure = outcome if isinstance(outcome, Failure) else None
                failed += failure is not None
                told(done, len(samples), failure)
                if failed > allowed:
                    raise _too_many(outcomes, allowed)
        finally:
            # Only those that were already asked are waited for; their answers reach the cache.
            pool.shutdown(wait=True, cancel_futures=True)
    return LabelledDataset(
        tuple(one for one in outcomes if isinstance(one, LabelledImage)), tuple(one for one in outcomes if isinstance(one, Failure))
    )


def soft_square(soft: SoftLabels, geometry: Geometry) -> npt.NDArray[np.float16]:
    """A teacher's answer on the student's square: float16 logits [256, 256], background outside the image."""
    square = np.full((geometry.side, geometry.side), BACKGROUND_LOGIT, np.float16)
    square[geometry.window] = logits_at(soft, geometry.content)
    return square


def _label(sample: Sample, teacher: Teacher, card: Digest, prompts: PromptSource, use_masks: bool) -> LabelledImage:  # noqa: FBT001 - submitted by position
    pixels = sample.pixels()
    image, geometry = to_student(pixels)
    truth = sample.truth(geometry.source) if use_masks else None
    soft = teacher.soften(pixels, prompts.prompt(sample, geometry.source))
    if soft.teacher.digest != card:
        raise DigestMismatch(
            "the teacher was replaced while it was asked", cure="start again; what is cached is kept apart by teacher"
        )
    return LabelledImage(
        prepared=Prepared(
            id=sample.id,
            patient_id=sample.patient_id,
            image=image,
            mask=None if truth is None else mask_to_student(truth, geometry),
            soft=soft_square(soft, geometry),
        ),
        image_digest=soft.image_digest,
        mask_digest=None if truth is None else image_digest(truth.view(np.uint8)),
    )


def _outcome(future: Future[LabelledImage], image_id: str) -> LabelledImage | Failure:
    try:
        return future.result()
    except _IMAGE_FAULTS as error:
        return Failure(image_id, str(error))


def _too_many(outcomes: Sequence[Any], allowed: int) -> FedMentorError:
    failures = [one for one in outcomes if isinstance(one, Failure)]
    return DataError(
        f"{len(failures)} of {len(outcomes)} images failed, {allowed} may; the first is {failures[0].id}: {failures[0].reason}",
        cure="mend them ('fedmentor data check' names every bad file), or raise --failure-limit",
    )

"""Distillation: what a foundation model says about unlabelled images becomes the student that federated learning starts from.

Source: "Where to Begin? From Random to Foundation Model Instructed Initialization in Federated Learning for Medical Image
Segmentation" (arXiv 2311.15463), with the loss of Hinton, Vinyals & Dean (2015), see fed_node.student.losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from fed_node.student.labelling import Failure, LabelledDataset, LabellingOptions, label_dataset
from fed_node.student.losses import Objective
from fed_node.student.prompting import PromptSource, prompt_source
from fed_node.student.samples import StudentData, stack
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fed_node.student.training import TrainingOptions, TrainingProgress, TrainingReport, train
from fedmentor.federation import TrainingPlan
from fedmentor.ids import MAX_SEED, Digest
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.teacher.contract import Teacher
from fedmentor.tensors import sha256_hex

if TYPE_CHECKING:
    from fed_node.data.dataset import Sample

INITIALISATION = "fm-instructed"
_VERSIONED = ("fedmentor", "monai", "numpy", "torch")


class DistilConfig(BaseModel):
    """Everything that decides which student comes out, and the limits of labelling.

    Attributes:
        prompt: see fed_node.student.prompting.prompt_source.
        alpha: weight of the teacher against the mask where an image has one that is used.
        temperature: softens teacher and student in the distillation loss.
        soft_dice: add a Dice term to the distillation loss.
        use_masks: whether human masks enter the loss.
        epochs, batch_images, learning_rate, weight_decay, augment: training; the rate falls along a cosine.
        seed: initialisation, order and augmentation.
        failure_limit: share of the images that may fail.
        in_flight: questions to the teacher at a time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = "central"
    alpha: float = Field(0.7, ge=0, le=1)
    temperature: float = Field(2.0, gt=0, le=100)
    soft_dice: bool = True
    use_masks: bool = True
    epochs: int = Field(30, ge=1, le=1000)
    batch_images: int = Field(8, ge=1, le=4096)
    learning_rate: float = Field(1.5e-3, gt=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    augment: bool = True
    seed: int = Field(0, ge=0, le=MAX_SEED)
    failure_limit: float = Field(0.1, ge=0, lt=1)
    in_flight: int = Field(2, ge=1, le=64)

    @property
    def plan(self) -> TrainingPlan:
        """The training part in the words that sites are trained by."""
        return TrainingPlan(
            local_epochs=self.epochs,
            batch_images=self.batch_images,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            augment=self.augment,
            seed=self.seed,
        )


@dataclass(frozen=True)
class DistilProgress:
    """Where a distillation stands.

    Attributes:
        stage: ``labels`` counts images, ``training`` counts steps.
        done, total: of that stage.
        failure: the image just done that was left out.
        loss: mean loss of the step just done.
    """

    stage: Literal["labels", "training"]
    done: int
    total: int
    failure: Failure | None = None
    loss: float | None = None


@dataclass(frozen=True)
class DistilResult:
    """A student and its provenance.

    Attributes:
        tensors: named float32 arrays of sm-lite-v1.
        record: for ``model.json``.
        report: how training went.
        failures: images that were left out.
    """

    tensors: Mapping[str, npt.NDArray[np.float32]]
    record: ModelRecord
    report: TrainingReport
    failures: tuple[Failure, ...]


Observe = Callable[[DistilProgress], None]


def ignore(_progress: DistilProgress) -> None:
    """The observer of those who do not want to be told."""


def distil(config: DistilConfig, teacher: Teacher, dataset: Sequence[Sample], observe: Observe = ignore) -> DistilResult:
    """Label a dataset through the teacher and train a fresh student on the answers.

    The same config, teacher, images and thread count give the same digest on the same machine, whether labels come from the
    teacher or from its cache. KeyboardInterrupt passes through; labels that were answered stay in the teacher's cache.

    Args:
        config: all choices.
        teacher: best a fedmentor.teacher.cache.CachedTeacher.
        dataset: e.g. what fed_node.data.dataset.open_dataset gives, or part of it.
        observe: told of progress on this thread.

    Raises:
        ConfigError: the prompt is none.
        DataError: too many images failed; see label_dataset.
        TeacherUnreachable: the teacher does not answer.
        ModelError: training diverged.
    """
    prompts = prompt_source(config.prompt)
    options = LabellingOptions(config.use_masks, config.failure_limit, config.in_flight)
    labelled = label_dataset(
        dataset,
        teacher,
        prompts,
        options,
        lambda done, total, failure: observe(DistilProgress("labels", done, total, failure)),
    )
    data = stack([image.prepared for image in labelled.images])
    student = new_student(config.seed)
    report = train(student, data, config.plan, config.seed, _training_options(config, observe))
    if report is None:
        raise RuntimeError("training stopped although nobody could ask it to")
    tensors = student_tensors(student)
    record = ModelRecord(
        architecture=ARCHITECTURE,
        digest=digest_of(tensors),
        initialisation=INITIALISATION,
        seed=config.seed,
        teacher=teacher.card().digest,
        data=fingerprint(labelled),
        details=_details(config, teacher, prompts, labelled, data) | {"losses": list(report.losses)},
    )
    return DistilResult(tensors, record, report, labelled.failures)


def save_distilled(folder: Path, result: DistilResult) -> None:
    """Write ``model.safetensors`` and ``model.json``.

    Raises:
        OSError: the disk refused.
    """
    save_model(folder, result.tensors, result.record)


def fingerprint(labelled: LabelledDataset) -> Digest:
    """What Dataset.fingerprint says of the images that were used, without reading them again; an unused mask is ``-``."""
    ordered = sorted(labelled.images, key=lambda image: image.prepared.id)
    return sha256_hex(f"{image.prepared.id} {image.image_digest} {image.mask_digest or '-'}\n".encode() for image in ordered)


def _training_options(config: DistilConfig, observe: Observe) -> TrainingOptions:
    def progress(now: TrainingProgress) -> None:
        observe(DistilProgress("training", now.step, now.steps, loss=now.loss))

    objective = Objective(config.alpha, config.temperature, config.soft_dice)
    return TrainingOptions(objective=objective, schedule="cosine", progress=progress)


def _details(
    config: DistilConfig, teacher: Teacher, prompts: PromptSource, labelled: LabelledDataset, data: StudentData
) -> dict[str, Any]:
    choices = config.model_dump(exclude={"seed", "in_flight", "failure_limit", "prompt"})
    return {
        **choices,
        "prompt": prompts.name,
        "images": len(data),
        "patients": data.patients,
        "images_with_mask": int(data.has_mask.sum()),
        "images_left_out": [failure.id for failure in labelled.failures],
        "teacher": teacher.card().to_json(),
        "versions": {name: version(name) for name in _VERSIONED},
    }

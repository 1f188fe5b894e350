"""The comparison as data: which initialisations, on which partition, with which seeds. A demo is a plan with one of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmentor.federation import TrainingPlan
from fedmentor.ids import MAX_SEED
from study.partition import PartitionPlan

Initialisation = Literal["random", "fm-instructed"]
PromptKind = Literal["central", "lungs", "mask"]

RANDOM: Initialisation = "random"
FM_INSTRUCTED: Initialisation = "fm-instructed"


class MentorPlan(BaseModel):
    """How the student is distilled before the federation starts.

    Attributes:
        archive: a .mar made by ``fedmentor teacher build``; None serves LiteMedSAM as installed.
        prompt: where the teacher looks: fixed boxes, or the box around each image's own mask.
        use_masks: whether human masks of proxy images enter the loss; off, so that the teacher alone makes the difference.
        alpha: weight of distillation against segmentation where a mask is used.
        temperature: softens both sides of the distillation loss.
        epochs, learning_rate, batch_images: training of the student.
        teacher_threads: threads of TorchServe's worker; it has the machine to itself while it labels.
        student_threads: threads of the distillation; the teacher is idle then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    archive: Path | None = None
    prompt: PromptKind = "central"
    use_masks: bool = False
    alpha: float = Field(0.7, ge=0, le=1)
    temperature: float = Field(2.0, gt=0)
    epochs: int = Field(30, ge=1)
    learning_rate: float = Field(1.5e-3, gt=0)
    batch_images: int = Field(8, ge=1)
    teacher_threads: int = Field(2, ge=1)
    student_threads: int = Field(2, ge=1)


class StudyPlan(BaseModel):
    """One comparison.

    Attributes:
        initialisations: where federated learning starts from; every one is run on every partition with every seed.
        partition: how patients are dealt; its seed is replaced by the study's.
        rounds: federated rounds of each run.
        quorum: fewest sites behind a model.
        seed: fixes data, initialisation, training and order of everything.
        training: what sites do in a round; its seed is replaced by the study's.
        phantoms: how many phantoms to make where no dataset is given.
        examples: held-out images to show, at most one a site.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    initialisations: tuple[Initialisation, ...] = (RANDOM, FM_INSTRUCTED)
    partition: PartitionPlan = PartitionPlan(held_out=0.33)
    mentor: MentorPlan = MentorPlan()
    rounds: int = Field(8, ge=1)
    quorum: int = Field(3, ge=1)
    seed: int = Field(0, ge=0, le=MAX_SEED)
    training: TrainingPlan = TrainingPlan()
    phantoms: int = Field(160, ge=16)
    examples: int = Field(4, ge=0)

    def seeded(self, seed: int) -> StudyPlan:
        """The same plan with another seed everywhere."""
        return self.model_copy(
            update={
                "seed": seed,
                "partition": self.partition.model_copy(update={"seed": seed}),
                "training": self.training.model_copy(update={"seed": seed}),
            }
        )

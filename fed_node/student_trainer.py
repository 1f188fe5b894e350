"""SM-lite on one site's images, behind the port of fed_node.trainer. The one file of the session's side that imports torch."""

from __future__ import annotations

import torch

from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, TRAIN, Dataset
from fed_node.data.site import SiteData
from fed_node.privacy import PrivateUpdate
from fed_node.student.evaluation import evaluate
from fed_node.student.samples import OnBad, StudentData, load_samples
from fed_node.student.sm_lite import ARCHITECTURE, SPEC, load_student, student_tensors
from fed_node.student.training import TrainingOptions, train
from fed_node.trainer import Interrupted, LocalScores, ShouldStop, TrainedUpdate
from fedmentor.errors import DataError, EmptyDataset
from fedmentor.federation import TrainingPlan
from fedmentor.ids import SiteId
from fedmentor.privacy.plan import PrivacyPlan
from fedmentor.tensors import FloatVector, Spec, flatten, unflatten


class StudentTrainer:
    """See LocalTrainer. Reads the whole site once, when it is made; images without a mask take no part.

    Args:
        data: of the site, with a column ``split``. Images of a PACS export that turn out damaged are left out and counted.
        site: for messages.
        threads: CPU threads of torch in this process.
        stopping: whether the node was asked to stop; asked between batches of scoring, as ``should_stop`` is in training.

    Raises:
        MissingMetadata: no column ``split``.
        EmptyDataset: nothing to train on, or nothing held out to score on.
        DataError: a file cannot be used; the message names it.
    """

    def __init__(self, data: SiteData, site: SiteId, threads: int, stopping: ShouldStop = lambda: False) -> None:
        torch.set_num_threads(threads)
        self._stopping = stopping
        damaged: list[DataError] = []
        on_bad = None if data.export is None else damaged.append
        self._train = _load(data.dataset, TRAIN, site, on_bad)
        self._held_out = _load(data.dataset, HELD_OUT, site, on_bad)
        counts = [] if data.export is None else [data.export.left_out]
        counts += [f"{len(damaged)} whose pixels or mask cannot be read, the first: {damaged[0].message}"] if damaged else []
        self._left_out = "; ".join(filter(None, counts))

    @property
    def images(self) -> tuple[int, int]:
        """Number of images to train on, and held out."""
        return len(self._train), len(self._held_out)

    @property
    def left_out(self) -> str:
        """What of a PACS export is not used; empty for nothing."""
        return self._left_out

    @property
    def architecture(self) -> str:
        """See LocalTrainer."""
        return ARCHITECTURE

    @property
    def spec(self) -> Spec:
        """See LocalTrainer."""
        return SPEC

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """See LocalTrainer."""
        scores = evaluate(load_student(unflatten(vector, SPEC)), self._held_out, self._go_on)
        return LocalScores(scores.patients, scores.images, scores.dice, scores.iou, scores.hd95, scores.hd95_undefined)

    def _go_on(self) -> None:
        if self._stopping():
            raise Interrupted

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        student = load_student(unflatten(vector, SPEC))
        report = train(student, self._train, plan, seed, TrainingOptions(should_stop=should_stop))
        if report is None:
            return None
        return TrainedUpdate(flatten(student_tensors(student), SPEC) - vector, len(self._train), report.losses[-1])

    @property
    def patients(self) -> tuple[str, ...]:
        """See fed_node.privacy.PrivateStudent."""
        return tuple(sorted(set(self._train.patient_ids)))

    def train_privately(
        self, vector: FloatVector, plan: TrainingPlan, privacy: PrivacyPlan, should_stop: ShouldStop
    ) -> PrivateUpdate | None:
        """See fed_node.privacy.PrivateStudent."""
        from fed_node.dp import PrivateTraining, train_privately  # noqa: PLC0415 - Opacus takes seconds to import; few runs need it

        student = load_student(unflatten(vector, SPEC))
        report = train_privately(student, self._train, PrivateTraining(plan, privacy, should_stop))
        if report is None:
            return None
        return PrivateUpdate(flatten(student_tensors(student), SPEC) - vector, report.steps, report.loss)


def _load(dataset: Dataset, split: str, site: SiteId, on_bad: OnBad | None) -> StudentData:
    try:
        return load_samples(dataset.where(SPLIT_COLUMN, split), on_bad).with_masks()
    except EmptyDataset as error:
        raise EmptyDataset(
            f"site {site!r} has no usable image with {SPLIT_COLUMN} = {split}: {error.message}",
            cure="give the site more patients, or leave it out of the run",
        ) from error

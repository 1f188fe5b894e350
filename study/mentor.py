"""Second step of a study: the teacher answers for the public pool, and the student is distilled from its answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fed_node.cli.progress import Advance
from fed_node.data.dataset import Dataset, Sample, open_dataset
from fed_node.student.distil import DistilConfig, DistilProgress, DistilResult, distil, save_distilled
from fed_node.student.evaluation import score
from fed_node.student.labelling import LabellingOptions, label_dataset
from fed_node.student.prompting import prompt_source
from fed_node.student.samples import stack
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.teacher.cache import CachedTeacher, FolderStore
from fedmentor.teacher.client import TorchServeTeacher
from fedmentor.teacher.contract import Teacher
from study.plan import FM_INSTRUCTED, RANDOM, Initialisation, MentorPlan, StudyPlan
from study.report.values import DistilFacts, TeacherFacts
from teacher_service.server import ServerConfig, serving


@dataclass(frozen=True)
class Mentored:
    """What this step made.

    Attributes:
        models: folder of the model that each initialisation starts from.
        teacher: who mentored.
        distil: how.
    """

    models: dict[Initialisation, Path]
    teacher: TeacherFacts
    distil: DistilFacts


class Stopwatch:
    """Passes progress on and notes when the labels were complete."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._start = time.perf_counter()
        self.label_seconds = 0.0

    def __call__(self, progress: DistilProgress) -> None:
        """See fed_node.student.distil.Observe."""
        if progress.stage == "labels":
            self.label_seconds = time.perf_counter() - self._start
            note = f"{progress.failure.id}: {progress.failure.reason}" if progress.failure else ""
            self._advance("soft labels", progress.done, progress.total, note)
        else:
            self._advance("distilling", progress.done, progress.total, f"loss {progress.loss:.3f}")


@contextmanager
def mentoring(plan: MentorPlan, run_folder: Path, cache: Path) -> Iterator[CachedTeacher]:
    """A teacher behind TorchServe while the block runs, with what it ever answered kept in ``cache``.

    Raises:
        see teacher_service.server.start.
    """
    config = ServerConfig(run_folder=run_folder, archive=plan.archive, threads=plan.teacher_threads)
    with serving(config) as server, TorchServeTeacher(server.endpoint) as client:
        yield CachedTeacher(client, FolderStore(cache))


def make_initial_models(plan: StudyPlan, teacher: CachedTeacher, proxy: Path, folder: Path, advance: Advance) -> Mentored:
    """Distil the student, and make its twin that learnt nothing.

    Both come from the same random numbers, so that the only difference is what the teacher said.

    Args:
        plan: all choices.
        teacher: answers for public images only.
        proxy: dataset folder of the public pool.
        folder: where the models go, one folder an initialisation.
        advance: progress.

    Raises:
        see fed_node.student.distil.distil.
    """
    pool = open_dataset(proxy)
    watch = Stopwatch(advance)
    result = distil(_config(plan), teacher, pool, watch)
    models: dict[Initialisation, Path] = {FM_INSTRUCTED: folder / FM_INSTRUCTED, RANDOM: folder / RANDOM}
    save_distilled(models[FM_INSTRUCTED], result)
    save_random(models[RANDOM], plan.seed)
    facts = _distil_facts(plan, result, watch, teacher)
    return Mentored(models, _teacher_facts(plan, teacher, pool, watch), facts)


def save_random(folder: Path, seed: int) -> None:
    """A student that learnt nothing."""
    tensors = student_tensors(new_student(seed))
    record = ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors), initialisation=RANDOM, seed=seed)
    save_model(folder, tensors, record)


def _config(plan: StudyPlan) -> DistilConfig:
    shared = plan.mentor.model_dump(include=set(DistilConfig.model_fields))
    return DistilConfig(**shared, seed=plan.seed)


def _distil_facts(plan: StudyPlan, result: DistilResult, watch: Stopwatch, teacher: CachedTeacher) -> DistilFacts:
    return DistilFacts(
        model_digest=result.record.digest,
        images=result.report.images,
        masks_used=int(result.record.details["images_with_mask"]),
        alpha=plan.mentor.alpha,
        temperature=plan.mentor.temperature,
        epochs=plan.mentor.epochs,
        label_seconds=watch.label_seconds,
        train_seconds=result.report.seconds,
        cache_hits=teacher.hits,
        losses=result.report.losses,
    )


def _teacher_facts(plan: StudyPlan, teacher: CachedTeacher, pool: Dataset, watch: Stopwatch) -> TeacherFacts:
    answered = teacher.misses
    card = teacher.card()
    with_masks = [sample for sample in pool if sample.mask is not None]
    scores = teacher_scores(plan.mentor.prompt, teacher, with_masks) if with_masks else None
    return TeacherFacts(
        architecture=card.architecture,
        digest=card.digest,
        preprocessing=card.preprocessing,
        prompt=plan.mentor.prompt,
        dice=scores[0] if scores else None,
        iou=scores[1] if scores else None,
        images_per_second=answered / watch.label_seconds if answered else None,
    )


def teacher_scores(prompt: str, teacher: Teacher, samples: Sequence[Sample]) -> tuple[float, float]:
    """Dice and IoU of the teacher's own masks, means over patients, on the student's square.

    Args:
        prompt: see fed_node.student.prompting.prompt_source.
        teacher: best one whose answers are in a cache.
        samples: images with human masks.
    """
    options = LabellingOptions(use_masks=True)
    labelled = label_dataset(samples, teacher, prompt_source(prompt), options, lambda _done, _total, _failure: None)
    data = stack([image.prepared for image in labelled.images])
    if data.soft is None:
        raise AssertionError("labelled images have soft labels")
    evaluation = score(data.soft > 0, data)
    return evaluation.dice, evaluation.iou

"""Pictures for people: one held-out image a site, with what teacher and students make of it beside the human mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, Sample, open_dataset
from fed_node.student.evaluation import image_metrics
from fed_node.student.picture import Prediction, predict
from fed_node.student.prompting import prompt_source
from fed_node.student.sm_lite import load_student
from fedmentor.errors import EmptyDataset
from fedmentor.ids import SiteId
from fedmentor.models import load_model
from fedmentor.pictures import grey, overlay, save_picture, shrunk
from fedmentor.teacher.contract import SoftLabels, Teacher, logits_at, probability
from study.plan import StudyPlan
from study.report.values import Example

Mask = npt.NDArray[np.bool_]

TEACHER = "teacher"


@dataclass(frozen=True)
class Case:
    """One held-out image with its human mask and the teacher's answer."""

    site: SiteId
    sample: Sample
    pixels: npt.NDArray[np.uint8]
    truth: Mask
    soft: SoftLabels


def choose_cases(plan: StudyPlan, teacher: Teacher, sites: Mapping[SiteId, Path]) -> tuple[Case, ...]:
    """The first held-out image of each site, by id: nobody picks the prettiest.

    On one machine the one teacher plays each site's own teacher here; in a deployment no site's image leaves the site.
    """
    prompts = prompt_source(plan.mentor.prompt)
    cases = []
    for site, folder in sorted(sites.items())[: plan.examples]:
        sample = open_dataset(folder).where(SPLIT_COLUMN, HELD_OUT)[0]
        pixels = sample.pixels()
        truth = sample.truth((pixels.shape[0], pixels.shape[1]))
        if truth is None:
            raise EmptyDataset(f"image {sample.id!r} of {site} has no mask")
        soft = teacher.soften(pixels, prompts.prompt(sample, truth.shape))
        cases.append(Case(site, sample, pixels, truth, soft))
    return tuple(cases)


def draw_examples(cases: tuple[Case, ...], models: Mapping[str, Path], folder: Path) -> tuple[Example, ...]:
    """Overlays of every case: image, teacher, each model, truth.

    Args:
        cases: what to show.
        models: caption -> model folder, in the order in which they are shown.
        folder: where the pictures go.
    """
    if not cases:
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    students = {caption: load_student(load_model(path)[0]) for caption, path in models.items()}
    predictions = {caption: predict(student, [case.pixels for case in cases]) for caption, student in students.items()}
    return tuple(
        _example(case, {name: found[index] for name, found in predictions.items()}, folder) for index, case in enumerate(cases)
    )


def _example(case: Case, predictions: Mapping[str, Prediction], folder: Path) -> Example:
    teacher = probability(logits_at(case.soft, case.truth.shape))
    masks = {TEACHER: teacher > 0.5, **{name: prediction.mask for name, prediction in predictions.items()}}
    image, truth = shrunk(case.pixels), shrunk(case.truth)  # a radiograph at full size is larger than a picture may be
    pictures = {"image": grey(image), TEACHER: overlay(image, shrunk(teacher), truth)}
    pictures |= {name: overlay(image, shrunk(prediction.mask), truth) for name, prediction in predictions.items()}
    pictures["truth"] = overlay(image, None, truth)
    files = {}
    for caption, picture in pictures.items():
        files[caption] = f"{folder.name}/{case.site}-{caption.replace(' ', '-').replace(',', '')}.jpg"
        save_picture(picture, folder.parent / files[caption])
    return Example(
        image_id=case.sample.id,
        site=case.site,
        pictures=files,
        dice={name: _dice(mask, case.truth) for name, mask in masks.items()},
    )


def _dice(mask: Mask, truth: Mask) -> float:
    return float(image_metrics(torch.from_numpy(mask)[None, None], torch.from_numpy(truth)[None, None])[0, 0])

"""SM-lite behind the trainer's port, on a handful of phantoms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.data.site import SiteData
from fed_node.student.sm_lite import ARCHITECTURE, SPEC, new_student, student_tensors
from fed_node.student_trainer import StudentTrainer
from fed_node.trainer import Interrupted
from fedmentor.errors import EmptyDataset, MissingMetadata
from fedmentor.federation import TrainingPlan
from fedmentor.ids import SiteId
from fedmentor.tensors import flatten, spec_size

SITE = SiteId("north")
PLAN = TrainingPlan(local_epochs=1, batch_images=2)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "all"
    write_phantoms(folder, 4, seed=0, side=128)
    return folder


@pytest.fixture(scope="module")
def trainer(phantoms: Path) -> StudentTrainer:
    folder = phantoms.parent / "site"
    dataset = open_dataset(phantoms)
    ids = [sample.id for sample in dataset]
    write_subset(dataset, ids, folder, held_out=ids[:1])
    return StudentTrainer(SiteData(open_dataset(folder)), SITE, threads=1)


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    return flatten(student_tensors(new_student(0)), SPEC)


def test_it_names_its_architecture(trainer: StudentTrainer):
    assert (trainer.architecture, trainer.spec) == (ARCHITECTURE, SPEC)


def test_training_gives_a_delta_and_the_number_of_training_images(trainer: StudentTrainer, start: np.ndarray):
    before = start.copy()
    update = trainer.train(start, PLAN, 7, lambda: False)
    assert update is not None
    assert (update.delta.shape, update.delta.dtype, update.examples) == ((spec_size(SPEC),), np.float32, 3)
    assert np.linalg.norm(update.delta) > 0
    assert update.loss > 0
    assert np.array_equal(start, before), "the global model is left as it is"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(trainer: StudentTrainer, start: np.ndarray):
    one, same, other = (trainer.train(start, PLAN, seed, lambda: False) for seed in (7, 7, 8))
    assert one is not None
    assert same is not None
    assert other is not None
    assert one.delta.tobytes() == same.delta.tobytes()
    assert one.delta.tobytes() != other.delta.tobytes()


def test_training_that_is_stopped_gives_nothing(trainer: StudentTrainer, start: np.ndarray):
    answers = iter([False, True])
    assert trainer.train(start, PLAN, 7, lambda: next(answers)) is None


def test_scores_are_of_the_held_out_patients(trainer: StudentTrainer, start: np.ndarray):
    scores = trainer.evaluate(start)
    assert (scores.patients, scores.images) == (1, 1)
    assert 0 <= scores.iou <= scores.dice <= 1
    assert scores.hd95_undefined == int(np.isnan(scores.hd95))
    assert trainer.evaluate(start) == scores


def test_a_site_without_held_out_patients_is_refused_with_its_name(phantoms: Path, tmp_path: Path):
    dataset = open_dataset(phantoms)
    write_subset(dataset, [sample.id for sample in dataset], tmp_path / "site")
    with pytest.raises(EmptyDataset, match=f"site 'north' has no usable image with {SPLIT_COLUMN} = {HELD_OUT}"):
        StudentTrainer(SiteData(open_dataset(tmp_path / "site")), SITE, threads=1)


def test_a_folder_without_a_split_is_refused(phantoms: Path):
    with pytest.raises(MissingMetadata, match=SPLIT_COLUMN):
        StudentTrainer(SiteData(open_dataset(phantoms)), SITE, threads=1)


@pytest.mark.usefixtures("trainer")  # writes the site's folder
def test_scoring_ends_when_the_node_is_stopped(start: np.ndarray, phantoms: Path):
    stopped = StudentTrainer(SiteData(open_dataset(phantoms.parent / "site")), SITE, threads=1, stopping=lambda: True)
    with pytest.raises(Interrupted):
        stopped.evaluate(start)

"""Distillation from a dataset folder through a teacher to a model folder, with everything that can go wrong on the way."""

import csv
import threading

import numpy as np
import pytest
from PIL import Image

from fed_node.data.dataset import open_dataset
from fed_node.student.distil import DistilConfig, distil, save_distilled
from fed_node.student.evaluation import evaluate
from fed_node.student.labelling import BACKGROUND_LOGIT, LabellingOptions, label_dataset
from fed_node.student.prompting import prompt_source
from fed_node.student.samples import load_samples
from fed_node.student.sm_lite import load_student, new_student
from fedmentor.errors import ConfigError, DataError, EmptyDataset, TeacherUnreachable
from fedmentor.models import load_model
from fedmentor.teacher.cache import CachedTeacher, MemoryStore
from fedmentor.testing.teacher import AnalyticTeacher

QUICK = DistilConfig(epochs=1, batch_images=4, prompt="central")
SIZE = (96, 80)


def ignore(*_args):
    pass


@pytest.fixture
def folder(tmp_path):
    """Ten images of 96 x 80, the first half with masks, patients of two images each."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    rows = []
    for number in range(10):
        image = random.integers(0, 200, SIZE, np.uint8)
        mask = np.zeros(SIZE, np.uint8)
        mask[10:80, 10 : 70 - number] = 255
        image[mask > 0] += 50
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"x{number}.png")
        if number < 5:
            Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"x{number}.png")
        rows.append({"id": f"x{number}", "patient_id": f"p{number // 2}"})
    with (tmp_path / "data" / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "patient_id"])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "data"


class StoppingTeacher(AnalyticTeacher):
    """Is gone after some answers."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self._left = threading.Semaphore(answers)

    def soften(self, pixels, prompt):
        """An answer, as long as there are any."""
        if not self._left.acquire(blocking=False):
            raise TeacherUnreachable("the teacher is gone")
        return super().soften(pixels, prompt)


def test_a_student_comes_out_with_its_provenance(folder, tmp_path):
    teacher = AnalyticTeacher()
    result = distil(QUICK, teacher, open_dataset(folder))
    save_distilled(tmp_path / "model", result)
    tensors, record = load_model(tmp_path / "model")
    assert record == result.record
    assert (record.initialisation, record.architecture, record.teacher) == ("fm-instructed", "sm-lite-v1", teacher.card().digest)
    assert record.data == open_dataset(folder).fingerprint()
    facts = ("images", "patients", "images_with_mask", "prompt", "epochs", "alpha", "temperature", "images_left_out")
    assert [record.details[name] for name in facts] == [10, 5, 5, "central", 1, 0.7, 2.0, []]
    assert evaluate(load_student(tensors), load_samples(open_dataset(folder))).images == 5


def test_the_same_seed_gives_the_same_model_however_labels_arrive(folder):
    dataset, cached = open_dataset(folder), CachedTeacher(AnalyticTeacher(), MemoryStore())
    first = distil(QUICK, cached, dataset).record
    again = distil(QUICK.model_copy(update={"in_flight": 4}), cached, dataset).record
    assert (cached.misses, cached.hits) == (10, 10)
    assert first == again
    assert distil(QUICK.model_copy(update={"seed": 1}), cached, dataset).record.digest != first.digest


def test_ignoring_masks_makes_another_student_and_another_fingerprint(folder):
    dataset = open_dataset(folder)
    with_masks = distil(QUICK, AnalyticTeacher(), dataset).record
    without = distil(QUICK.model_copy(update={"use_masks": False}), AnalyticTeacher(), dataset).record
    assert without.details["images_with_mask"] == 0
    assert without.digest != with_masks.digest
    assert without.data != with_masks.data


def test_the_student_moves_towards_its_teacher(folder):
    dataset = open_dataset(folder)
    result = distil(QUICK.model_copy(update={"epochs": 8, "use_masks": False}), AnalyticTeacher(), dataset)
    assert result.report.losses[-1] < 0.7 * result.report.losses[0]
    truth = load_samples(dataset)
    assert evaluate(load_student(result.tensors), truth).dice > evaluate(new_student(0), truth).dice


def test_soft_labels_lie_where_the_image_lies(folder):
    labelled = label_dataset(open_dataset(folder), AnalyticTeacher(), prompt_source("central"), LabellingOptions(), ignore)
    soft = labelled.images[0].prepared.soft
    assert (soft.dtype, soft.shape) == (np.float16, (256, 256))
    # 96 x 80 becomes 256 x 213, centred: 21 columns of border on the left.
    assert (soft[:, :21] == BACKGROUND_LOGIT).all()
    assert soft[128, 128] > 7
    assert [image.prepared.id for image in labelled.images] == [f"x{number}" for number in range(10)]


def test_a_bad_image_is_reported_and_left_out(folder):
    (folder / "images" / "x7.png").write_bytes(b"not a picture")
    seen = []
    result = distil(QUICK, AnalyticTeacher(), open_dataset(folder), seen.append)
    assert [failure.id for failure in result.failures] == ["x7"]
    assert result.record.details["images_left_out"] == ["x7"]
    assert result.record.details["images"] == 9
    assert [now.failure.id for now in seen if now.failure] == ["x7"]
    assert [now.done for now in seen if now.stage == "labels"] == list(range(1, 11))
    assert [now.done for now in seen if now.stage == "training"] == [1, 2, 3]


def test_too_many_bad_images_stop_everything(folder):
    for number in (2, 7):
        (folder / "images" / f"x{number}.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="2 of 10 images failed, 1 may") as caught:
        distil(QUICK, AnalyticTeacher(), open_dataset(folder))
    assert "x2" in str(caught.value)
    more = QUICK.model_copy(update={"failure_limit": 0.2})
    assert len(distil(more, AnalyticTeacher(), open_dataset(folder)).failures) == 2


def test_a_teacher_that_goes_away_stops_everything_and_a_second_run_goes_on(folder):
    store, dataset = MemoryStore(), open_dataset(folder)
    with pytest.raises(TeacherUnreachable):
        distil(QUICK, CachedTeacher(StoppingTeacher(4), store), dataset)
    teacher = AnalyticTeacher()
    resumed = distil(QUICK, CachedTeacher(teacher, store), dataset)
    assert teacher.asked == 6
    assert resumed.record == distil(QUICK, AnalyticTeacher(), dataset).record


def test_an_interrupt_keeps_what_was_answered(folder):
    store, dataset = MemoryStore(), open_dataset(folder)

    def interrupt(now):
        if now.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(QUICK, CachedTeacher(AnalyticTeacher(), store), dataset, interrupt)
    teacher = AnalyticTeacher()
    distil(QUICK, CachedTeacher(teacher, store), dataset)
    assert teacher.asked <= 7


def test_mask_prompts_need_masks(folder):
    options = LabellingOptions(failure_limit=0.5)
    labelled = label_dataset(open_dataset(folder), AnalyticTeacher(), prompt_source("mask"), options, ignore)
    assert [failure.id for failure in labelled.failures] == ["x5", "x6", "x7", "x8", "x9"]
    assert "no mask" in labelled.failures[0].reason


def test_boxes_from_a_file(folder, tmp_path):
    path = tmp_path / "boxes.csv"
    rows = [f"x{number},1,2,30,{40 + number}" for number in range(9)] + ["x0,40,2,70,50"]
    path.write_text("\n".join(["id,x0,y0,x1,y1", *rows]))
    source = prompt_source(str(path))
    dataset = open_dataset(folder)
    assert source.name.startswith("csv:")
    assert [(box.x0, box.y1) for box in source.prompt(dataset[0], SIZE).boxes] == [(1.0, 40.0), (40.0, 50.0)]
    labelled = label_dataset(dataset, AnalyticTeacher(), source, LabellingOptions(), ignore)
    assert [failure.id for failure in labelled.failures] == ["x9"]


@pytest.mark.parametrize("text", ["id,x0\nx0,1", "id,x0,y0,x1,y1\nx0,1,2,three,4", "id,x0,y0,x1,y1\nx0,1,2", b"id,\xff\xfe"])
def test_a_file_that_holds_no_boxes_is_refused(tmp_path, text):
    path = tmp_path / "boxes.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="boxes"):
        prompt_source(str(path))


@pytest.mark.parametrize("choice", ["left", "absent.csv"])
def test_an_unknown_prompt_is_refused(choice):
    with pytest.raises(ConfigError, match=choice):
        prompt_source(choice)


def test_an_empty_dataset_is_refused(folder):
    with pytest.raises(EmptyDataset):
        distil(QUICK, AnalyticTeacher(), open_dataset(folder)[:0])


@pytest.mark.parametrize("bad", [{"failure_limit": 1.0}, {"in_flight": 0}])
def test_labelling_options_out_of_range_are_refused(bad):
    with pytest.raises(ConfigError):
        LabellingOptions(**bad)

"""Metrics against values worked out by hand, and the patient as the unit."""

import math

import pytest
import torch
from student_phantoms import student_data

from fed_node.student.evaluation import ImageScores, evaluate, image_metrics, predict_logits, score, summarise
from fed_node.student.samples import StudentData
from fed_node.student.sm_lite import new_student, student_tensors
from fedmentor.errors import EmptyDataset, ModelError
from fedmentor.models import digest_of

NAN = float("nan")


def rectangle(top: int, left: int, bottom: int, right: int, side: int = 32) -> torch.Tensor:
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[0, top:bottom, left:right] = True
    return mask


def data_of(masks: torch.Tensor, patients: tuple[str, ...]) -> StudentData:
    count = len(masks)
    return StudentData(
        ids=tuple(str(number) for number in range(count)),
        patient_ids=patients,
        images=torch.zeros(masks.shape),
        masks=masks,
        has_mask=torch.ones(count, dtype=torch.bool),
    )


def test_dice_iou_and_hausdorff_by_hand():
    # 10 x 10 against the same shifted right by 4: 60 shared, 40 each alone; every pixel of the far edge is 4 away.
    truth, guess = rectangle(5, 5, 15, 15), rectangle(5, 9, 15, 19)
    dice, iou, distance = image_metrics(guess[None], truth[None])[0].tolist()
    assert dice == pytest.approx(120 / 200)
    assert iou == pytest.approx(60 / 140)
    assert distance == pytest.approx(4.0)


def test_equal_masks_are_perfect():
    mask = rectangle(3, 4, 20, 25)[None]
    assert image_metrics(mask, mask)[0].tolist() == [1.0, 1.0, 0.0]


def test_empty_masks_have_no_distance_and_no_warning():
    full, empty = rectangle(5, 5, 15, 15), rectangle(0, 0, 0, 0)
    values = image_metrics(torch.stack([empty, full, empty, full]), torch.stack([full, empty, empty, full]))
    assert values[:, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert values[:, 1].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert [math.isnan(value) for value in values[:, 2].tolist()] == [True, True, True, False]


def test_the_mean_is_over_patients():
    images = [ImageScores("1", "a", 0.2, 0.1, 8.0), ImageScores("2", "a", 0.4, 0.3, NAN), ImageScores("3", "b", 0.9, 0.8, 2.0)]
    summary = summarise(images)
    assert summary.dice == pytest.approx((0.3 + 0.9) / 2)
    assert summary.iou == pytest.approx((0.2 + 0.8) / 2)
    assert summary.hd95 == pytest.approx((8 + 2) / 2)
    assert (summary.patients, summary.images, summary.hd95_undefined) == (2, 3, 1)
    assert type(summary.dice) is float


def test_a_distance_that_is_defined_for_nobody_is_nan():
    summary = summarise([ImageScores("1", "a", 0.0, 0.0, NAN), ImageScores("2", "b", 0.0, 0.0, NAN)])
    assert math.isnan(summary.hd95)
    assert summary.hd95_undefined == 2


def test_scores_carry_ids_in_the_order_of_the_data():
    masks = torch.stack([rectangle(5, 5, 15, 15), rectangle(2, 2, 12, 12)])
    summary = score(torch.stack([masks[0], ~masks[1]]), data_of(masks, ("p", "q")))
    assert [(image.id, image.patient_id, image.dice) for image in summary.per_image] == [("0", "p", 1.0), ("1", "q", 0.0)]


def test_evaluating_takes_only_images_with_a_mask_and_leaves_the_model_alone():
    data = student_data(3)
    partly = StudentData(data.ids, data.patient_ids, data.images, data.masks, torch.tensor([True, False, True]))
    student = new_student(0)
    before = digest_of(student_tensors(student))
    summary = evaluate(student, partly)
    assert [image.id for image in summary.per_image] == ["image-0", "image-2"]
    assert digest_of(student_tensors(student)) == before


def test_evaluating_without_masks_is_refused():
    with pytest.raises(EmptyDataset):
        evaluate(new_student(0), student_data(2, masked=False))


def test_a_model_that_answers_nonsense_is_refused():
    student = new_student(0)
    with torch.no_grad():
        student.head.bias.fill_(torch.nan)
    with pytest.raises(ModelError, match="finite"):
        predict_logits(student, torch.rand(1, 1, 64, 64))

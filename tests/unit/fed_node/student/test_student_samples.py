"""Images, masks and soft labels in memory."""

import numpy as np
import pytest
import torch
from student_phantoms import student_data

from fed_node.student import samples
from fed_node.student.samples import Prepared, stack
from fedmentor.errors import DataError, EmptyDataset, LimitExceeded

PLANE = np.zeros((1, 8, 8), np.float32)


def prepared(number: int, **more) -> Prepared:
    return Prepared(f"i{number}", f"p{number}", PLANE + number / 10, **more)


def test_stacking_keeps_order_and_marks_who_has_a_mask():
    mask = np.eye(8, dtype=bool)
    data = stack([prepared(2, mask=mask), prepared(1)])
    assert (data.ids, data.patient_ids, len(data), data.patients) == (("i2", "i1"), ("p2", "p1"), 2, 2)
    assert data.images.shape == data.masks.shape == (2, 1, 8, 8)
    assert data.has_mask.tolist() == [True, False]
    assert torch.equal(data.masks[0, 0], torch.from_numpy(mask))
    assert not data.masks[1].any()
    assert data.soft is None


def test_soft_labels_are_for_all_or_for_none():
    soft = np.ones((8, 8), np.float16)
    assert stack([prepared(1, soft=soft)]).soft.dtype == torch.float16
    with pytest.raises(DataError, match="some"):
        stack([prepared(1, soft=soft), prepared(2)])


def test_nothing_and_too_much_are_refused(monkeypatch):
    with pytest.raises(EmptyDataset):
        stack([])
    monkeypatch.setattr(samples, "MAX_IMAGES", 1)
    with pytest.raises(LimitExceeded):
        stack([prepared(1), prepared(2)])


def test_a_batch_is_float32_and_in_the_order_asked_for():
    data = student_data(4, softened=True)
    images, targets = data.batch(torch.tensor([2, 0]))
    assert torch.equal(images, data.images[[2, 0]])
    assert {targets.masks.dtype, targets.soft.dtype} == {torch.float32}
    assert torch.equal(targets.soft, data.soft[[2, 0]].float())


def test_a_subset_keeps_everything_together():
    data = student_data(4, softened=True)
    part = data.subset(torch.tensor([3, 1]))
    assert part.ids == ("image-3", "image-1")
    assert part.patient_ids == ("patient-3", "patient-1")
    for name in ("images", "masks", "has_mask", "soft"):
        assert torch.equal(getattr(part, name), getattr(data, name)[[3, 1]])

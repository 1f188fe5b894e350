"""Pictures of held-out images, of any size that a radiograph has."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fed_node.data.dataset import Sample
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.pictures import MAX_SIDE
from fedmentor.teacher.contract import Box, Prompt
from fedmentor.testing.teacher import AnalyticTeacher
from study.examples import TEACHER, Case, draw_examples


def test_a_radiograph_that_is_larger_than_a_picture_may_be_is_shown_smaller(tmp_path):
    size = (MAX_SIDE + 8, 600)
    pixels = np.zeros(size, np.uint8)
    truth = np.zeros(size, np.bool_)
    truth[1000:3000, 100:500] = True
    soft = AnalyticTeacher().soften(pixels, Prompt((Box(100, 1000, 500, 3000),)))
    sample = Sample("a", "a", tmp_path / "a.png", None, {})
    tensors = student_tensors(new_student(0))
    save_model(tmp_path / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors)))
    case = Case(SiteId("site-1"), sample, pixels, truth, soft)
    (example,) = draw_examples((case,), {"student": tmp_path / "model"}, tmp_path / "pictures")
    assert set(example.dice) == {TEACHER, "student"}
    for name in example.pictures.values():
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (200, 1368)

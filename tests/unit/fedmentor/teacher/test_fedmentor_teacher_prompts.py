"""Automatic prompts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import DataError
from fedmentor.teacher.contract import Box, Prompt, check_prompt
from fedmentor.teacher.prompts import central_box, lung_boxes, mask_box

sizes = st.tuples(st.integers(8, 5000), st.integers(8, 5000))


@given(sizes)
def test_fixed_boxes_lie_inside_any_image(size):
    check_prompt(Prompt(central_box(size)), size)
    check_prompt(Prompt(lung_boxes(size)), size)


def test_lung_boxes_mirror_each_other():
    right, left = lung_boxes((200, 100))
    assert right.x0 == pytest.approx(100 - left.x1)
    assert right.x1 == pytest.approx(100 - left.x0)
    assert (right.y0, right.y1) == (left.y0, left.y1)


def test_the_box_around_a_mask_is_tight_and_includes_its_last_pixel():
    mask = np.zeros((20, 30), np.uint8)
    mask[3:7, 5:6] = 255
    mask[10, 25] = 1
    assert mask_box(mask) == (Box(5.0, 3.0, 26.0, 11.0),)


def test_a_margin_is_cut_at_the_edge():
    mask = np.zeros((20, 30), bool)
    mask[1:19, 10] = True
    assert mask_box(mask, 4.0) == (Box(6.0, 0.0, 15.0, 20.0),)


@given(sizes, st.data())
def test_a_mask_box_is_a_valid_prompt_that_covers_the_mask(size, data):
    height, width = min(size[0], 60), min(size[1], 60)
    mask = np.zeros((height, width), bool)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask[y, x] = True
    (box,) = mask_box(mask, data.draw(st.floats(0, 100)))
    check_prompt(Prompt((box,)), mask.shape)
    assert box.x0 <= x < box.x1
    assert box.y0 <= y < box.y1


@pytest.mark.parametrize("mask", [np.zeros((4, 4)), np.zeros((2, 2, 2)), np.ones(4)])
def test_no_box_around_nothing(mask):
    with pytest.raises(DataError):
        mask_box(mask)

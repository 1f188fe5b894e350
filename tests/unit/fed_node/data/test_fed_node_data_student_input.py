"""The student's square: shape, exposure, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fed_node.data.student_input import fit, mask_to_student, normalised, to_source, to_student

SIZES = st.tuples(st.integers(16, 600), st.integers(16, 600))


@given(SIZES)
def test_an_image_fits_its_square_and_touches_two_sides(size):
    geometry = fit(size, 256)
    rows, columns = geometry.window
    assert 0 <= rows.start < rows.stop <= 256
    assert 0 <= columns.start < columns.stop <= 256
    assert max(geometry.content) == 256


def test_the_plane_is_float_in_the_unit_range_and_black_outside():
    plane, geometry = to_student(np.random.default_rng(0).integers(0, 255, (100, 300), np.uint8))
    assert plane.shape == (1, 256, 256)
    assert plane.dtype == np.float32
    assert plane.min() >= 0
    assert plane.max() <= 1
    outside = np.ones((256, 256), np.bool_)
    outside[geometry.window] = False
    assert np.all(plane[0][outside] == 0)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 1.0), st.floats(0, 60))
def test_gain_and_offset_of_the_exposure_do_not_matter(gain, offset):
    values = np.random.default_rng(1).uniform(0, 190, (64, 64)).astype(np.float32)
    assert np.allclose(normalised(values), normalised((gain * values + offset).astype(np.float32)), atol=1e-4)


def test_burnt_in_letters_do_not_darken_the_image():
    image = np.random.default_rng(2).integers(60, 120, (256, 256), np.uint8)
    marked = image.copy()
    marked[5:15, 5:25] = 255
    assert np.abs(to_student(image)[0] - to_student(marked)[0]).mean() < 0.02


def test_a_constant_image_becomes_black():
    assert np.all(to_student(np.full((50, 40), 90, np.uint8))[0] == 0)


def test_an_image_of_the_right_size_is_not_resampled():
    image = np.random.default_rng(3).integers(0, 255, (256, 256), np.uint8)
    assert np.array_equal(to_student(image)[0][0], normalised(image.astype(np.float32)))


@settings(max_examples=30, deadline=None)
@given(st.integers(64, 500), st.integers(64, 500))
def test_a_mask_comes_back_where_it_was(height, width):
    y, x = np.mgrid[:height, :width]
    mask = ((y / height - 0.45) / 0.3) ** 2 + ((x / width - 0.55) / 0.35) ** 2 < 1
    geometry = fit(mask.shape)
    back = to_source(mask_to_student(mask, geometry).astype(np.float32), geometry) >= 0.5
    assert back.shape == mask.shape
    assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) > 0.97


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        mask_to_student(np.zeros((10, 10), np.bool_), fit((10, 11)))

"""Pre-processing against numbers worked out by hand and against values that OpenCV 4 gave for the same input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_service.preprocess import (
    LONGEST256,
    STRETCH256,
    longest_content,
    resize_area,
)

OPENCV_SHRUNK = [[94, 67, 105], [124, 155, 121], [133, 99, 130], [149, 187, 74]]
OPENCV_ENLARGED = [
    [0, 22, 67, 112, 134],
    [101, 81, 42, 87, 109],
    [201, 140, 17, 62, 84],
    [151, 173, 218, 95, 34],
    [126, 148, 193, 154, 135],
    [101, 123, 168, 213, 235],
]


def grey(*rows):
    return np.array(rows, np.uint8)


def test_halving_averages_four_pixels_and_rounds_halves_up():
    assert resize_area(grey([0, 2, 10, 10], [0, 0, 10, 12]), (1, 2)).tolist() == [[1, 11]]  # 0.5 -> 1, 10.5 -> 11


def test_three_to_two_shares_the_middle_pixel():
    # Each target pixel covers 1.5 source pixels: (30 + 0.5 * 60) / 1.5 = 40 and (0.5 * 60 + 90) / 1.5 = 80.
    assert resize_area(grey([30, 60, 90], [30, 60, 90], [30, 60, 90]), (2, 2)).tolist() == [[40, 80], [40, 80]]


def test_other_factors_round_halves_to_even():
    # The mean of the sixteen pixels is 2.5.
    assert resize_area(grey([2, 3, 2, 3], [3, 2, 3, 2], [2, 3, 2, 3], [3, 2, 3, 2]), (1, 1)).tolist() == [[2]]


def test_shrinking_equals_opencv():
    picture = (np.arange(7 * 5).reshape(7, 5) * 37 % 251).astype(np.uint8)
    # cv2.resize(picture, (3, 4), interpolation=cv2.INTER_AREA), OpenCV 4
    assert resize_area(picture, (4, 3)).tolist() == OPENCV_SHRUNK


def test_enlarging_equals_opencv_within_one_level():
    picture = (np.arange(4 * 3).reshape(4, 3) * 67 % 251).astype(np.uint8)
    # cv2.resize(picture, (5, 6), interpolation=cv2.INTER_AREA), OpenCV 4
    difference = resize_area(picture, (6, 5)).astype(int) - np.array(OPENCV_ENLARGED)
    assert np.abs(difference).max() <= 1


@given(st.integers(0, 255), st.integers(8, 60), st.integers(8, 60), st.integers(4, 70), st.integers(4, 70))
def test_a_flat_picture_stays_flat(level, height, width, new_height, new_width):
    picture = np.full((height, width), level, np.uint8)
    assert (resize_area(picture, (new_height, new_width)) == level).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(2, 5))
def test_area_averaging_keeps_the_mean(seed, down, across):
    picture = np.random.default_rng(seed).integers(0, 256, (8 * down, 8 * across), dtype=np.uint8)
    assert resize_area(picture, (8, 8)).mean() == pytest.approx(picture.mean(), abs=0.5)


@pytest.mark.parametrize(
    ("size", "content"), [((256, 256), (256, 256)), ((512, 256), (256, 128)), ((300, 1000), (77, 256)), ((8, 5000), (1, 256))]
)
def test_longest_side_becomes_256(size, content):
    assert longest_content(size) == content
    assert LONGEST256.content(size) == content


def test_litemedsam_input_is_minmax_scaled_and_zero_padded():
    picture = np.full((256, 128), 100, np.uint8)
    picture[0, 0], picture[0, 1] = 50, 150
    image = LONGEST256.image(picture)
    assert image.shape == (3, 256, 256)
    assert image.dtype == np.float32
    assert image[0, 0, :3].tolist() == [0.0, 1.0, 0.5]
    assert (image[:, :, 128:] == 0).all()
    assert (image[0] == image[2]).all()


def test_litemedsam_colour_keeps_red_green_blue_and_scales_over_all_channels():
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[..., 0], picture[..., 1] = 200, 50
    assert LONGEST256.image(picture)[:, 0, 0].tolist() == [1.0, 0.25, 0.0]


def test_litemedsam_flat_picture_is_zero_not_nan():
    assert (LONGEST256.image(np.full((64, 64), 7, np.uint8)) == 0).all()


def test_litemedsam_coordinates_are_truncated():
    xy = np.array([[10.0, 999.0], [301.0, 0.0]])
    assert LONGEST256.coordinates(xy, (1000, 800)).tolist() == [[2.0, 255.0], [77.0, 0.0]]


def test_sam_med2d_takes_the_nearest_pixel_towards_zero():
    picture = np.tile((np.arange(512) % 256).astype(np.uint8), (300, 1))
    image = STRETCH256.image(picture)
    expected = (np.arange(0, 512, 2) % 256 - 123.675) / 58.395
    np.testing.assert_allclose(image[0, 0], expected, atol=1e-6)


def test_sam_med2d_normalises_blue_with_the_first_constants():
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[..., 0], picture[..., 2] = 255, 100  # red, blue
    blue, green, red = STRETCH256.image(picture)[:, 5, 5]
    np.testing.assert_allclose([blue, green, red], [(100 - 123.675) / 58.395, -116.28 / 57.12, (255 - 103.53) / 57.375], rtol=1e-5)


def test_sam_med2d_scales_each_axis_and_does_not_round():
    assert STRETCH256.coordinates(np.array([[3.0, 3.0]]), (512, 1024)).tolist() == [[0.75, 1.5]]
    assert STRETCH256.content((512, 1024)) == (256, 256)

"""The picture of an answer."""

import numpy as np

from fedmentor.teacher.contract import Box, Prompt
from fedmentor.testing.teacher import AnalyticTeacher
from teacher_service.overlay import PALETTE, PANEL, overlay

PIXELS = np.full((96, 192), 90, np.uint8)
SOFT = AnalyticTeacher().soften(PIXELS, Prompt((Box(16, 16, 80, 80), Box(112, 16, 176, 80))))


def test_the_image_stays_plain_on_the_left_and_is_tinted_on_the_right():
    picture = overlay(PIXELS, SOFT)
    assert picture.dtype == np.uint8
    panel = picture[12 : 12 + PANEL // 2]
    left, right = panel[:, 12 : 12 + PANEL], panel[:, 24 + PANEL : 24 + 2 * PANEL]
    assert left.shape == right.shape == (PANEL // 2, PANEL, 3)
    centre = (160, 160)  # of the first box
    assert left[centre].tolist() == [90, 90, 90]
    for channel in range(3):
        assert (int(right[centre][channel]) - 90) * (PALETTE[0][channel] - 90) > 0  # towards the object's colour


def test_each_object_has_its_colour():
    right = overlay(PIXELS, SOFT)[12 : 12 + PANEL // 2, 24 + PANEL : 24 + 2 * PANEL].astype(int)
    first, second = right[160, 160], right[160, 480]
    assert first[2] > first[0]  # turquoise
    assert second[0] > second[2]  # orange


def test_colour_images_and_single_points_are_drawn():
    picture = overlay(
        np.zeros((64, 64, 3), np.uint8), AnalyticTeacher().soften(np.zeros((64, 64, 3), np.uint8), Prompt((Box(1, 1, 9, 9),)))
    )
    assert picture.shape[1] == 2 * PANEL + 36


def test_a_picture_of_a_very_long_strip_is_drawn():
    strip = np.zeros((8, 6000), np.uint8)
    assert overlay(strip, AnalyticTeacher().soften(strip, Prompt((Box(0, 0, 6000, 8),)))).shape[1] == 2 * PANEL + 36

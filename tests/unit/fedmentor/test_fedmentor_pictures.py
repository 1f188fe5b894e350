"""Overlays: colours, outlines, refusals, determinism."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fedmentor.errors import DataError, MaskMismatch, UnreadableImage
from fedmentor.pictures import MAX_SIDE, PREDICTION_COLOUR, TINT, TRUTH_COLOUR, grey, overlay, save_picture, shrunk

IMAGE = np.full((64, 48), 100, np.uint8)
BOX = np.zeros((64, 48), bool)
BOX[16:48, 12:36] = True
FACTOR = 8


def array(picture):
    return np.asarray(picture).astype(int)


def test_small_images_are_enlarged_by_a_whole_factor():
    assert grey(IMAGE).size == overlay(IMAGE, BOX).size == (48 * FACTOR, 64 * FACTOR)


def test_large_images_keep_their_size():
    assert grey(np.zeros((600, 400), np.uint8)).size == (400, 600)


def test_the_inside_is_tinted_by_probability_and_the_outside_left_alone():
    picture = array(overlay(IMAGE, np.where(BOX, 0.8, 0.0)))
    opacity = 0.8 * TINT
    expected = [100 * (1 - opacity) + channel * opacity for channel in PREDICTION_COLOUR]
    np.testing.assert_allclose(picture[32 * FACTOR, 24 * FACTOR], expected, atol=1)
    np.testing.assert_array_equal(picture[4 * FACTOR, 4 * FACTOR], [100, 100, 100])


def test_the_outline_runs_along_the_border_of_the_mask():
    picture = array(overlay(IMAGE, None, BOX))
    edge = np.abs(picture[32 * FACTOR] - TRUTH_COLOUR).sum(axis=1) < 6
    assert 12 * FACTOR - 2 <= np.flatnonzero(edge).min() <= 12 * FACTOR + 1
    assert 36 * FACTOR - 2 <= np.flatnonzero(edge).max() <= 36 * FACTOR + 1
    assert edge.sum() <= 6


def test_a_truth_beside_a_prediction_is_only_an_outline():
    with_prediction = array(overlay(IMAGE, np.zeros((64, 48), np.float32), BOX))
    np.testing.assert_array_equal(with_prediction[32 * FACTOR, 24 * FACTOR], [100, 100, 100])
    alone = array(overlay(IMAGE, None, BOX))
    assert alone[32 * FACTOR, 24 * FACTOR, 0] > 100 > alone[32 * FACTOR, 24 * FACTOR, 2]


def test_every_form_of_a_mask_gives_the_same_picture():
    expected = array(overlay(IMAGE, BOX, BOX))
    for mask in (BOX.astype(np.uint8), BOX.astype(np.uint8) * 255, BOX.astype(np.float32), BOX.astype(np.float16)):
        np.testing.assert_array_equal(array(overlay(IMAGE, mask, mask)), expected)


def test_an_empty_mask_leaves_the_image():
    np.testing.assert_array_equal(array(overlay(IMAGE, np.zeros_like(BOX))), array(grey(IMAGE)))


@pytest.mark.parametrize(
    ("image", "mask", "error"),
    [
        (IMAGE.astype(np.float32), BOX, UnreadableImage),
        (np.zeros((4, 4, 3), np.uint8), BOX, UnreadableImage),
        (np.zeros((0, 4), np.uint8), BOX, UnreadableImage),
        (np.broadcast_to(np.uint8(0), (1, MAX_SIDE + 1)), BOX, UnreadableImage),
        (IMAGE, BOX.T, MaskMismatch),
        (IMAGE, np.full((64, 48), 1.5), MaskMismatch),
        (IMAGE, np.full((64, 48), np.nan), MaskMismatch),
    ],
    ids=["float", "colour", "empty", "large", "shape", "over one", "nan"],
)
def test_what_cannot_be_drawn_is_refused(image, mask, error):
    with pytest.raises(error):
        overlay(image, mask)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG")])
def test_the_same_picture_gives_the_same_bytes(tmp_path, name, kind):
    paths = [tmp_path / folder / name for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        save_picture(overlay(IMAGE, BOX, BOX), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as picture:
        assert (picture.format, picture.size) == (kind, (48 * FACTOR, 64 * FACTOR))


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(DataError, match="not the name of a picture"):
        save_picture(grey(IMAGE), tmp_path / "a.gif")


def test_large_planes_are_shrunk_by_a_whole_factor_and_small_ones_left():
    plane = np.arange(30).reshape(5, 6)
    np.testing.assert_array_equal(shrunk(plane, 3), [[0, 2, 4], [12, 14, 16], [24, 26, 28]])
    assert shrunk(plane, 6).shape == plane.shape

"""Where a map's values lie after resizing."""

import numpy as np

from fedmentor.teacher.resizing import resized, whole


def test_resizing_has_half_pixel_centres():
    assert resized(np.array([[[0.0, 1.0]]]), (1, 4))[0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resized(np.zeros((2, 3, 4, 5), np.float16), (8, 10)).shape == (2, 3, 8, 10)


def test_a_part_may_end_within_a_pixel():
    # Two and a half pixels become five: their centres lie at 0.25, 0.75, ... of the map, whose values lie at 0.5, 1.5, ...
    ramp = np.arange(4.0)[None, None] + 0.5
    assert resized(ramp, (1, 5), (1, 2.5))[0, 0].tolist() == [0.5, 0.75, 1.25, 1.75, 2.25]


def test_the_same_size_is_the_same_map():
    maps = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    assert (resized(maps, (5, 7)) == maps).all()


def test_whole_extents_are_integers():
    assert [repr(whole(extent)) for extent in (154.0, 154, 174.75)] == ["154", "154", "174.75"]

"""Inline SVG: determinism, page colours, names as text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_report_example import make_report, make_run

from study.report.charts import NARROW, VARIABLES, WIDE, axis_bottom, learning_curves, loss_curve, site_curves, spread
from study.report.comparison import settings_of


def setting_of(*runs):
    (setting,) = settings_of(runs or make_report().runs)
    return setting


def texts(svg):
    return [element.text for element in ET.fromstring(svg).iter() if element.tag == "text"]  # noqa: S314 - our own SVG


def test_the_same_numbers_give_the_same_bytes():
    assert learning_curves(setting_of(), 0.8, WIDE, "a") == learning_curves(setting_of(), 0.8, WIDE, "a")


def test_colours_are_the_pages():
    svg = learning_curves(setting_of(), 0.8, WIDE, "a")
    assert not [colour for colour in VARIABLES if colour in svg]
    assert {"var(--random)", "var(--mentored)", "var(--teacher)"} <= set(re.findall(r"var\(--[a-z]+\)", svg))


def test_lines_carry_their_names_and_last_numbers():
    wide = texts(learning_curves(setting_of(), 0.8031, WIDE, "a"))
    assert {"random 0.912", "FM-instructed 0.929", "teacher 0.803"} <= set(wide)
    assert "random 0.912" not in texts(learning_curves(setting_of(), 0.8031, NARROW, "a"))


def test_an_unknown_teacher_dice_draws_no_line():
    assert "--teacher" not in learning_curves(setting_of(), None, WIDE, "a")


def test_ids_are_unique_to_the_prefix_and_every_reference_is_met():
    first, second = (learning_curves(setting_of(), 0.8, WIDE, prefix) for prefix in ("a", "b"))
    ids = [set(re.findall(r"\bid=\"([^\"]+)\"", svg)) for svg in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", first)) <= ids[0]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "$\\frac{1}$", 'a"b'])
def test_names_are_text_only(name):
    run = make_run(name, (0.1, 0.5), partition=name)
    svg = learning_curves(setting_of(run), None, WIDE, "a")
    assert f"{name} 0.500" in texts(svg)
    assert "<script" not in svg


def test_a_single_round_and_missing_sites_can_be_drawn():
    setting = setting_of(make_run("random", (0.5,)))
    assert "<svg" in learning_curves(setting, None, WIDE, "a")
    assert "<svg" in site_curves(setting, "site-z", 0.0, "a")
    assert "<svg" in loss_curve((0.4,), "a")


@pytest.mark.parametrize(("lowest", "bottom"), [(0.217, 0.1), (0.03, 0.0), (0.866, 0.8), (1.0, 0.9), (float("nan"), 0.0)])
def test_the_axis_begins_below_the_lowest_value(lowest, bottom):
    assert axis_bottom([lowest, 1.0] if lowest == lowest else [lowest]) == pytest.approx(bottom)  # noqa: PLR0124 - not NaN


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.01, 0.2))
def test_labels_keep_their_order_and_distance(positions, gap):
    moved = spread(positions, gap)
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    assert all(moved[after] - moved[before] >= gap - 1e-9 for before, after in pairwise(order))
    assert sum(moved) == pytest.approx(sum(positions))

"""A picture of its own: valid SVG, self-contained, one a setting."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from study_report_example import make_report, make_run

from fedmentor.errors import DataError
from study.report.figure import write_figures


def test_the_picture_is_a_document_with_its_own_colours(tmp_path):
    (path,) = write_figures(make_report(), tmp_path / "curves.svg")
    text = path.read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own SVG
    used, defined = set(re.findall(r"var\((--[a-z]+)\)", text)), set(re.findall(r"(--[a-z]+):", text))
    assert used <= defined
    assert "prefers-color-scheme: dark" in text
    assert not re.findall(r"(?:href|src)=\"(?!#)", text), "it loads nothing"


def test_the_same_report_gives_the_same_bytes(tmp_path):
    first, second = (write_figures(make_report(), tmp_path / name)[0].read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second


def test_several_settings_are_several_pictures(tmp_path):
    runs = [make_run("random", (0.1, 0.5), partition=name) for name in ("iid", "by age")]
    report = make_report().model_copy(update={"runs": tuple(runs)})
    assert [path.name for path in write_figures(report, tmp_path / "c.svg")] == ["c-1.svg", "c-2.svg"]


def test_a_report_without_a_round_is_refused(tmp_path):
    with pytest.raises(DataError, match="no round"):
        write_figures(make_report().model_copy(update={"runs": ()}), tmp_path / "c.svg")
    assert not list(tmp_path.iterdir())

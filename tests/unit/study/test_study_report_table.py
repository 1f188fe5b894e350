"""The terminal table."""

from __future__ import annotations

import io
import re

from rich.console import Console
from study_report_example import make_report, make_run

from study.report.table import finding, print_comparison
from study.report.wording import ABSENT


def printed(report, width=80):
    buffer = io.StringIO()
    print_comparison(report, Console(file=buffer, width=width, color_system=None))
    return buffer.getvalue()


def row(text, first):
    (line,) = (line for line in text.splitlines() if line.split()[:1] == [first])
    return re.split(r"\s{2,}", line.strip())


def test_both_runs_stand_side_by_side():
    text = printed(make_report())
    assert row(text, "0") == ["0", "0.271", "0.866", "+0.595", "0.217", "0.836"]
    assert row(text, "6") == ["6", "0.912", "0.929", "+0.017", "0.884", "0.901"]
    assert row(text, "to")[1:3] == ["6 rounds", "3 rounds"]
    assert row(text, "traffic")[1:3] == ["92.7 MB", "92.7 MB"]
    assert row(text, "time")[1:3] == ["1 min 48 s", "1 min 48 s"]


def test_eighty_columns_are_enough():
    text = printed(make_report())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_finding_comes_first():
    report = make_report()
    assert " ".join(printed(report, width=2000).splitlines()[0].split()) == finding(report)


def test_a_shorter_run_leaves_blanks():
    text = printed(make_report(make_run("random", (0.1, 0.5, 0.6)), make_run("fm-instructed", (0.4, 0.7))))
    assert row(text, "2") == ["2", "0.600", ABSENT, ABSENT, "0.559", ABSENT]


def test_one_run_has_no_difference():
    text = printed(make_report(make_run("pretrained", (0.1, 0.5))))
    assert "difference" not in text
    assert row(text, "1")[1] == "0.500"

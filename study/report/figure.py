"""Learning curves as a picture file of their own, for a README, a slide or a paper: light or dark like the page."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from fedmentor.errors import DataError
from fedmentor.models import write_atomically
from study.report.charts import WIDE, learning_curves
from study.report.comparison import settings_of
from study.report.values import Report

_FONT = 'font-family: system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif'


def write_figures(report: Report, path: Path) -> list[Path]:
    """Write one SVG for each setting of a report; the same report gives the same bytes.

    Args:
        path: of the file; with several settings ``-1``, ``-2`` … go before its ending.

    Raises:
        DataError: the report holds no round to draw.
    """
    settings = [setting for setting in settings_of(report.runs) if any(run.rounds for run in setting.runs.values())]
    if not settings:
        raise DataError("the report holds no round to draw", cure="run the federation first")
    names = [path] if len(settings) == 1 else [path.with_stem(f"{path.stem}-{number + 1}") for number in range(len(settings))]
    for setting, name in zip(settings, names, strict=True):
        write_atomically(name, standalone(learning_curves(setting, report.teacher.dice, WIDE, "figure")).encode())
    return names


def standalone(svg: str) -> str:
    """An inline ``<svg>`` of the page as a document of its own, with the page's colours and ground."""
    style = f"<style>{_page_colours()} svg {{ {_FONT}; background: var(--card); }}</style>"
    return re.sub(r"<svg ([^>]*)>", rf'<svg xmlns="http://www.w3.org/2000/svg" \1>{style}', str(svg), count=1) + "\n"


def _page_colours() -> str:
    """The rules of the page's style that give colours their values."""
    text = files("study.report").joinpath("templates").joinpath("style.html").read_text()
    return text[text.index(":root") : text.index("* {")].strip()

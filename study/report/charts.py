"""Learning curves as inline SVG that follows the page's colours, light or dark. The same numbers give the same bytes.

Matplotlib draws with stand-in colours that are then replaced by CSS variables of the page (see templates/style.html). Text stays
text: it takes the page's font, can be selected and read aloud. Importing this module loads matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import floor, isfinite
from typing import Any

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.report.comparison import MENTORED, RANDOM, Setting, name_of
from study.report.values import RoundFacts, RunFacts

INK, MUTED, GRID, TEACHER = "#010101", "#020202", "#030303", "#040404"
_SERIES = {RANDOM: "#050505", MENTORED: "#060606", "pretrained": "#070707"}
_OTHER = "#080808"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--rule",
    TEACHER: "--teacher",
    _SERIES[RANDOM]: "--random",
    _SERIES[MENTORED]: "--mentored",
    _SERIES["pretrained"]: "--pretrained",
    _OTHER: "--other",
}
"""Stand-in colour -> CSS variable of the page."""

_MARKERS = {RANDOM: "o", MENTORED: "s", "pretrained": "^"}
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "fedmentor",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same measures on every machine
    "text.parse_math": False,  # names of sites are not formulas
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "grid.color": GRID,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Frame:
    """Size of a chart in points (1/72 inch), its font size, and whether lines carry their names."""

    width: float
    height: float
    font: float = 11.0
    labelled: bool = False


WIDE = Frame(760, 360, labelled=True)
NARROW = Frame(380, 320)
SMALL = Frame(240, 168, font=10.0)
LOSS = Frame(380, 170, font=10.0)


def variable_of(init: str) -> str:
    """The CSS variable that colours an initialisation."""
    return VARIABLES[_SERIES.get(init, _OTHER)]


def learning_curves(setting: Setting, teacher_dice: float | None, frame: Frame, prefix: str) -> Markup:
    """Dice after each round: the site-weighted mean with markers, the worst site as a thin line, the teacher dashed.

    Args:
        teacher_dice: the teacher's own Dice, or None where it is unknown.
        prefix: makes the ids of this SVG unique on its page.
    """
    lowest = [facts.worst_dice for run in setting.runs.values() for facts in run.rounds]
    draw = partial(_draw_setting, setting=setting, teacher_dice=teacher_dice, frame=frame, bottom=axis_bottom(lowest))
    return _svg(frame, f"Dice after each round, {setting.label}", prefix, draw)


def site_curves(setting: Setting, site: str, bottom: float, prefix: str) -> Markup:
    """Dice of one site after each round, every initialisation; ``bottom`` is shared by all sites so that they compare."""
    lines = {
        init: [(facts.round, facts.sites[site].dice) for facts in run.rounds if site in facts.sites]
        for init, run in setting.runs.items()
    }
    return _svg(SMALL, f"Dice of {site} after each round", prefix, partial(_draw_lines, lines=lines, bottom=bottom))


def loss_curve(losses: Sequence[float], prefix: str) -> Markup:
    """Mean distillation loss of each epoch."""
    return _svg(LOSS, "Distillation loss of each epoch", prefix, partial(_draw_losses, losses=losses))


def axis_bottom(dice: Sequence[float]) -> float:
    """Where a Dice axis begins: the tenth below the lowest value, at most 0.9; the top is always 1."""
    finite = [value for value in dice if isfinite(value)]
    return max(0.0, min(0.9, floor(min(finite, default=0.0) * 10 - 0.2) / 10))


def lowest_site_dice(runs: Sequence[RunFacts]) -> float:
    """The bottom of the axis that all sites share."""
    return axis_bottom([scores.dice for run in runs for facts in run.rounds for scores in facts.sites.values()])


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move label positions apart until neighbours are at least ``gap`` apart, in their order, around their common centre."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = list(positions)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    shift = (sum(positions) - sum(moved)) / len(moved) if moved else 0.0
    return [position + shift for position in moved]


def _draw_setting(axes: Any, *, setting: Setting, teacher_dice: float | None, frame: Frame, bottom: float) -> None:
    if teacher_dice is not None:
        axes.axhline(teacher_dice, color=TEACHER, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
    ends: list[tuple[float, str, str]] = [] if teacher_dice is None else [(teacher_dice, f"teacher {teacher_dice:.3f}", TEACHER)]
    for init, run in setting.runs.items():
        colour = _SERIES.get(init, _OTHER)
        axes.plot(*_points(run.rounds, "worst_dice"), color=colour, linewidth=1.0, alpha=0.75, zorder=2)
        _line(axes, init, *_points(run.rounds, "dice"))
        ends.append((run.rounds[-1].dice, f"{name_of(init)} {run.rounds[-1].dice:.3f}", colour))
    _dice_axes(axes, bottom, setting.runs.values())
    axes.set_xlabel("round")
    axes.set_title("Dice", loc="left", fontsize=frame.font, color=MUTED)
    if frame.labelled:
        _label_ends(axes, ends, gap=(1 - bottom) * 1.75 * frame.font / frame.height)


def _points(rounds: Sequence[RoundFacts], what: str) -> tuple[list[int], list[float]]:
    return [facts.round for facts in rounds], [getattr(facts, what) for facts in rounds]


def _line(axes: Any, init: str, rounds: Sequence[int], dice: Sequence[float]) -> None:
    colour = _SERIES.get(init, _OTHER)
    axes.plot(rounds, dice, color=colour, linewidth=2.2, marker=_MARKERS.get(init, "D"), markersize=5, zorder=3)


def _label_ends(axes: Any, ends: Sequence[tuple[float, str, str]], gap: float) -> None:
    right = axes.get_xlim()[1]
    places = spread([value for value, _, _ in ends], gap)
    for place, (_, text, colour) in zip(places, ends, strict=True):
        axes.annotate(text, (right, place), xytext=(6, 0), textcoords="offset points", va="center", color=colour, fontweight="bold")


def _draw_lines(axes: Any, *, lines: Mapping[str, Sequence[tuple[int, float]]], bottom: float) -> None:
    for init, points in lines.items():
        _line(axes, init, [number for number, _ in points], [dice for _, dice in points])
    axes.set_ylim(bottom, 1.0)
    _whole_ticks(axes)


def _draw_losses(axes: Any, *, losses: Sequence[float]) -> None:
    axes.plot(range(1, len(losses) + 1), losses, color=_SERIES[MENTORED], linewidth=2.0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch")
    axes.set_title("loss", loc="left", fontsize=LOSS.font, color=MUTED)
    _whole_ticks(axes)


def _dice_axes(axes: Any, bottom: float, runs: Any) -> None:
    last = max(facts.round for run in runs for facts in run.rounds)
    axes.set_ylim(bottom, 1.0)
    axes.set_xlim(-0.03 * max(last, 1), 1.03 * max(last, 1))
    _whole_ticks(axes)


def _whole_ticks(axes: Any) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))


def _svg(frame: Frame, title: str, prefix: str, draw: Any) -> Markup:
    """Draw into fresh axes and return an ``<svg>`` element."""
    buffer = io.StringIO()
    with rc_context(_STYLE | {"font.size": frame.font}):
        figure = Figure(figsize=(frame.width / 72, frame.height / 72), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.grid(axis="y", linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
        FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_METADATA)
    return _embed(buffer.getvalue(), title, prefix)


def _embed(document: str, title: str, prefix: str) -> Markup:
    """Cut the ``<svg>`` element out of matplotlib's document, make its ids unique and its colours those of the page."""
    inner = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    view = re.search(r'viewBox="[^"]*"', document)
    body = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(title)}">{inner}</svg>'
    body = re.sub(r"\bid=\"([^\"]+)\"", rf'id="{prefix}-\1"', body)
    body = re.sub(r"xlink:href=\"#([^\"]+)\"", rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    for colour, variable in VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return Markup(body)  # noqa: S704 - matplotlib's own SVG, in which it escapes every text

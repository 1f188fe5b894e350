"""``report.html``: one self-contained page for people. No script, no request to anywhere, light and dark, screen and paper."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedmentor.errors import DataError
from fedmentor.models import write_atomically
from study.report import charts, wording
from study.report.comparison import (
    MENTORED,
    RANDOM,
    Setting,
    dice_difference,
    duel_of,
    first_round_at,
    held_out_patients,
    name_of,
    settings_of,
)
from study.report.values import Example, Report, RunFacts

FILE_NAME = "report.html"
MAX_PICTURE_BYTES = 8 << 20
"""Largest single picture that is inlined: a page of a few hundred kilobytes per example is the aim, not a limit on data."""

_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class SettingView:
    """One setting with its charts, ready for the template; ``rows`` are (round number, [(init, facts)], difference or None)."""

    setting: Setting
    wide: Markup
    narrow: Markup
    sites: tuple[tuple[str, Markup], ...]
    rows: tuple[tuple[int, list[tuple[str, Any]], float | None], ...]


@dataclass(frozen=True)
class Tile:
    """One of the headline numbers: a name and, for each initialisation, its value as text."""

    name: str
    values: tuple[tuple[str, str], ...]


def write_html(report: Report, folder: Path) -> Path:
    """Write ``folder/report.html``; the same report and pictures give the same bytes.

    Args:
        folder: where the pictures that ``report.examples`` names already are.

    Returns:
        The page's path.

    Raises:
        DataError: an example's picture is missing, outside the folder, too large, or neither PNG nor JPEG.
    """
    page = render_html(report, folder)
    path = folder / FILE_NAME
    write_atomically(path, page.encode())
    return path


def render_html(report: Report, folder: Path) -> str:
    """The page as text; reads the examples' pictures from ``folder``. Raises what write_html raises."""
    settings = settings_of(report.runs)
    views = [_view(setting, report.teacher.dice, f"s{index}") for index, setting in enumerate(settings)]
    losses = report.distil.losses
    return (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            headline=wording.headline(report),
            finding=wording.finding(report),
            verdict=wording.verdict_of(report),
            tiles=_tiles(settings[0], report) if len(settings) == 1 else (),
            views=views,
            loss_chart=charts.loss_curve(losses, "loss") if losses else None,
            examples=[(example, _inlined(example, folder)) for example in report.examples],
            patients=held_out_patients(report),
        )
    )


def picture_uri(folder: Path, name: str) -> str:
    """A picture beside the report as a ``data:`` URI.

    Raises:
        DataError: missing, outside the folder, over MAX_PICTURE_BYTES, or neither PNG nor JPEG by content.
    """
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DataError(f"picture {name!r} is outside the report's folder", cure="name pictures relative to the report")
    try:
        if path.stat().st_size > MAX_PICTURE_BYTES:
            raise DataError(f"picture {name!r} is over {MAX_PICTURE_BYTES >> 20} MiB", cure="write it smaller")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"picture {name!r} cannot be read", cure="run the study again; it writes the pictures") from error
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"
    raise DataError(f"picture {name!r} is neither PNG nor JPEG", cure="write it with fedmentor.pictures.save_picture")


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        loader=PackageLoader("study.report"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "score": wording.score,
        "signed": wording.signed,
        "distance": wording.distance,
        "traffic": wording.traffic,
        "duration": wording.duration,
        "init_name": name_of,
        "init_colour": charts.variable_of,
    }
    environment.globals["counted"] = wording.counted
    return environment


def _view(setting: Setting, teacher_dice: float | None, prefix: str) -> SettingView:
    sites = sorted({site for run in setting.runs.values() for facts in run.rounds for site in facts.sites})
    bottom = charts.lowest_site_dice(tuple(setting.runs.values()))
    return SettingView(
        setting=setting,
        wide=charts.learning_curves(setting, teacher_dice, charts.WIDE, f"{prefix}w"),
        narrow=charts.learning_curves(setting, teacher_dice, charts.NARROW, f"{prefix}n"),
        sites=tuple((site, charts.site_curves(setting, site, bottom, f"{prefix}x{i}")) for i, site in enumerate(sites)),
        rows=_rows(setting),
    )


def _rows(setting: Setting) -> tuple[tuple[int, list[tuple[str, Any]], float | None], ...]:
    by_round: dict[int, list[tuple[str, Any]]] = {}
    for init, run in setting.runs.items():
        for facts in run.rounds:
            by_round.setdefault(facts.round, []).append((init, facts))
    rows = []
    for number, members in sorted(by_round.items()):
        found = dict(members)
        both = {RANDOM, MENTORED} <= found.keys()
        rows.append((number, members, dice_difference(found[MENTORED], found[RANDOM]) if both else None))
    return tuple(rows)


def _tiles(setting: Setting, report: Report) -> tuple[Tile, ...]:
    runs, target = setting.runs, report.rounds_to_target.dice
    duel = duel_of(setting)
    last = duel.random[-1].round if duel else max(run.rounds[-1].round for run in runs.values())
    final = {init: next((facts for facts in run.rounds if facts.round == last), run.rounds[-1]) for init, run in runs.items()}
    return (
        Tile("Dice at the start", tuple((init, wording.score(run.rounds[0].dice)) for init, run in runs.items())),
        Tile(f"Dice after round {last}", tuple((init, wording.score(final[init].dice)) for init in runs)),
        Tile(
            f"Rounds to Dice {wording.score(target)}",
            tuple((init, _rounds_or_more(run, target)) for init, run in runs.items()),
        ),
        Tile("Worst site at the end", tuple((init, wording.score(final[init].worst_dice)) for init in runs)),
    )


def _rounds_or_more(run: RunFacts, target: float) -> str:
    number = first_round_at(run, target)
    return f"> {run.rounds[-1].round}" if number is None else str(number)


def _inlined(example: Example, folder: Path) -> list[tuple[str, str, float | None]]:
    """(caption, data URI, Dice or None) of each picture in the order shown."""
    return [(caption, picture_uri(folder, name), example.dice.get(caption)) for caption, name in example.pictures.items()]

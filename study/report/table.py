"""The comparison as a table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from study.report.comparison import (
    MENTORED,
    RANDOM,
    Setting,
    choose_target,
    dice_difference,
    first_round_at,
    name_of,
    rounds_to_target,
    settings_of,
)
from study.report.values import Report, RoundFacts
from study.report.wording import ABSENT, duration, finding, rounds_needed, score, signed, traffic

__all__ = ["choose_target", "comparison_table", "finding", "print_comparison", "rounds_to_target"]

_COLOURS = {RANDOM: "yellow", MENTORED: "bright_blue"}


def print_comparison(report: Report, console: Console) -> None:
    """Print the finding and one table a setting."""
    console.print(comparison_table(report))


def comparison_table(report: Report) -> RenderableType:
    """The finding, then for each setting Dice per round side by side, rounds to target, bytes and seconds."""
    tables = [_setting_table(setting, report.rounds_to_target.dice) for setting in settings_of(report.runs)]
    return Group(Text(finding(report)), *tables)


def _setting_table(setting: Setting, target_dice: float) -> Table:
    inits = sorted(setting.runs, key=lambda init: (init != RANDOM, init != MENTORED))
    compared = {RANDOM, MENTORED} <= setting.runs.keys()
    table = Table(title=setting.label, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Round", justify="right")
    for init in inits:
        table.add_column(f"Dice\n{name_of(init)}", justify="right", style=_COLOURS.get(init))
    if compared:
        table.add_column("Dice\ndifference", justify="right")
    for init in inits:
        table.add_column(f"worst site\n{name_of(init)}", justify="right", style=_COLOURS.get(init))
    by_round = {init: {facts.round: facts for facts in setting.runs[init].rounds} for init in inits}
    for number in sorted({number for rounds in by_round.values() for number in rounds}):
        facts = {init: by_round[init].get(number) for init in inits}
        table.add_row(str(number), *_cells(facts, compared=compared))
    table.add_section()
    blank = [""] if compared else []
    rest = [""] * len(inits)
    runs = [setting.runs[init] for init in inits]
    table.add_row(f"to {score(target_dice)}", *(rounds_needed(first_round_at(run, target_dice)) for run in runs), *blank, *rest)
    table.add_row("traffic", *(traffic(sum(map(_bytes, run.rounds))) for run in runs), *blank, *rest)
    table.add_row("time", *(duration(sum(facts.seconds for facts in run.rounds)) for run in runs), *blank, *rest)
    return table


def _cells(facts: dict[str, RoundFacts | None], *, compared: bool) -> list[str]:
    cells = [score(one.dice) if one else ABSENT for one in facts.values()]
    if compared:
        random, mentored = facts[RANDOM], facts[MENTORED]
        cells.append(signed(dice_difference(mentored, random)) if random and mentored else ABSENT)
    return cells + [score(one.worst_dice) if one else ABSENT for one in facts.values()]


def _bytes(facts: RoundFacts) -> int:
    return facts.bytes_up + facts.bytes_down

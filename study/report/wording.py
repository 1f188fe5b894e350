"""Numbers and findings as people read them. Pure; used by the page and by the terminal table alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean

from study.report.comparison import (
    MENTORED,
    RANDOM,
    SHOWN_DECIMALS,
    Duel,
    Verdict,
    duel_of,
    first_round_at,
    held_out_patients,
    name_of,
    settings_of,
)
from study.report.values import Report, RunFacts

STANDING = {Verdict.AHEAD: "ahead of random", Verdict.BEHIND: "behind random", Verdict.LEVEL: "level with random"}

ABSENT = "\N{EN DASH}"
"""Stands where there is no number."""


def score(value: float | None) -> str:
    """A Dice or IoU: ``0.917``."""
    return ABSENT if value is None or not isfinite(value) else f"{value:.{SHOWN_DECIMALS}f}"


def signed(value: float) -> str:
    """A difference with its sign and a true minus sign: ``+0.012``, ``0.000``."""
    rounded = round(value, SHOWN_DECIMALS) + 0.0
    return f"{rounded:+.{SHOWN_DECIMALS}f}".replace("-", "\N{MINUS SIGN}") if rounded else score(0.0)


def distance(value: float | None) -> str:
    """A Hausdorff distance in pixels: ``7.4``."""
    return ABSENT if value is None or not isfinite(value) else f"{value:.1f}"


def traffic(count: int) -> str:
    """Bytes in decimal units: ``13.8 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def duration(seconds: float) -> str:
    """Wall time: ``8.3 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, noun: str) -> str:
    """``1 round``, ``6 rounds``; every noun used here takes an s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def rounds_needed(number: int | None) -> str:
    """How many rounds a run needed to reach the target: ``2 rounds``, ``at the start``, ``not reached``."""
    if number is None:
        return "not reached"
    return counted(number, "round") if number else "at the start"


def headline(report: Report) -> str:
    """The page's title: the verdict in a few words."""
    verdict = verdict_of(report)
    if verdict is None:
        return "Federated runs, nothing compared"
    if verdict is Verdict.MIXED:
        return "FM-instructed against random: a mixed result"
    return f"FM-instructed start {STANDING[verdict]}"


def verdict_of(report: Report) -> Verdict | None:
    """FM-instructed against random over every setting: one word if all settings agree, else mixed; None if nothing was compared."""
    verdicts = {duel.verdict for duel in _duels(report)}
    if not verdicts:
        return None
    return verdicts.pop() if len(verdicts) == 1 else Verdict.MIXED


def finding(report: Report) -> str:
    """What the numbers of this report say, in either direction, in at most three sentences.

    It never speaks of significance or of patients in general: one report holds no spread to judge them by.
    """
    duels = _duels(report)
    if not duels:
        return _nothing_compared(report)
    where = f"on {counted(held_out_patients(report), 'held-out patient')} at {counted(len(report.data.sites), 'site')}"
    if len(duels) > 1:
        return _many_settings(duels, where)
    return f"{_one_setting(duels[0], where)} {_target_sentence(report)}"


def _duels(report: Report) -> tuple[Duel, ...]:
    return tuple(duel for setting in settings_of(report.runs) if (duel := duel_of(setting)))


def _one_setting(duel: Duel, where: str) -> str:
    last = duel.random[-1].round
    numbers = f"Dice {score(duel.mentored[0].dice)} against {score(duel.random[0].dice)} at round {duel.random[0].round}"
    if len(duel.random) > 1:
        numbers += f" and {score(duel.mentored[-1].dice)} against {score(duel.random[-1].dice)} after round {last}"
    return f"{_standing(duel)}: {numbers}, {where}."


def _standing(duel: Duel) -> str:
    when = _when(duel)
    if duel.verdict is Verdict.MIXED:
        count = len(duel.differences)
        return f"Mixed result: of {count} comparisons ({when}), the FM-instructed start was {_tally(duel.differences)}"
    return f"The FM-instructed start was {STANDING[duel.verdict]} {when}"


def _when(duel: Duel) -> str:
    rounds = sum(facts.round > 0 for facts in duel.random)
    parts = ["at the start"] if duel.random[0].round == 0 else []
    if rounds:
        parts.append(f"after each of {rounds} rounds" if rounds > 1 else f"after round {duel.random[-1].round}")
    return " and ".join(parts)


def _tally(differences: Sequence[float]) -> str:
    counts = {
        "ahead of random": sum(value > 0 for value in differences),
        "level": sum(value == 0 for value in differences),
        "behind": sum(value < 0 for value in differences),
    }
    *parts, last = [f"{word} in {count}" for word, count in counts.items() if count]
    return f"{', '.join(parts)} and {last}"


def _target_sentence(report: Report) -> str:
    target = report.rounds_to_target
    (setting,) = (setting for setting in settings_of(report.runs) if duel_of(setting))
    mentored, random = (_reached(first_round_at(setting.runs[init], target.dice)) for init in (MENTORED, RANDOM))
    return f"Dice {score(target.dice)} ({target.reason}) was reached by FM-instructed {mentored} and by random {random}."


def _reached(number: int | None) -> str:
    if number is None:
        return "in no round"
    return f"after {counted(number, 'round')}" if number else "at the start"


def _many_settings(duels: Sequence[Duel], where: str) -> str:
    counts = {verdict: sum(duel.verdict is verdict for duel in duels) for verdict in Verdict}
    listed = ", ".join(f"{verdict.value} in {count}" for verdict, count in counts.items() if count)
    first = (fmean(duel.mentored[0].dice for duel in duels), fmean(duel.random[0].dice for duel in duels))
    last = (fmean(duel.mentored[-1].dice for duel in duels), fmean(duel.random[-1].dice for duel in duels))
    return (
        f"Over {len(duels)} settings and all their rounds, the FM-instructed start compared with random was {listed}. "
        f"Mean Dice was {score(first[0])} against {score(first[1])} at the start and {score(last[0])} against {score(last[1])} "
        f"after the last round, {where}."
    )


def _nothing_compared(report: Report) -> str:
    runs = [run for run in report.runs if run.rounds]
    if not runs:
        return "No federated run finished a round, so there is nothing to compare."
    listed = "; ".join(_course(run) for run in runs)
    return f"Random and FM-instructed starts were not both run, so nothing is compared. {listed}."


def _course(run: RunFacts) -> str:
    first, last = run.rounds[0], run.rounds[-1]
    return f"{name_of(run.init)}: Dice {score(first.dice)} at round {first.round}, {score(last.dice)} after round {last.round}"

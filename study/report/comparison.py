"""What the numbers of a report say: who is ahead, where, and after how many rounds. Pure; no I/O.

A *setting* is everything that two runs must share before their initialisations may be compared: partition, strategy and seed.
Dice differences are judged at the three decimals that people are shown, so no sentence claims more than the table beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import fmean

from fedmentor.errors import DataError
from study.report.values import Report, RoundFacts, RunFacts, Target

RANDOM = "random"
MENTORED = "fm-instructed"
NAMES = {RANDOM: "random", MENTORED: "FM-instructed", "pretrained": "pretrained"}
"""How initialisations are called in front of people."""

SHOWN_DECIMALS = 3
"""Decimals of a Dice in tables and sentences; smaller differences count as level."""


class Verdict(Enum):
    """How the FM-instructed run stands to the random run over all rounds that both have, round 0 included."""

    AHEAD = "ahead"
    BEHIND = "behind"
    LEVEL = "level"
    MIXED = "mixed"


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their initialisation only.

    Attributes:
        repeat: 1, or more where the same setting and initialisation occurs several times in a report.
        runs: initialisation -> run, in the report's order; every run has at least one round.
    """

    partition: str
    strategy: str
    seed: int
    repeat: int
    runs: Mapping[str, RunFacts] = field(hash=False)

    @property
    def label(self) -> str:
        """For people, e.g. ``iid, fedavg, seed 0``."""
        again = f", repeat {self.repeat}" if self.repeat > 1 else ""
        return f"{self.partition}, {self.strategy}, seed {self.seed}{again}"


@dataclass(frozen=True)
class Duel:
    """Random against FM-instructed in one setting, on the rounds that both have (round 0 first)."""

    random: tuple[RoundFacts, ...]
    mentored: tuple[RoundFacts, ...]

    @property
    def differences(self) -> tuple[float, ...]:
        """FM-instructed minus random Dice, one a round, at the shown decimals."""
        return tuple(dice_difference(ours, theirs) for ours, theirs in zip(self.mentored, self.random, strict=True))

    @property
    def verdict(self) -> Verdict:
        """See Verdict."""
        differences = self.differences
        if all(value > 0 for value in differences):
            return Verdict.AHEAD
        if all(value < 0 for value in differences):
            return Verdict.BEHIND
        return Verdict.MIXED if any(differences) else Verdict.LEVEL


def name_of(init: str) -> str:
    """An initialisation's name for people; unknown ones are shown as they are."""
    return NAMES.get(init, init)


def dice_difference(ours: RoundFacts, theirs: RoundFacts) -> float:
    """``ours`` minus ``theirs`` in Dice, rounded to the decimals that are shown."""
    return round(ours.dice - theirs.dice, SHOWN_DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0


def settings_of(runs: Sequence[RunFacts]) -> tuple[Setting, ...]:
    """Group runs that may be compared; runs without a single round are left out."""
    groups: dict[tuple[str, str, int, int], dict[str, RunFacts]] = {}
    for run in runs:
        if not run.rounds:
            continue
        repeat = 1
        while run.init in groups.get((run.partition, run.strategy, run.seed, repeat), {}):
            repeat += 1
        groups.setdefault((run.partition, run.strategy, run.seed, repeat), {})[run.init] = run
    return tuple(Setting(*key, runs=members) for key, members in groups.items())


def duel_of(setting: Setting) -> Duel | None:
    """The comparison of one setting; None unless both initialisations ran and share a round."""
    if not {RANDOM, MENTORED} <= setting.runs.keys():
        return None
    random = {facts.round: facts for facts in setting.runs[RANDOM].rounds}
    mentored = {facts.round: facts for facts in setting.runs[MENTORED].rounds}
    shared = sorted(random.keys() & mentored.keys())
    if not shared:
        return None
    return Duel(tuple(random[number] for number in shared), tuple(mentored[number] for number in shared))


def first_round_at(run: RunFacts, target_dice: float) -> int | None:
    """The first round whose Dice is at least the target; 0 where the initial model already is; None where no round is.

    Compared as shown, so that no table contradicts its sentence.
    """
    target = round(target_dice, SHOWN_DECIMALS)
    return min((facts.round for facts in run.rounds if round(facts.dice, SHOWN_DECIMALS) >= target), default=None)


def rounds_to_target(runs: Sequence[RunFacts], target_dice: float) -> dict[str, int | None]:
    """How many rounds each run needed to reach a Dice.

    Returns:
        Keyed by initialisation; where the runs span several settings, by ``initialisation (setting)``.
    """
    settings = settings_of(runs)
    return {
        init if len(settings) == 1 else f"{init} ({setting.label})": first_round_at(run, target_dice)
        for setting in settings
        for init, run in setting.runs.items()
    }


def choose_target(runs: Sequence[RunFacts]) -> Target:
    """The default target: the final Dice of the random run, so that "rounds to target" asks what the head start is worth.

    With several random runs (seeds, partitions) it is the mean of their final Dice; with none, the lowest final Dice of all runs.

    Raises:
        DataError: no run has a round.
    """
    finals = [(run.init, run.rounds[-1].dice) for run in runs if run.rounds]
    if not finals:
        raise DataError("a target needs at least one run with a round", cure="run the federation first")
    random = [dice for init, dice in finals if init == RANDOM]
    if random:
        dice, reason = fmean(random), f"final Dice of the random run{f's (mean of {len(random)})' if len(random) > 1 else ''}"
    else:
        dice, reason = min(dice for _, dice in finals), "lowest final Dice of all runs"
    return Target(dice=dice, reason=reason, rounds=rounds_to_target(runs, dice))


def held_out_patients(report: Report) -> int:
    """Patients that no model was trained on, over all sites."""
    return sum(site.held_out_patients for site in report.data.sites.values())

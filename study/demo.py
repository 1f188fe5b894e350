"""The main job from end to end: data, teacher, distillation, federated runs, report. Everything it starts, it stops."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from coordinator.report import RoundReport
from fed_node.cli.progress import Advance
from fedmentor.clock import Clock
from fedmentor.errors import ConfigError
from fedmentor.models import write_atomically
from study.examples import Case, choose_cases, draw_examples
from study.federate import federate
from study.folder import PLAN_FILE, refuse_strangers, study_folder
from study.mentor import Mentored, make_initial_models, mentoring
from study.plan import FM_INSTRUCTED, RANDOM, Initialisation, StudyPlan
from study.prepare import Prepared, deal, deal_phantoms, settle
from study.report.html import write_html
from study.report.table import choose_target
from study.report.values import Report, RunFacts

REPORT_FILE = "report.json"
CACHE_FOLDER = "soft-labels"
"""Beside the studies' folders, so that the next one does not ask the teacher again."""

_SOFTWARE = ("fedmentor", "torch", "monai", "torchserve", "grpcio", "numpy")


class Screen(Protocol):
    """What a study tells while it works."""

    def step(self, number: int, total: int, what: str) -> None:
        """A part of the work begins."""
        ...

    def say(self, line: str) -> None:
        """One fact for people."""
        ...

    def bars(self) -> AbstractContextManager[Advance]:
        """Progress bars for the block."""
        ...

    def scored(self, init: Initialisation, entry: RoundReport, rounds: int) -> None:
        """The sites have scored a global model."""
        ...


@dataclass(frozen=True)
class Job:
    """What to do and where.

    Attributes:
        plan: all choices that decide the result.
        source: a dataset folder, or None for phantoms.
        out: folder of this study; an earlier study there is replaced.
        command: how a person would repeat it; for the report.
    """

    plan: StudyPlan
    source: Path | None
    out: Path
    command: str


def run_study(job: Job, clock: Clock, screen: Screen) -> Report:
    """Do the whole job and write ``report.html`` and ``report.json``.

    Raises:
        ConfigError: ``job.out`` holds something else than an earlier study, or another study is running there.
        FedMentorError: see the steps; everything that was started is stopped.
    """
    started = clock.monotonic_s()
    out = job.out.absolute()
    _keep_inputs(job)
    refuse_strangers(out)
    screen.step(1, _steps(job.plan), "dealing the patients to sites")
    dealt = deal(job.plan, job.source) if job.source is not None else None  # bad data cost no earlier report
    with study_folder(out):
        write_atomically(out / PLAN_FILE, (job.plan.model_dump_json(indent=2) + "\n").encode())
        prepared = settle(dealt or deal_phantoms(job.plan, out / "data"), out / "data")
        return _compare(job, prepared, out, clock, screen, started)


def _compare(job: Job, prepared: Prepared, out: Path, clock: Clock, screen: Screen, started: float) -> Report:
    plan, steps = job.plan, _steps(job.plan)
    screen.say(_data_line(prepared))

    screen.step(2, steps, "asking the teacher, distilling the student")
    mentored, cases = _mentor(plan, prepared, out, screen)
    screen.say(_teacher_line(mentored))

    runs = []
    finals: dict[str, Path] = {}
    for number, init in enumerate(plan.initialisations, 3):
        screen.step(number, steps, f"federating {len(prepared.sites)} sites from a {init} start")
        runs.append(_federate(plan, init, mentored, prepared, out, screen))
        finals[init] = out / "runs" / init / "coordinator" / "models" / runs[-1].final_model_digest

    screen.step(steps, steps, "writing the report")
    report = Report(
        created_utc=clock.now().isoformat(timespec="seconds"),
        software={"python": platform.python_version(), **{name: version(name) for name in _SOFTWARE}},
        command=job.command,
        data=prepared.facts,
        teacher=mentored.teacher,
        distil=mentored.distil,
        runs=tuple(runs),
        rounds_to_target=choose_target(runs),
        examples=draw_examples(cases, _shown_models(mentored, finals), out / "pictures"),
        total_seconds=clock.monotonic_s() - started,
    )
    write_atomically(out / REPORT_FILE, (report.model_dump_json(indent=2) + "\n").encode())
    write_html(report, out)
    return report


def _steps(plan: StudyPlan) -> int:
    return 3 + len(plan.initialisations)


def _keep_inputs(job: Job) -> None:
    """What goes in must not lie where everything is replaced."""
    for given in (job.source, job.plan.mentor.archive):
        if given is not None and given.resolve().is_relative_to(job.out.resolve()):
            raise ConfigError(f"{given} lies in {job.out}, which is to be replaced", cure="choose another folder with --out")


def _mentor(plan: StudyPlan, prepared: Prepared, out: Path, screen: Screen) -> tuple[Mentored, tuple[Case, ...]]:
    with mentoring(plan.mentor, out / "teacher", out.parent / CACHE_FOLDER) as teacher:
        card = teacher.card()
        screen.say(f"teacher {card.architecture} answers, weights {card.digest[:12]}")
        with screen.bars() as advance:
            mentored = make_initial_models(plan, teacher, prepared.proxy, out / "models", advance)
        return mentored, choose_cases(plan, teacher, prepared.sites)


def _federate(plan: StudyPlan, init: Initialisation, mentored: Mentored, prepared: Prepared, out: Path, screen: Screen) -> RunFacts:
    def told(entry: RoundReport) -> None:
        screen.scored(init, entry, plan.rounds)

    return federate(plan, init, mentored.models[init], prepared.sites, out / "runs" / init, told)


def _shown_models(mentored: Mentored, finals: dict[str, Path]) -> dict[str, Path]:
    """Captions of the report's pictures: the FM-instructed student before and after federation, the random one after it."""
    shown = {}
    if FM_INSTRUCTED in finals:
        shown = {"student before": mentored.models[FM_INSTRUCTED], "student after": finals[FM_INSTRUCTED]}
    if RANDOM in finals:
        shown["random start, after"] = finals[RANDOM]
    return shown


def _data_line(prepared: Prepared) -> str:
    facts = prepared.facts
    sites = ", ".join(f"{site} {part.train_images}+{part.held_out_images}" for site, part in facts.sites.items())
    return (
        f"{facts.images} images of {facts.patients} patients: {facts.proxy_images} in the public pool; "
        f"training + held-out images at {sites}"
    )


def _teacher_line(mentored: Mentored) -> str:
    teacher, facts = mentored.teacher, mentored.distil
    dice = f", Dice {teacher.dice:.3f} on the pool" if teacher.dice is not None else ""
    return (
        f"{facts.images} soft labels in {facts.label_seconds:.0f} s ({facts.cache_hits} from the cache){dice}; "
        f"student distilled in {facts.train_seconds:.0f} s"
    )

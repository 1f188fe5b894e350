"""``fedmentor demo`` and ``fedmentor study``: parse, call, print."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmentor.ids import MAX_SEED
from study.steps import step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from study.partition import PartitionPlan
    from study.plan import StudyPlan
    from study.report.values import Report

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=FOLDER, help="Dataset folder with images, masks and metadata.csv; phantoms are made without it.")
@click.option(
    "--out", type=FOLDER, default=Path("runs/demo"), show_default=True, help="Folder for the report and everything behind it."
)
@click.option(
    "--by", help="How patients are dealt: iid, age, quantity, or a metadata column.  [default: location for phantoms, else iid]"
)
@click.option("--sites", type=click.IntRange(1, 64), default=4, show_default=True, help="Number of sites.")
@click.option("--rounds", type=click.IntRange(1, 1000), help="Federated rounds of each run.")
@click.option("--phantoms", type=click.IntRange(16, 10_000), help="How many phantoms to make where no data are given.")
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Fixes data, start, order and training."
)
@click.option("--prompt", type=click.Choice(["central", "lungs", "mask"]), help="Where the teacher looks.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of the distillation.")
@click.option(
    "--teacher", "archive", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Archive of another teacher."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON at the end instead of a table.")
def demo(*, data: Path | None, out: Path, as_json: bool, **choices: Any) -> None:
    """Run the main job: teacher, distillation, four sites and a coordinator, from both starts.

    The student is distilled from the teacher's soft labels on a public part of the images, without their masks. Then the same
    sites train it federated, once from that start and once from random weights, as real processes over mutual TLS.
    Ends with a table, report.html and report.json.
    """
    from fed_node.cli.threads import use_threads
    from study.plan import StudyPlan

    plan = plan_of(data, StudyPlan(), choices)
    use_threads(plan.mentor.student_threads)

    from fedmentor.clock import SystemClock
    from study.demo import Job, run_study
    from study.screen import Terminal

    job = Job(plan, data, out, command=shlex.join(["fedmentor", *sys.argv[1:]]))
    report = run_study(job, SystemClock(), Terminal())
    _show(report, as_json=as_json)
    click.echo(f"done in {report.total_seconds:.0f} s: {out / 'report.html'} and {out / 'report.json'}", err=True)


@click.group()
def study() -> None:
    """Deal a dataset to sites, and look at what a study found."""


study.add_command(step)


@study.command()
@click.argument("data", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder for proxy/ and sites/SITE/; an earlier split there is replaced.")
@click.option("--by", default="iid", show_default=True, help="iid, age, quantity, or a metadata column.")
@click.option("--sites", type=click.IntRange(1, 1000), default=4, show_default=True, help="Number of sites.")
@click.option(
    "--proxy", type=click.FloatRange(0, 1, max_open=True), default=0.3, show_default=True, help="Share of the public pool."
)
@click.option(
    "--held-out", type=click.FloatRange(0, 1, max_open=True), default=0.25, show_default=True, help="Share kept for scoring."
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Fixes who goes where.")
def split(data: Path, out: Path, **choices: Any) -> None:
    """Deal DATA to sites and a public pool, by whole patients."""
    from fed_node.data.dataset import open_dataset
    from study.partition import plan_sites
    from study.prepare import refuse_faults, write_split

    plan = _partition(choices)
    refuse_faults(data)
    dataset = open_dataset(data)
    dealt = plan_sites(dataset, plan)
    write_split(dataset, dealt, out)
    if dealt.proxy:
        click.echo(f"proxy: {len(dealt.proxy)} images")
    for site, ids in dealt.sites.items():
        click.echo(f"{site}: {len(ids.train)} training and {len(ids.held_out)} held-out images")


@study.command()
@click.argument("report", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole report as JSON.")
def show(report: Path, *, as_json: bool) -> None:
    """Show the table of a REPORT (report.json) again."""
    from study.report.values import load_report

    _show(load_report(report), as_json=as_json)


@study.command()
@click.argument("report", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="SVG file to write.")
def figure(report: Path, out: Path) -> None:
    """Draw the learning curves of a REPORT (report.json) as a picture for a page, a slide or a paper."""
    from study.report.figure import write_figures
    from study.report.values import load_report

    for path in write_figures(load_report(report), out):
        click.echo(path)


def _partition(choices: Mapping[str, Any]) -> PartitionPlan:
    """Options as a plan; click's ranges let NaN through.

    Raises:
        ConfigError: one is out of range.
    """
    from pydantic import ValidationError

    from fedmentor.errors import ConfigError
    from fedmentor.settings import first_fault
    from study.partition import PartitionPlan

    try:
        return PartitionPlan(**choices)
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(f"{fault.option}: {fault.message}") from error


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    from rich.console import Console

    from study.report.table import print_comparison

    print_comparison(report, Console())


def plan_of(data: Path | None, plan: StudyPlan, choices: Mapping[str, Any]) -> StudyPlan:
    """The plan with what the command line says; phantoms know their hospital, so it deals them."""
    given = {name: value for name, value in choices.items() if value is not None}
    partition = {"by": given.get("by", "iid" if data else "location"), "sites": given["sites"]}
    mentor: dict[str, Any] = {name: given[name] for name in ("prompt", "epochs", "archive") if name in given}
    changed = plan.model_copy(
        update={
            "partition": plan.partition.model_copy(update=partition),
            "mentor": plan.mentor.model_copy(update=mentor),
            "rounds": given.get("rounds", plan.rounds),
            "phantoms": given.get("phantoms", plan.phantoms),
            "quorum": min(plan.quorum, given["sites"]),
        }
    )
    return changed.seeded(given["seed"])

"""``fedmentor data``: check a dataset folder, import a public one, make phantoms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedmentor.errors import EXIT_CONFIG
from fedmentor.ids import MAX_SEED

if TYPE_CHECKING:
    from fed_node.data.check import Report
    from fed_node.data.covid_cxr import ImportReport

Item = TypeVar("Item")

FOLDER = click.Path(path_type=Path, file_okay=False)
IN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
REPLACE = "Replace even a dataset folder that this program did not make."
IN_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def data() -> None:
    """Check, import and generate dataset folders (images/, masks/, metadata.csv)."""


@data.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--require", multiple=True, metavar="COLUMN", help="A metadata column that must exist; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def check(context: click.Context, folder: Path, require: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Name every bad file in DIR and why; exit code 3 if there is one.

    Of a PACS export (no metadata.csv, DICOM files anywhere) everything that is not used is counted; exit code 3 if nothing is.
    """
    from fed_node.data.check import check_dataset
    from fed_node.data.site import is_export

    if is_export(folder):
        context.exit(_check_export(folder, as_json=as_json))
    report = check_dataset(folder, required=require, progress=lambda ids: _tracked(ids, "checking"))
    click.echo(_check_json(report)) if as_json else _print_check(report, folder)
    context.exit(0 if report.good else EXIT_CONFIG)


@data.group(name="import")
def import_() -> None:
    """Build a dataset folder from a public source's own formats."""


@import_.command(name="covid-cxr")
@click.option("--annotations", required=True, type=IN_FOLDER, help="V7's folder of Darwin JSON files.")
@click.option("--images", required=True, type=IN_FOLDER, help="The images/ folder of the COVID-19 Image Data Collection.")
@click.option("--metadata", required=True, type=IN_FILE, help="The metadata.csv of the COVID-19 Image Data Collection.")
@click.option("--out", required=True, type=FOLDER, help="Dataset folder to make.")
@click.option("--side", default=256, show_default=True, help="Side of the square images, pixels.")
@click.option("--licence", "licences", multiple=True, metavar="NAME", help="Take only images of these licences; may be repeated.")
@click.option("--replace", is_flag=True, help=REPLACE)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def covid_cxr(out: Path, side: int, licences: tuple[str, ...], *, replace: bool, as_json: bool, **sources: Path) -> None:
    """Chest X-rays with human lung masks: COVID-19 Image Data Collection and V7's polygons.

    By default images under CC BY, CC BY-NC-SA, or 'listed as authorized for everyone' are taken.
    """
    from fed_node.data.covid_cxr import LICENCES, Sources, import_covid_cxr

    report = import_covid_cxr(
        Sources(**sources),
        out,
        side=side,
        licences=licences or LICENCES,
        progress=lambda files: _tracked(files, "importing"),
        replace=replace,
    )
    _print_import(report, out, as_json=as_json)


@data.command()
@click.option("--out", required=True, type=FOLDER, help="Dataset folder to make.")
@click.option("--count", default=200, show_default=True, help="Number of images.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, MAX_SEED), help="Same seed, same pixels.")
@click.option("--side", default=256, show_default=True, help="Side of the square images, pixels.")
@click.option("--replace", is_flag=True, help=REPLACE)
def phantoms(out: Path, count: int, seed: int, side: int, *, replace: bool) -> None:
    """Draw synthetic chest X-rays with lung masks and metadata; for demonstrations, not for science."""
    from fed_node.data.phantom import write_phantoms

    ids = write_phantoms(out, count, seed, side, progress=lambda series: _tracked(series, "drawing", count), replace=replace)
    click.echo(f"{len(ids)} phantoms in {out}")


def _tracked(items: Iterable[Item], label: str, total: int | None = None) -> Iterator[Item]:
    """Show progress on standard error: a bar on a terminal, a line every tenth elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    count = total if total is not None else len(items) if isinstance(items, Sequence) else None
    if console.is_terminal:
        yield from track(items, label, total=count, console=console, transient=True)
        return
    every = max(1, (count or 1000) // 10)
    for number, item in enumerate(items, 1):
        yield item
        if number % every == 0 and number != count:
            click.echo(f"{label}: {number}" + (f" of {count}" if count else ""), err=True)


def _check_export(folder: Path, *, as_json: bool) -> int:
    import secrets

    from fed_node.data.check import unreadable_samples
    from fed_node.data.export_rules import ExportRules
    from fed_node.data.identifiers import Pseudonyms
    from fed_node.data.pacs_export import export_samples, survey_export

    # Names under a key of the moment are enough to count patients with.
    pseudonyms = Pseudonyms(secrets.token_bytes(32))
    export = survey_export(folder, pseudonyms, ExportRules(), lambda files: _tracked(files, "reading headers"))
    samples = export_samples(folder, export)
    counts: dict[str, Any] = {
        "files": export.files,
        "images": len(export.pictures),
        "masks": export.masks,
        "patients": export.patients,
        "skipped": {reason.value: count for reason, count in export.skipped.items()},
        "identifying": dict(sorted(export.identifying.items())),
        "burned_in": dict(export.burned_in),
        "unreadable": unreadable_samples(samples, lambda pictures: _tracked(pictures, "reading pixels")),
    }
    click.echo(json.dumps(counts, indent=2)) if as_json else _print_export(counts, folder)
    return 0 if len(export.pictures) > len(counts["unreadable"]) else EXIT_CONFIG


def _print_export(counts: dict[str, Any], folder: Path) -> None:
    from rich.console import Console

    rows = [(reason, str(count)) for name in ("skipped", "identifying") for reason, count in counts[name].items()]
    split = len(counts["skipped"])
    Console().print(_table(("not used", "files"), rows[:split]), _table(("attribute that identifies", "files"), rows[split:]))
    for message in counts["unreadable"]:
        click.echo(f"unreadable: {message}")
    burned = ", ".join(f"{answer} in {count}" for answer, count in sorted(counts["burned_in"].items()))
    click.echo(f"letters burned into the picture, as the files say: {burned or 'no picture'}")
    click.echo(f"{folder}: {counts['images']} usable radiographs of {counts['patients']} patients, {counts['masks']} with a mask")


def _check_json(report: Report) -> str:
    return json.dumps(
        {
            "good": report.good,
            "images": report.images,
            "masks": report.masks,
            "patients": report.patients,
            "findings": [vars(finding) for finding in report.findings],
            "notes": list(report.notes),
        },
        indent=2,
        ensure_ascii=False,
    )


def _print_check(report: Report, folder: Path) -> None:
    from rich.console import Console

    if report.findings:
        rows = [(finding.file, finding.code, finding.reason) for finding in report.findings]
        Console().print(_table(("file", "problem", "reason"), rows))
    for note in report.notes:
        click.echo(f"note: {note}")
    verdict = "nothing is wrong" if report.good else f"{len(report.findings)} problems"
    click.echo(f"{folder}: {report.images} usable images, {report.masks} with masks, {report.patients} patients; {verdict}")


def _print_import(report: ImportReport, out: Path, *, as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        skipped = [vars(item) for item in report.skipped]
        click.echo(json.dumps({"written": report.written, "skipped": skipped}, indent=2, ensure_ascii=False))
        return
    if report.skipped:
        Console().print(_table(("skipped", "reason"), [(item.file, item.reason) for item in report.skipped]))
    click.echo(f"{report.written} images in {out}, {len(report.skipped)} skipped")


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> object:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text, so that brackets in file names are not taken for markup
    return table

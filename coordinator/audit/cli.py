"""``fedmentor audit``: check, show and export the audit trail of a run. Offline; works beside a running coordinator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fedmentor.audit.chain import AuditRecord
    from fedmentor.audit.review import Review

_SOURCE = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def audit() -> None:
    """Check, show and export the audit trail of a run.

    SOURCE is a coordinator's state folder or a file from `fedmentor audit export`.
    """


@audit.command()
@click.argument("source", type=_SOURCE)
@click.option(
    "--certificates", type=_FOLDER, help="Folder with ca.pem, roster.json and roster.sig; without it no signature counts."
)
@click.option("--checkpoints", "notes", type=_FILE, multiple=True, help="Checkpoints that were noted elsewhere, e.g. at a site.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify(source: Path, certificates: Path | None, notes: tuple[Path, ...], *, as_json: bool) -> int:
    """Check a run's audit trail and everybody's signatures under it.

    Names the first record or signature that does not hold. Only checkpoints from elsewhere show that a trail was cut or replaced
    together with all its signatures: take them from a site (`fedmentor node checkpoint`).

    \b
    Exit codes: 0 everything holds; 2 usage; 3 something does not hold, or it is no audit trail;
    4 the roster is not signed by the authority; 70 the disk failed.
    """
    from coordinator.audit.reading import read_checkpoints, read_trail
    from fedmentor.audit.keys import read_audit_keys
    from fedmentor.audit.review import review
    from fedmentor.errors import EXIT_CONFIG, EXIT_OK

    keys = None if certificates is None else read_audit_keys(certificates)
    trail = read_trail(source)
    noted = [checkpoint for file in notes for checkpoint in read_checkpoints(file, trail.run)]
    found = review(trail, keys, noted)
    if as_json:
        click.echo(json.dumps(_as_json(trail.run, found), indent=2))
    else:
        _show_review(trail.run, found)
    return EXIT_OK if found.sound else EXIT_CONFIG


@audit.command()
@click.argument("source", type=_SOURCE)
@click.option("--site", metavar="ID", help="Only what this site did.")
@click.option("--event", metavar="NAME", help="Only this event, e.g. accept_update.")
@click.option("--round", "round_", type=int, metavar="N", help="Only this round.")
@click.option("--json", "as_json", is_flag=True, help="The records as they are chained, one JSON object a line.")
def show(source: Path, site: str | None, event: str | None, round_: int | None, *, as_json: bool) -> None:
    """Show the records of a run's audit trail. Does not check them: see `fedmentor audit verify`."""
    from coordinator.audit.reading import read_trail
    from fedmentor.audit.chain import record_to_line, values_of
    from fedmentor.audit.vocabulary import site_actor
    from fedmentor.ids import site_id

    actor = None if site is None else site_actor(site_id(site))
    chosen = [
        record
        for record in read_trail(source).records
        if actor in (None, record.actor) and event in (None, record.event) and round_ in (None, values_of(record).get("round"))
    ]
    if as_json:
        for record in chosen:
            click.echo(record_to_line(record))
    else:
        _show_records(chosen)


@audit.command()
@click.argument("source", type=_SOURCE)
@click.argument("file", type=_FILE)
def export(source: Path, file: Path) -> None:
    """Write a run's audit trail into one FILE that can be checked without the database.

    JSON lines: every record, every checkpoint, every countersignature. There is no patient data in it.
    """
    from coordinator.audit.reading import read_trail, write_export

    trail = read_trail(source)
    write_export(trail, file)
    counts = f"{len(trail.records)} records, {len(trail.checkpoints)} checkpoints, {len(trail.countersignatures)} countersignatures"
    click.echo(f"{file}: run {trail.run}, {counts}")


def _as_json(run: str, found: Review) -> dict[str, object]:
    return {
        "run": run,
        "sound": found.sound,
        "reason": found.fault.reason if found.fault else "",
        "record": found.fault.record if found.fault else None,
        "records": found.head.records,
        "head": found.head.hash,
        "checkpoints": list(found.checkpoints),
        "countersigned": {str(records): list(sites) for records, sites in found.countersigned.items()},
        "open_records": found.open_records,
        "signatures_checked": found.signatures_checked,
        "noted_elsewhere": found.noted,
    }


def _show_review(run: str, found: Review) -> None:
    if found.fault is not None:
        click.echo(f"run {run}: DOES NOT HOLD: {found.fault.reason}")
        if found.fault.record is not None:
            click.echo(f"first bad record: {found.fault.record}")
        click.echo(f"chained without a gap: {found.head.records} records")
        return
    click.echo(f"run {run}: {found.head.records} records, chained without a gap; head {found.head.hash}")
    checked = "signed by the coordinator" if found.signatures_checked else "SIGNATURES NOT CHECKED: give --certificates"
    click.echo(f"checkpoints: {len(found.checkpoints)}, {checked}")
    for records in found.checkpoints:
        sites = found.countersigned.get(records, ())
        click.echo(f"  {records:>8} records: countersigned by {len(sites)} sites{': ' if sites else ''}{', '.join(sites)}")
    if found.noted:
        click.echo(f"noted elsewhere: {found.noted} checkpoints, all reached")
    if found.open_records:
        click.echo(f"{found.open_records} records follow the newest checkpoint: chained, but not under anybody's signature yet")


def _show_records(records: list[AuditRecord]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from fedmentor.audit.chain import values_of
    from fedmentor.text import one_line

    table = Table(box=None, pad_edge=False)
    table.add_column("record", justify="right", no_wrap=True)
    for name in ("when (UTC)", "actor", "event"):
        table.add_column(name, no_wrap=True)
    table.add_column("what", overflow="fold")
    for record in records:
        values = "  ".join(f"{name}={_short(value)}" for name, value in sorted(values_of(record).items()))
        # A Text has no markup, and one_line no control characters: what a record says can do nothing to the terminal.
        cells = (str(record.seq), record.utc[:19], record.actor, record.event, values)
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    Console(width=None if Console().is_terminal else 160).print(table)


def _short(value: object) -> str:
    text = str(value)
    digest = len(text) == 64 and all(char in "0123456789abcdef" for char in text)
    return text[:12] if digest else text

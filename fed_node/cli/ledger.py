"""``fedmentor node ledger``: what was spent of the patients' privacy budget, and on what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fed_node.ledger.report import LedgerReport


@click.command()
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), required=True, help="The node's state folder.")
@click.option(
    "--anchor", type=click.Path(dir_okay=False, path_type=Path), help="File that notes the ledger's head; checked against it."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def ledger(state: Path, anchor: Path | None, *, as_json: bool) -> None:
    """Check this site's privacy ledger and show what was spent on what.

    Works beside a running node and changes nothing.

    \b
    Exit codes: 0 the ledger is sound; 2 usage; 3 there is none, or it was changed;
    4 it is behind the anchor; 70 it cannot be read.
    """
    from fed_node.dp import prv_epsilon
    from fed_node.ledger.report import read_report
    from fed_node.ledger.sqlite import FileAnchor, SqliteStore

    store = SqliteStore(state, read_only=True)
    try:
        noted = FileAnchor(anchor).read() if anchor is not None else None
        report = read_report(store.load(), prv_epsilon, [] if noted is None else [noted])
    finally:
        store.close()
    if as_json:
        click.echo(json.dumps(report.json(), indent=2))
    else:
        show(report)


def show(report: LedgerReport) -> None:
    """Print the table and the totals."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("entry", "run", "round", "patients", "noise", "sampling", "steps", "state", "epsilon after", "when"):
        table.add_column(name, justify="left" if name in {"run", "state", "when"} else "right")
    for item in report.lines:
        segment = item.segment
        how = (f"{segment.noise_multiplier:.4g}", f"{segment.sampling_rate:.4g}", str(segment.steps))
        where = (str(item.number), item.run, str(item.round), str(report.state.cohorts[item.cohort]))
        stage = "released" if item.released else item.stage.value
        table.add_row(*where, *how, stage, f"{item.cost.epsilon:.3f} ({item.cost.accountant})", item.utc[:19])
    Console(width=132).print(table)
    budget, spent = report.budget, report.spent
    click.echo(
        f"spent: epsilon {spent.epsilon:.3f} of {budget.epsilon:g} at delta {budget.delta:g} ({spent.accountant}), "
        f"for the {budget.unit} who was charged most of {report.patients}"
    )
    click.echo(f"chain: {report.head.records} records, sound; head {report.head.hash}")

"""What a study shows on a terminal: numbered steps, bars, one line a round. On standard error, so that ``--json`` stays clean."""

from __future__ import annotations

from contextlib import AbstractContextManager

import click

from coordinator.report import RoundReport, round_line
from fed_node.cli.progress import Advance, progress_lines
from study.plan import Initialisation


class Terminal:
    """Implements study.demo.Screen."""

    def step(self, number: int, total: int, what: str) -> None:
        """See Screen."""
        click.secho(f"[{number}/{total}] {what}", bold=True, err=True)

    def say(self, line: str) -> None:
        """See Screen."""
        click.echo(f"      {line}", err=True)

    def bars(self) -> AbstractContextManager[Advance]:
        """See Screen."""
        return progress_lines()

    def scored(self, init: Initialisation, entry: RoundReport, rounds: int) -> None:
        """See Screen."""
        click.echo(f"      {init:>13}  {round_line(entry, rounds)}", err=True)

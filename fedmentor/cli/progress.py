"""Progress on standard error: a bar on a terminal, an occasional line elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

Advance = Callable[[str, int, int, str], None]
"""(label, done, total, note): where the work named ``label`` stands."""

LINES = 10
"""About how many lines a log gets for each piece of work."""


@contextmanager
def progress_lines() -> Iterator[Advance]:
    """A function to call after every step; a bar for each label, in the order in which they first appear."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def advance(label: str, done: int, total: int, note: str) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total, note="")
            bars.update(tasks[label], completed=done, note=note)

        yield advance


def _line(label: str, done: int, total: int, note: str) -> None:
    every = max(1, total // LINES)
    if done % every == 0 or done == total:
        click.echo(f"{label}: {done} of {total}{f', {note}' if note else ''}", err=True)

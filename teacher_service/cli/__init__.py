"""``fedmentor teacher``: its commands parse, call and print."""

from __future__ import annotations

import click

from teacher_service.cli.asking import query
from teacher_service.cli.batch import batch
from teacher_service.cli.playground import playground
from teacher_service.cli.serving import architectures, build, convert, serve, status, stop


@click.group()
def teacher() -> None:
    """The foundation model that mentors: serve it, ask it for soft labels."""


for command in (architectures, convert, build, serve, status, query, batch, playground, stop):
    teacher.add_command(command)

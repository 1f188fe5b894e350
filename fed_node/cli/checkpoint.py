"""``fedmentor node checkpoint``: what this site has witnessed of the coordinator's audit trail, to hold others' copies against."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click


@click.command()
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), required=True, help="The node's state folder.")
def checkpoint(state: Path) -> None:
    """Print the newest checkpoint of every run that this site has verified, one JSON object a line.

    Each is signed by the coordinator. Redirected into a file, it is what `fedmentor audit verify --checkpoints` takes.
    Works beside a running node and changes nothing.

    \b
    Exit codes: 0 done; 2 usage; 3 this site has witnessed nothing; 70 its memory cannot be read.
    """
    from fed_node.witness_store import SqliteWitnessStore
    from fedmentor.audit.export import checkpoint_to_line
    from fedmentor.errors import DataError

    with closing(SqliteWitnessStore(state, read_only=True)) as store:
        found = store.checkpoints()
    if not found:
        raise DataError("this site has not witnessed a checkpoint yet", cure="wait until a round is published")
    for signed in found:
        click.echo(checkpoint_to_line(signed))

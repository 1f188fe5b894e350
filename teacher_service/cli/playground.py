"""``fedmentor teacher playground``: the page to try a teacher."""

from __future__ import annotations

from typing import Any

import click

from fedmentor.errors import PortInUse
from teacher_service.cli.batch import asked_client
from teacher_service.cli.options import asked_options, waiting


@click.command()
@click.option("--page-port", type=click.IntRange(0, 65535), default=0, help="Port of the page on 127.0.0.1. Left out: a free one.")
@asked_options
def playground(page_port: int, **options: Any) -> None:
    """Serve a page to try the teacher: drop an image, draw a box, see the soft mask. Ctrl-C ends it."""
    from teacher_service.playground import HOST, PlaygroundServer

    with asked_client(options) as client:
        with waiting("asking the teacher who it is"):
            card = client.card()
        try:
            server = PlaygroundServer(client, page_port)
        except OSError as error:
            raise PortInUse(f"port {page_port} on {HOST} is in use", cure="choose another port, or none for a free one") from error
        with server:
            click.echo(f"{card.architecture} {card.digest[:12]}: open {server.url} in a browser; Ctrl-C ends")
            server.serve_forever()

"""``fedmentor teacher playground``: the page to try a teacher."""

from __future__ import annotations

import threading
from typing import Any

import click

from teacher_service.cli.batch import asked_client
from teacher_service.cli.options import asked_options, waiting


@click.command()
@click.option("--page-port", type=click.IntRange(0, 65535), default=0, help="Port of the page on 127.0.0.1. Left out: a free one.")
@asked_options
def playground(page_port: int, **options: Any) -> None:
    """Serve a page to try the teacher: drop an image, draw a box, see the soft mask. Ctrl-C ends it."""
    from fedmentor.pages.hosts import LOOPBACK
    from fedmentor.pages.server import serving
    from teacher_service.playground import playground as pages

    with asked_client(options) as client:
        with waiting("asking the teacher who it is"):
            card = client.card()
        with serving((LOOPBACK, page_port), pages(client, lambda private: click.echo(private, err=True))) as url:
            click.echo(f"{card.architecture} {card.digest[:12]}: open {url} in a browser; Ctrl-C ends")
            threading.Event().wait()

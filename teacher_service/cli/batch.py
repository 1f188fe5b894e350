"""``fedmentor teacher batch``: soft labels for a whole folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmentor.cli.progress import progress_lines
from fedmentor.disk import check_writable
from fedmentor.errors import EmptyDataset
from teacher_service.cli.asking import endpoint_of
from teacher_service.cli.options import FOLDER, IN_FOLDER, as_json_option, asked_options, check_place, compute_of

if TYPE_CHECKING:
    from fedmentor.teacher.client import TeacherClient
    from teacher_service.batch import BatchResult


@click.command()
@click.argument("data", type=IN_FOLDER, metavar="DATA")
@click.option(
    "--prompt",
    metavar="KIND|FILE",
    default="central",
    show_default=True,
    help="central, lungs, whole; mask or mask:PIXELS, the box around masks/ID.png and a margin; or a table, .csv or .jsonl.",
)
@click.option("--cache", type=FOLDER, help="Folder of soft labels.  [default: ~/.cache/fedmentor/soft-labels]")
@click.option("--embeddings", type=FOLDER, help="Keep embeddings in this folder as well.")
@click.option("--keep-colour", is_flag=True, help="Ask about colour as colour; a student's images are grey.")
@click.option("--in-flight", type=click.IntRange(1, 64), default=2, show_default=True, help="Questions at a time.")
@asked_options
@as_json_option
def batch(data: Path, cache: Path | None, embeddings: Path | None, **options: Any) -> None:
    """Ask the teacher about every image of the folder DATA and keep its answers.

    A table has a column id, the file's name without its ending, and x0,y0,x1,y1 for boxes or x,y,label for clicks; or a line of
    JSON for each image: {"id": …, "boxes": …, "points": …}. An image that it does not name is left out.

    What is known already is skipped, so an interrupted batch goes on where it stopped. 'fedmentor distil --stored' then learns from
    the answers without any teacher running.
    """
    from fedmentor.teacher.cache import FolderStore, default_cache
    from teacher_service.batch import Batch, BatchOptions, pictures_of
    from teacher_service.batch_prompts import prompt_rule
    from teacher_service.embedding_store import EmbeddingStore

    root = cache or default_cache()
    for folder in (root, *([embeddings] if embeddings else [])):
        check_writable(folder)
    chosen = BatchOptions(prompt_rule(options["prompt"]), options["in_flight"], options["keep_colour"])
    pictures = pictures_of(data)
    if strangers := sorted(set(chosen.rule.ids) - {path.stem for path in pictures}):
        click.echo(f"{options['prompt']} names {len(strangers)} images that {data} lacks; the first is {strangers[0]!r}", err=True)
    with asked_client(options) as client, progress_lines() as advance:
        work = Batch(client, FolderStore(root), chosen, EmbeddingStore(embeddings) if embeddings else None)

        def told(done: int, total: int, fault: str) -> None:
            if fault:
                click.echo(f"left out {fault}", err=True)
            advance("images", done, total, "")

        result = work.run(pictures, told)
    _print(result, root, as_json=options["as_json"])
    if len(result.failures) == len(pictures):
        raise EmptyDataset(f"no image in {data} could be labelled", cure="see the reasons above")


@contextlib.contextmanager
def asked_client(options: dict[str, Any]) -> Iterator[TeacherClient]:
    """A client of the teacher that the options name, in this process or elsewhere."""
    from fedmentor.teacher.client import TeacherClient, TorchServeTeacher

    check_place(options)
    if not options["local"]:
        with TorchServeTeacher(endpoint_of(options)) as client:
            yield client
        return
    from teacher_service.door import InProcessDoor
    from teacher_service.local import local_teacher

    yield TeacherClient(InProcessDoor(local_teacher(options["weights"], compute=compute_of(options))))


def _print(result: BatchResult, root: Path, *, as_json: bool) -> None:
    if as_json:
        facts = {"asked": result.asked, "known": result.known, "left_out": dict(result.failures), "cache": str(root)}
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(
        f"{result.asked} images asked about, {result.known} known already, {len(result.failures)} left out; labels in {root}"
    )

"""``fedmentor teacher query``, and how every command finds the teacher it asks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmentor.disk import check_writable
from fedmentor.errors import ConfigError, PromptRefused
from fedmentor.teacher.endpoint import Endpoint, read_endpoint
from teacher_service.cli.options import FILE, NEW_FILE, as_json_option, asked_options, check_place, compute_of, waiting

if TYPE_CHECKING:
    from fedmentor.teacher.contract import Box, Point, Prompt, SoftLabels, Teacher
    from fedmentor.teacher.images import View


@click.command()
@click.argument("image", type=FILE)
@click.option("--box", "boxes", multiple=True, metavar="x0,y0,x1,y1", help="A box in pixels; one object each; repeatable.")
@click.option("--point", "points", multiple=True, metavar="x,y,label", help="A click: label 1 inside, 0 outside; repeatable.")
@click.option(
    "--auto", type=click.Choice(["central", "lungs", "whole"]), help="A fixed prompt instead; the first two for chest X-rays."
)
@click.option("--answer", type=NEW_FILE, help="Write the answer: FILE.safetensors (logits) or FILE.json (masks as PNG).")
@click.option("--overlay", type=NEW_FILE, help="Write a picture of the answer (PNG).")
@click.option("--frame", type=click.IntRange(0), help="Of a multi-frame DICOM file, from 0.")
@click.option("--window", metavar="low,high", help="Values of a file with more than 8 bits that become black and white.")
@asked_options
@as_json_option
def query(image: Path, **options: Any) -> None:
    """Ask the teacher about an IMAGE (PNG, JPEG, DICOM or NumPy): numbers, and a picture with --overlay."""
    from fedmentor.teacher.images import read_image  # keeps PIL out of --help

    _check_outputs(image, options["answer"], options["overlay"])
    pixels = read_image(image.read_bytes(), _view(options))
    prompt = _prompt(options, (pixels.shape[0], pixels.shape[1]))
    with asked_teacher(options) as asked, waiting("asking the teacher"):
        soft = asked.soften(pixels, prompt)
    if options["answer"]:
        _write_answer(options["answer"], soft)
    if options["overlay"]:
        from fedmentor.models import write_atomically  # keeps numpy out of --help
        from fedmentor.teacher.images import png_bytes  # keeps PIL out of --help
        from teacher_service.overlay import overlay  # keeps PIL out of --help

        write_atomically(options["overlay"], png_bytes(overlay(pixels, soft)))
    _print_answer(soft, as_json=options["as_json"])


def _view(options: dict[str, Any]) -> View:
    from fedmentor.teacher.images import View  # keeps PIL out of --help

    if options["window"] is None:
        return View(options["frame"])
    low, high = _numbers(options["window"], 2, "a window is low,high, e.g. -160,240")
    if not low < high:
        raise PromptRefused(f"the window {options['window'][:60]!r} is upside down or empty", cure="give low,high with low < high")
    return View(options["frame"], (low, high))


def _prompt(options: dict[str, Any], size: tuple[int, int]) -> Prompt:
    from fedmentor.teacher.contract import Prompt  # keeps PIL out of --help
    from fedmentor.teacher.prompts import AUTOMATIC  # keeps PIL out of --help

    boxes = tuple(_box(text) for text in options["boxes"])
    points = tuple(_point(text) for text in options["points"])
    if options["auto"]:
        if boxes or points:
            raise PromptRefused("--auto does not go together with --box or --point")
        boxes = AUTOMATIC[options["auto"]](size)
    return Prompt(boxes, points)


def _box(text: str) -> Box:
    from fedmentor.teacher.contract import Box  # keeps PIL out of --help

    return Box(*_numbers(text, 4, "a box is x0,y0,x1,y1, e.g. 20,20,235,235"))


def _point(text: str) -> Point:
    from fedmentor.teacher.contract import Point  # keeps PIL out of --help

    form = "a point is x,y,label, e.g. 80,120,1"
    x, y, label = _numbers(text, 3, form)
    if label not in (0, 1):
        raise PromptRefused(f"{text[:60]!r} is not a prompt: {form}; the label is 1 inside and 0 outside")
    return Point(x, y, int(label))


def _numbers(text: str, count: int, form: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PromptRefused(f"{text[:60]!r} is not a prompt: {form}") from error
    if len(values) != count:
        raise PromptRefused(f"{text[:60]!r} is not a prompt: {form}")
    return values


def endpoint_of(options: dict[str, Any]) -> Endpoint:
    """The server that the options name.

    Raises:
        ConfigError: one option without the other that it needs.
        TeacherUnreachable: none runs in the folder.
    """
    if bool(options["url"]) != bool(options["key_file"]):
        raise ConfigError("--url and --key-file go together")
    if options["url"]:
        return Endpoint(options["url"], options["key_file"], options["ca_file"])
    return read_endpoint(options["run_dir"])


@contextlib.contextmanager
def asked_teacher(options: dict[str, Any]) -> Iterator[Teacher]:
    """The teacher that the options name; starts nothing."""
    check_place(options)
    if options["local"]:
        from teacher_service.local import local_teacher  # keeps torch out of --help

        yield local_teacher(options["weights"], compute=compute_of(options))
        return
    from fedmentor.teacher.client import TorchServeTeacher  # keeps httpx out of --help

    with TorchServeTeacher(endpoint_of(options)) as client:
        yield client


def _check_outputs(image: Path, answer: Path | None, overlay: Path | None) -> None:
    """Before the teacher is asked: what would be written, and whether it could be."""
    if answer is not None and answer.suffix not in (".safetensors", ".json"):
        raise ConfigError(f"{answer} ends in neither .safetensors nor .json")
    for path in (answer, overlay):
        if path is not None:
            check_writable(path.parent)
            if path.exists() and path.samefile(image):
                raise ConfigError(f"{path} is the image itself", cure="give another file")


def _write_answer(path: Path, soft: SoftLabels) -> None:
    from fedmentor.models import write_atomically  # keeps numpy out of --help
    from fedmentor.teacher.contract import Answer  # keeps numpy out of --help
    from fedmentor.teacher.payload import encode_answer  # keeps numpy out of --help
    from teacher_service.payload import readable  # keeps numpy out of --help

    write_atomically(path, json.dumps(readable(Answer(soft)), indent=1).encode() if path.suffix == ".json" else encode_answer(soft))


def _print_answer(soft: SoftLabels, *, as_json: bool) -> None:
    from teacher_service.payload import object_numbers  # keeps numpy out of --help

    numbers = [object_numbers(soft, index) for index in range(len(soft.logits))]
    if as_json:
        facts = {"teacher": soft.teacher.to_json(), "image_digest": soft.image_digest, "prompt": soft.prompt.to_json()}
        click.echo(json.dumps({**facts, "objects": numbers, "timings_ms": dict(soft.timings_ms)}, indent=1))
        return
    from rich.console import Console  # keeps rich out of --help
    from rich.table import Table  # keeps rich out of --help

    table = Table("object", *(name.replace("_", " ") for name in numbers[0]))
    for index, row in enumerate(numbers, start=1):
        table.add_row(str(index), *(str(value) for value in row.values()))
    Console().print(table)
    card = soft.teacher
    click.echo(f"teacher {card.architecture}, digest {card.digest[:16]}, pre-processing {card.preprocessing}")
    click.echo(f"image   {soft.image_size[1]}x{soft.image_size[0]}, digest {soft.image_digest[:16]}")
    click.echo("timing  " + ", ".join(f"{name} {value:g}" for name, value in soft.timings_ms.items()) + " (ms; cached 1 = yes)")

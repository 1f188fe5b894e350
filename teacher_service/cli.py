"""``fedmentor teacher``: convert, build, serve, status, query, stop. Parses, calls, prints."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmentor.disk import check_writable
from fedmentor.errors import ConfigError, PromptRefused
from fedmentor.ids import Digest, digest
from fedmentor.teacher.endpoint import DEFAULT_RUN_FOLDER, STATE_FILE, Endpoint, read_endpoint

if TYPE_CHECKING:
    from fedmentor.teacher.contract import Box, Point, Prompt, SoftLabels, Teacher
    from teacher_service.server import Server

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


def _digest(text: str) -> Digest:
    try:
        return digest(text)
    except ConfigError as error:
        raise click.BadParameter(error.message) from error


_run_folder = click.option(
    "--run-dir", type=_FOLDER, default=DEFAULT_RUN_FOLDER, show_default=True, help="Folder with the server's state, token and logs."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.group()
def teacher() -> None:
    """The foundation model that mentors: serve it, ask it for soft labels."""


@teacher.command()
@click.argument("checkpoint", type=_FILE)
@click.option("--out", type=_NEW_FILE, required=True, help="The safetensors file to write.")
@click.option("--architecture", help="Refuse any other architecture than this one.")
def convert(checkpoint: Path, out: Path, architecture: str | None) -> None:
    """Turn an official CHECKPOINT (.pth) into safetensors; nothing in the file is run."""
    from teacher_service.convert import convert as convert_file  # keeps torch out of --help

    check_writable(out.parent)
    name, digest = convert_file(checkpoint, out, architecture)
    click.echo(f"{out}: {name}, digest {digest}")


@teacher.command()
@click.option("--weights", type=_FILE, help="What 'convert' wrote. Left out: LiteMedSAM as installed.")
@click.option("--out", type=_NEW_FILE, required=True, help="The .mar file to write.")
def build(weights: Path | None, out: Path) -> None:
    """Pack converted weights into a model archive (.mar) for TorchServe."""
    from tempfile import TemporaryDirectory  # beside its only use

    from teacher_service.archive import build_archive  # keeps torch out of --help
    from teacher_service.convert import convert_bundled  # keeps torch out of --help
    from teacher_service.weights import file_sha256  # keeps torch out of --help

    check_writable(out.parent)
    with TemporaryDirectory() as folder:
        if weights is None:
            weights = Path(folder) / "weights.safetensors"
            convert_bundled(weights)
        build_archive(weights, out)
    click.echo(f"{out}: {out.stat().st_size} bytes, SHA-256 {file_sha256(out)}")


@teacher.command()
@click.option("--archive", type=_FILE, help="What 'build' wrote. Left out: LiteMedSAM as installed.")
@_run_folder
@click.option("--port", type=click.IntRange(1, 65535), help="Port. Left out: a free one.")
@click.option(
    "--host",
    type=click.Choice(["127.0.0.1", "0.0.0.0"]),  # noqa: S104  # chosen by the operator, for a container on a private network
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Nothing is encrypted: 0.0.0.0 is for a container on a private network.",
)
@click.option("--tls", is_flag=True, help="Encrypt REST and gRPC with a certificate made for this start.")
@click.option("--archive-sha256", type=_digest, help="Refuse any other archive than the one with this SHA-256.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Arithmetic threads of the worker.")
@click.option("--heap-mb", type=click.IntRange(64, 65536), default=256, show_default=True, help="Heap of the Java front end.")
def serve(archive: Path | None, run_dir: Path, **choices: Any) -> None:
    """Serve a teacher on this machine until Ctrl-C."""
    from teacher_service.server import ServerConfig, serving  # keeps torch out of --help

    if choices["archive_sha256"] is not None and archive is None:
        raise ConfigError("--archive-sha256 needs --archive")
    config = ServerConfig(run_dir, archive=archive, **choices)
    if os.geteuid() == 0:
        click.echo("warning: TorchServe runs as root; serve as an ordinary user", err=True)
    with _status("starting TorchServe"), contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(config))
        running = stack.pop_all()
    with running:
        card = server.card
        click.echo(f"{card.architecture} {card.digest[:12]} answers at {server.endpoint.url}/predictions/teacher")
        click.echo(f"token in {server.endpoint.key_file}; logs in {run_dir / 'logs'}; Ctrl-C stops")
        _wait_for_end(server)


@teacher.command()
@_run_folder
@_as_json
def status(run_dir: Path, as_json: bool) -> None:  # noqa: FBT001  # click passes flags by name
    """Say whether a teacher runs, and ask it who it is."""
    from fedmentor.teacher.client import Patience, TorchServeTeacher  # keeps httpx out of --help

    endpoint = read_endpoint(run_dir)
    with TorchServeTeacher(endpoint, Patience(answer_s=30.0, busy_s=5.0, absent_s=0.0)) as client:
        card = client.describe()
    state = json.loads((run_dir / STATE_FILE).read_bytes())
    if as_json:
        click.echo(json.dumps({"url": endpoint.url, "ports": state["ports"], "teacher": card.to_json()}, indent=1))
        return
    click.echo(f"{card.architecture} answers at {endpoint.url}")
    click.echo(f"  digest {card.digest}\n  pre-processing {card.preprocessing}\n  prompts {', '.join(card.prompts)}")


@teacher.command()
@_run_folder
def stop(run_dir: Path) -> None:
    """Stop a running teacher after the requests that are under way."""
    from teacher_service.server import stop as stop_server  # keeps torch out of --help

    with _status("stopping TorchServe"):
        endpoint = stop_server(run_dir)
    click.echo(f"stopped the teacher at {endpoint.url}")


@teacher.command()
@click.argument("image", type=_FILE)
@click.option("--box", "boxes", multiple=True, metavar="x0,y0,x1,y1", help="A box in pixels; one object each; repeatable.")
@click.option("--point", "points", multiple=True, metavar="x,y,label", help="A click: label 1 inside, 0 outside; repeatable.")
@click.option("--auto", type=click.Choice(["central", "lungs"]), help="A fixed prompt for frontal chest X-rays instead.")
@click.option("--answer", type=_NEW_FILE, help="Write the answer: FILE.safetensors (logits) or FILE.json (masks as PNG).")
@click.option("--overlay", type=_NEW_FILE, help="Write a picture of the answer (PNG).")
@_run_folder
@click.option("--url", help="A teacher elsewhere, with --key-file, instead of the one in --run-dir.")
@click.option("--key-file", type=_FILE, help="TorchServe's key_file.json.")
@click.option("--local", is_flag=True, help="Answer in this process, without a server.")
@click.option("--weights", type=_FILE, help="With --local: what 'convert' wrote. Left out: LiteMedSAM as installed.")
@_as_json
def query(image: Path, **options: Any) -> None:
    """Ask the teacher about an IMAGE (PNG or JPEG): numbers, and a picture with --overlay."""
    from fedmentor.teacher.images import read_image  # keeps PIL out of --help

    _check_outputs(image, options["answer"], options["overlay"])
    pixels = read_image(image.read_bytes())
    prompt = _prompt(options, (pixels.shape[0], pixels.shape[1]))
    with _asked_teacher(options) as asked, _status("asking the teacher"):
        soft = asked.soften(pixels, prompt)
    if options["answer"]:
        _write_answer(options["answer"], soft)
    if options["overlay"]:
        from fedmentor.models import write_atomically  # keeps numpy out of --help
        from fedmentor.teacher.images import png_bytes  # keeps PIL out of --help
        from teacher_service.overlay import overlay  # keeps PIL out of --help

        write_atomically(options["overlay"], png_bytes(overlay(pixels, soft)))
    _print_answer(soft, as_json=options["as_json"])


def _prompt(options: dict[str, Any], size: tuple[int, int]) -> Prompt:
    from fedmentor.teacher.contract import Prompt  # keeps PIL out of --help
    from fedmentor.teacher.prompts import central_box, lung_boxes  # keeps PIL out of --help

    boxes = tuple(_box(text) for text in options["boxes"])
    points = tuple(_point(text) for text in options["points"])
    if options["auto"]:
        if boxes or points:
            raise PromptRefused("--auto does not go together with --box or --point")
        boxes = {"central": central_box, "lungs": lung_boxes}[options["auto"]](size)
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


@contextlib.contextmanager
def _asked_teacher(options: dict[str, Any]) -> Iterator[Teacher]:
    """The teacher that the options name; starts nothing."""
    if options["local"]:
        from teacher_service.local import local_teacher  # keeps torch out of --help

        yield local_teacher(options["weights"])
        return
    from fedmentor.teacher.client import TorchServeTeacher  # keeps httpx out of --help

    if bool(options["url"]) != bool(options["key_file"]):
        raise ConfigError("--url and --key-file go together")
    endpoint = Endpoint(options["url"], options["key_file"]) if options["url"] else read_endpoint(options["run_dir"])
    with TorchServeTeacher(endpoint) as client:
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


@contextlib.contextmanager
def _status(text: str) -> Iterator[None]:
    """A spinner on a terminal's standard error, nothing elsewhere."""
    from rich.console import Console  # keeps rich out of --help

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield


def _wait_for_end(server: Server) -> None:
    """Until Ctrl-C, SIGTERM, 'fedmentor teacher stop' elsewhere, or the server's own end."""
    while not server.wait(0.5):
        pass
    click.echo("stopped")

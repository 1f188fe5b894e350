"""``fedmentor teacher convert | build | serve | status | stop``: weights, the archive, and the server."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmentor.disk import check_writable
from fedmentor.errors import ConfigError
from fedmentor.teacher.endpoint import STATE_FILE, pace_at, read_endpoint
from teacher_service.cli.options import FILE, FOLDER, NEW_FILE, as_json_option, precision_option, run_folder, sha256, waiting

if TYPE_CHECKING:
    from teacher_service.server import Server


@click.command()
@click.argument("checkpoint", type=FILE)
@click.option("--out", type=NEW_FILE, required=True, help="The safetensors file to write.")
@click.option("--architecture", help="Refuse any other architecture than this one.")
def convert(checkpoint: Path, out: Path, architecture: str | None) -> None:
    """Turn an official CHECKPOINT (.pth) into safetensors; nothing in the file is run."""
    from teacher_service.convert import convert as convert_file  # keeps torch out of --help

    check_writable(out.parent)
    name, digest = convert_file(checkpoint, out, architecture)
    click.echo(f"{out}: {name}, digest {digest}")


@click.command()
@click.option("--weights", type=FILE, help="What 'convert' wrote. Left out: LiteMedSAM as installed.")
@click.option("--out", type=NEW_FILE, required=True, help="The .mar file to write.")
@click.option(
    "--batch-images",
    type=click.IntRange(1, 64),
    help="Requests at a time; a GPU encodes them together.  [default: 4; SAM: 1]",
)
def build(weights: Path | None, out: Path, batch_images: int | None) -> None:
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
        build_archive(weights, out, batch_images)
    click.echo(f"{out}: {out.stat().st_size} bytes, SHA-256 {file_sha256(out)}")


@click.command()
@click.option("--archive", type=FILE, help="What 'build' wrote. Left out: LiteMedSAM as installed.")
@run_folder
@click.option("--port", type=click.IntRange(1, 65535), help="Port. Left out: a free one.")
@click.option(
    "--host",
    type=click.Choice(["127.0.0.1", "0.0.0.0"]),  # noqa: S104  # chosen by the operator, for a container on a private network
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Without --tls nothing is encrypted: then 0.0.0.0 is only for a container on a private network.",
)
@click.option("--tls", is_flag=True, help="Encrypt REST and gRPC with a certificate of its own.")
@click.option("--archive-sha256", type=sha256, help="Refuse any other archive than the one with this SHA-256.")
@click.option("--embeddings", type=FOLDER, help="Keep embeddings in this folder, for servers to come.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Arithmetic threads of the worker.")
@precision_option
@click.option("--batch-images", type=click.IntRange(1, 64), help="Without --archive: requests at a time.  [default: 4]")
@click.option("--heap-mb", type=click.IntRange(64, 65536), default=256, show_default=True, help="Heap of the Java front end.")
def serve(archive: Path | None, run_dir: Path, **choices: Any) -> None:
    """Serve a teacher on this machine until Ctrl-C."""
    from teacher_service.server import ServerConfig, serving  # keeps torch out of --help

    if choices["archive_sha256"] is not None and archive is None:
        raise ConfigError("--archive-sha256 needs --archive")
    if choices["batch_images"] is not None and archive is not None:
        raise ConfigError("--batch-images is a matter of the archive", cure="give it to 'fedmentor teacher build'")
    config = ServerConfig(run_dir, archive=archive, **choices)
    if os.geteuid() == 0:
        click.echo("warning: TorchServe runs as root; serve as an ordinary user", err=True)
    with waiting("starting TorchServe"), contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(config))
        running = stack.pop_all()
    with running:
        card = server.card
        click.echo(f"{card.architecture} {card.digest[:12]} answers at {server.endpoint.url}/predictions/teacher")
        click.echo(f"token in {server.endpoint.key_file}; logs in {run_dir / 'logs'}; Ctrl-C stops")
        _wait_for_end(server)


@click.command()
@as_json_option
def architectures(as_json: bool) -> None:  # noqa: FBT001  # click passes flags by name
    """List the architectures that can teach, and where their weights are published."""
    from teacher_service.models.registry import ARCHITECTURES  # keeps torch out of --help

    listed = [
        {
            "id": known.id,
            "input_size": known.input_size,
            "mask_size": known.mask_size,
            "preprocessing": known.preprocessing.id,
            "prompts": list(known.prompts),
            "licence": known.licence,
            "weights_page": known.weights_page,
        }
        for known in ARCHITECTURES.values()
    ]
    if as_json:
        click.echo(json.dumps(listed, indent=1))
        return
    for known in ARCHITECTURES.values():
        click.echo(f"{known.id}: {known.input_size} pixels, {', '.join(known.prompts)}; {known.licence}\n  {known.weights_page}")


@click.command()
@run_folder
@as_json_option
def status(run_dir: Path, as_json: bool) -> None:  # noqa: FBT001  # click passes flags by name
    """Say whether a teacher runs, and ask it who it is."""
    from fedmentor.teacher.client import Patience, TorchServeTeacher  # keeps httpx out of --help

    endpoint = read_endpoint(run_dir)
    with TorchServeTeacher(endpoint, Patience(answer_s=pace_at(endpoint).status_s, busy_s=5.0, absent_s=0.0, lost_s=5.0)) as client:
        card = client.describe()
    state = json.loads((run_dir / STATE_FILE).read_bytes())
    if as_json:
        click.echo(json.dumps({"url": endpoint.url, "ports": state["ports"], "teacher": card.to_json()}, indent=1))
        return
    click.echo(f"{card.architecture} answers at {endpoint.url}")
    click.echo(f"  digest {card.digest}\n  pre-processing {card.preprocessing}\n  prompts {', '.join(card.prompts)}")


@click.command()
@run_folder
def stop(run_dir: Path) -> None:
    """Stop a running teacher: what it works on is finished first, what waits is told to try again."""
    from teacher_service.server import stop as stop_server  # keeps torch out of --help

    with waiting("stopping TorchServe"):
        endpoint = stop_server(run_dir)
    click.echo(f"stopped the teacher at {endpoint.url}")


def _wait_for_end(server: Server) -> None:
    """Until Ctrl-C, SIGTERM, 'fedmentor teacher stop' elsewhere, or the server's own end."""
    while not server.wait(0.5):
        pass
    click.echo("stopped")

"""What the teacher's commands share: their options, and a sign of life while something takes time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from fedmentor.errors import ConfigError
from fedmentor.ids import Digest, digest
from fedmentor.teacher.endpoint import DEFAULT_RUN_FOLDER
from teacher_service.compute import FLOAT32, PRECISIONS, Compute

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
IN_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)

run_folder = click.option(
    "--run-dir", type=FOLDER, default=DEFAULT_RUN_FOLDER, show_default=True, help="Folder with the server's state, token and logs."
)
_PRECISION: dict[str, Any] = {"type": click.Choice(PRECISIONS), "show_default": FLOAT32}

precision_option = click.option("--precision", default=FLOAT32, help="Of the arithmetic; the halves on a GPU only.", **_PRECISION)
_HERE = ("weights", "device", "precision")
_ELSEWHERE = ("url", "key_file", "ca_file")
_ASKED = (
    run_folder,
    click.option("--url", help="A teacher elsewhere (http, https, grpc, grpcs), with --key-file, instead of the one in --run-dir."),
    click.option("--key-file", type=FILE, help="TorchServe's key_file.json."),
    click.option("--ca-file", type=FILE, help="Certificate to trust, for https and grpcs."),
    click.option("--local", is_flag=True, help="Answer in this process, without a server."),
    click.option("--weights", type=FILE, help="With --local: what 'convert' wrote. Left out: LiteMedSAM as installed."),
    click.option("--device", show_default="cpu", help="With --local: where to compute, e.g. cuda."),
    click.option("--precision", help="With --local: of the arithmetic; the halves on a GPU only.", **_PRECISION),
)


def asked_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which teacher is asked; asking.asked_teacher reads them."""
    for option in reversed(_ASKED):
        command = option(command)
    return command


def check_place(options: dict[str, Any]) -> None:
    """Refuse what would be ignored: an option of a teacher in this process for one elsewhere, or the other way round.

    Raises:
        ConfigError: names the first such option.
    """
    local = options["local"]
    for name in _ELSEWHERE if local else _HERE:
        if options[name] is not None:
            option, place = f"--{name.replace('_', '-')}", "elsewhere" if local else "in this process"
            cure = f"leave {option} or --local out" if local else f"add --local, or leave {option} out"
            raise ConfigError(f"{option} is for a teacher {place}", cure=cure)


def compute_of(options: dict[str, Any]) -> Compute:
    """How a teacher in this process computes.

    Raises:
        ConfigError: see Compute.
    """
    return Compute(options["device"] or "cpu", options["precision"] or FLOAT32)


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def sha256(text: str) -> Digest:
    """The type of an option that takes a SHA-256."""
    try:
        return digest(text)
    except ConfigError as error:
        raise click.BadParameter(error.message) from error


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner on a terminal's standard error, nothing elsewhere."""
    from rich.console import Console  # keeps rich out of --help

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(text):
        yield

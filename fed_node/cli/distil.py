"""``fedmentor distil``: soft labels from a teacher, a student trained on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fed_node.cli.progress import progress_lines
from fed_node.cli.threads import use_threads
from fedmentor.disk import check_writable

if TYPE_CHECKING:
    from fed_node.student.distil import DistilConfig, DistilProgress, DistilResult
    from fedmentor.teacher.cache import CachedTeacher
    from fedmentor.teacher.contract import Teacher

LOCAL_TEACHERS = "fedmentor.teachers"
"""Entry-point group in which a teacher service names functions that make a teacher in this process."""

FOLDER = click.Path(path_type=Path, file_okay=False)
IN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
IN_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("data", type=IN_FOLDER, metavar="DATA")
@click.option("--out", required=True, type=FOLDER, help="Folder for model.safetensors and model.json.")
@click.option(
    "--prompt", metavar="KIND|FILE", help="central, lungs, whole, mask, mask:PIXELS, or a .csv or .jsonl table.  [default: central]"
)
@click.option("--alpha", type=float, help="Weight of the teacher where a mask is used too.  [default: 0.7]")
@click.option("--temperature", type=float, help="Softens teacher and student in the loss.  [default: 2]")
@click.option("--epochs", type=int, help="Passes over the images.  [default: 30]")
@click.option("--learning-rate", type=float, help="AdamW's largest step.  [default: 0.0015]")
@click.option("--seed", type=int, help="Same seed, same model.  [default: 0]")
@click.option("--use-masks/--ignore-masks", default=None, help="Whether human masks enter the loss.  [default: use]")
@click.option("--failure-limit", type=float, metavar="SHARE", help="Share of the images that may fail.  [default: 0.1]")
@click.option("--state", type=click.Path(path_type=Path), metavar="FILE", help="teacher.json of a running teacher.")
@click.option("--teacher-url", metavar="URL", help="A teacher elsewhere; needs --key-file.")
@click.option("--key-file", type=IN_FILE, help="key_file.json of that teacher.")
@click.option("--ca-file", type=IN_FILE, help="Certificate to trust, where that URL is https:// or grpcs://.")
@click.option("--stored", is_flag=True, help="Learn from what 'fedmentor teacher batch' stored in the cache; ask nobody.")
@click.option("--local-teacher", is_flag=True, help="Compute the teacher in this process, without a server.")
@click.option("--cache", type=FOLDER, help="Folder of soft labels.  [default: ~/.cache/fedmentor/soft-labels]")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="CPU threads for training.")
@click.option("--json", "as_json", is_flag=True, help="Print the model's record as JSON.")
def distil(data: Path, out: Path, cache: Path | None, threads: int, *, as_json: bool, **choices: Any) -> None:
    """Train a student on what a teacher says about the images in DATA.

    Soft labels are kept in the cache: after Ctrl-C, or for another training on the same images, nobody is asked again.
    """
    # Heavy imports here: --help loads no torch.
    use_threads(threads)
    from fed_node.data.dataset import open_dataset
    from fed_node.student import distil as distillation
    from fedmentor.teacher.cache import CachedTeacher, FolderStore, default_cache

    where = {name: choices.pop(name) for name in ("state", "teacher_url", "key_file", "ca_file", "local_teacher")}
    stored = choices.pop("stored")
    config = _config(choices)
    check_writable(out)
    dataset = open_dataset(data)
    root = cache or default_cache()
    store = FolderStore(root)
    with _stored(root, where) if stored else _teacher(**where) as teacher, progress_lines() as advance:
        cached = CachedTeacher(teacher, store)

        def observe(now: DistilProgress) -> None:
            if now.failure is not None:
                click.echo(f"left out {now.failure.id}: {now.failure.reason}", err=True)
            advance(now.stage, now.done, now.total, "" if now.loss is None else f"loss {now.loss:.3f}")

        result = distillation.distil(config, cached, dataset, observe)
    distillation.save_distilled(out, result)
    click.echo(result.record.model_dump_json(indent=2) if as_json else _summary(result, cached, out))


def _config(choices: dict[str, Any]) -> DistilConfig:
    """Options that were given over the defaults of DistilConfig.

    Raises:
        ConfigError: one is out of range.
    """
    from pydantic import ValidationError

    from fed_node.student.distil import DistilConfig
    from fedmentor.errors import ConfigError
    from fedmentor.settings import first_fault

    try:
        return DistilConfig(**{name: value for name, value in choices.items() if value is not None})
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(f"{fault.option}: {fault.message}") from error


@contextmanager
def _stored(cache: Path, where: dict[str, Any]) -> Iterator[Teacher]:
    """The teacher whose answers lie in the cache."""
    if any(where.values()):
        raise click.UsageError("--stored asks nobody: it excludes every option that names a teacher")
    from fedmentor.teacher.cache import stored_teacher

    yield stored_teacher(cache)


@contextmanager
def _teacher(
    *, state: Path | None, teacher_url: str | None, key_file: Path | None, ca_file: Path | None, local_teacher: bool
) -> Iterator[Teacher]:
    """The one teacher that the options name; without any, the one that 'fedmentor teacher serve' started here."""
    if sum((state is not None, teacher_url is not None, local_teacher)) > 1:
        raise click.UsageError("--state, --teacher-url and --local-teacher exclude each other")
    if (teacher_url is None) != (key_file is None):
        raise click.UsageError("--teacher-url and --key-file go together")
    if ca_file is not None and teacher_url is None:
        raise click.UsageError("--ca-file is for the teacher of --teacher-url")
    if local_teacher:
        yield _local_teacher()
        return
    from fedmentor.teacher.client import TorchServeTeacher
    from fedmentor.teacher.endpoint import DEFAULT_RUN_FOLDER, STATE_FILE, Endpoint, read_endpoint

    if teacher_url is not None and key_file is not None:
        endpoint = Endpoint(teacher_url, key_file, ca_file)
    else:
        folder = state or DEFAULT_RUN_FOLDER
        endpoint = read_endpoint(folder.parent if folder.name == STATE_FILE else folder)
    with TorchServeTeacher(endpoint) as client:
        yield client


def _local_teacher() -> Teacher:
    """The node does not know the teacher service; it finds it by name, if it is installed."""
    from importlib.metadata import entry_points

    from fedmentor.errors import ConfigError

    found = entry_points(group=LOCAL_TEACHERS, name="local")
    if not found:
        raise ConfigError("no teacher is installed here", cure="install fedmentor[teacher], or name a running one with --state")
    (entry,) = found
    teacher: Teacher = entry.load()()
    return teacher


def _summary(result: DistilResult, cached: CachedTeacher, out: Path) -> str:
    lines = {
        "student": f"{result.record.architecture} {result.record.digest[:12]} in {out}",
        "teacher": f"{cached.card().architecture} {cached.card().digest[:12]}",
        "soft labels": f"{cached.misses} asked for, {cached.hits} from the cache, {len(result.failures)} images left out",
        "training": (
            f"{result.report.images} images, {len(result.report.losses)} epochs in {result.report.seconds:.0f} s, "
            f"loss {result.report.losses[0]:.3f} to {result.report.losses[-1]:.3f}"
        ),
        "prompt": json.dumps(result.record.details["prompt"]),
    }
    return "\n".join(f"{name:>12}  {text}" for name, text in lines.items())

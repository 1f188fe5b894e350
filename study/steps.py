"""``fedmentor study step``: what a demonstration federation in containers does once, each step in a container of its own.

A step hands out parts: what each service may see goes into a folder (in containers: a volume) of its own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from fedmentor.errors import EXIT_OK, ConfigError
from fedmentor.ids import MAX_SEED

FOLDER = click.Path(file_okay=False, path_type=Path)
COORDINATOR = "coordinator"
PUBLIC = "public"
DATASET = "dataset"
"""Name of the dataset folder in the part of the proxy pool and of each site."""


@click.group()
def step() -> None:
    """Steps of a demonstration federation in containers (deploy/compose.yaml)."""


@step.command(context_settings={"ignore_unknown_options": True})
@click.option("--mark", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File that says that it was done.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def once(mark: Path, command: tuple[str, ...]) -> int:
    """Run a fedmentor COMMAND, unless MARK says that this was done."""
    from fedmentor.cli import run  # noqa: PLC0415 - the group that this command is in
    from fedmentor.models import write_atomically  # noqa: PLC0415 - keeps numpy out of --help

    if was_done(mark, command):
        click.echo("was done before")
        return EXIT_OK
    code = run(list(command))
    if code == EXIT_OK:
        write_atomically(mark, (json.dumps(command) + "\n").encode())
    return code


@step.command()
@click.option("--parts", type=FOLDER, required=True, help="Folder of the parts: public/, coordinator/, one a site.")
@click.option("--site", "sites", multiple=True, required=True, metavar="ID", help="A site; give one option a site.")
@click.option("--host", "hosts", multiple=True, required=True, help="Name under which sites reach the coordinator.")
@click.option("--federation", default="demo", show_default=True, help="Name of the federation.")
def registrar(parts: Path, sites: tuple[str, ...], hosts: tuple[str, ...], federation: str) -> None:
    """Make throw-away certificates and give each member its own; the authority's key is written nowhere."""
    from fedmentor.identity.authority import throwaway  # noqa: PLC0415 - keeps cryptography out of --help
    from fedmentor.ids import site_id  # noqa: PLC0415 - beside its use

    members = [site_id(site) for site in sorted(set(sites))]
    with TemporaryDirectory() as scratch:
        throwaway(Path(scratch), federation, members, hosts)
        hand_out_certificates(Path(scratch), parts, members)
    click.echo(f"certificates for the coordinator and {len(members)} sites of {federation}")


@step.command()
@click.option("--parts", type=FOLDER, required=True, help="Folder of the parts: proxy/ and one a site.")
@click.option("--source", type=FOLDER, help="Dataset folder; phantoms are made without it.")
@click.option("--name", expose_value=False, help="Where the source lies outside of the container, for the mark of `once`.")
@click.option("--scratch", type=FOLDER, required=True, help="Folder with room for a copy of the data.")
@click.option("--sites", type=click.IntRange(1, 64), default=4, show_default=True, help="Number of sites.")
@click.option("--phantoms", type=click.IntRange(16, 10_000), help="How many phantoms to make where no data are given.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Fixes who goes where.")
def data(parts: Path, source: Path | None, scratch: Path, **choices: int | None) -> None:
    """Deal a dataset to sites and a public pool as `fedmentor demo` does, and give each its own."""
    from study.cli import plan_of  # noqa: PLC0415 - that module imports this one
    from study.plan import StudyPlan  # noqa: PLC0415 - keeps numpy out of --help
    from study.prepare import PROXY, prepare  # noqa: PLC0415 - keeps numpy out of --help

    plan = plan_of(source, StudyPlan(), choices)
    with TemporaryDirectory(dir=scratch) as work:
        prepared = prepare(plan, source, Path(work))
        hand_out_data({PROXY: prepared.proxy} | {str(site): folder for site, folder in prepared.sites.items()}, parts)
    facts = prepared.facts
    click.echo(f"{facts.images} images of {facts.patients} patients; {facts.proxy_images} in the public pool")
    for site, counts in facts.sites.items():
        click.echo(f"{site}: {counts.train_images} training and {counts.held_out_images} held-out images")


def was_done(mark: Path, command: Sequence[str]) -> bool:
    """Whether the mark says that this very command was done.

    Raises:
        ConfigError: it says so of a command with other choices.
    """
    try:
        done = json.loads(mark.read_bytes())
    except FileNotFoundError:
        return False
    if done != list(command):
        raise ConfigError(
            "the federation that is up was begun with other choices (data, rounds or seed)",
            cure="remove it with `make down`, then begin again",
        )
    return True


def hand_out_certificates(certificates: Path, parts: Path, sites: Sequence[str]) -> None:
    """Give each member what all may see, and its own folder.

    Args:
        certificates: a folder as in fedmentor.identity.authority.throwaway.
        parts: ``parts/coordinator`` and ``parts/SITE`` become certificates folders of one member each, ``parts/public`` one
            without keys.
        sites: every site's name.
    """
    shared = [path for path in certificates.iterdir() if path.is_file()]
    own = {PUBLIC: None, COORDINATOR: Path(COORDINATOR), **{site: Path("sites", site) for site in sites}}
    for member, place in own.items():
        folder = parts / member
        folder.mkdir(parents=True, exist_ok=True)
        for path in shared:
            shutil.copy(path, folder / path.name)
        if place is not None:  # modes are copied along: keys stay their owner's only
            shutil.copytree(certificates / place, folder / place, dirs_exist_ok=True)


def hand_out_data(datasets: Mapping[str, Path], parts: Path) -> None:
    """Copy each dataset to ``parts/NAME/dataset``; what an interrupted step left there is replaced."""
    for name, dataset in datasets.items():
        target = parts / name / DATASET
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(dataset, target)

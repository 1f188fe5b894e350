"""``fedmentor federation``: identities of a federation."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def federation() -> None:
    """Make and inspect the identities of a federation."""


@federation.command()
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--site", "sites", multiple=True, required=True, metavar="ID", help="A site; give one option a site.")
@click.option("--host", "hosts", multiple=True, default=("localhost", "127.0.0.1"), show_default=True, help="Coordinator's host.")
@click.option("--federation", "name", default="fedmentor", show_default=True, help="Name of the federation.")
def certificates(folder: Path, sites: tuple[str, ...], hosts: tuple[str, ...], name: str) -> None:
    """Write throw-away certificates for one coordinator and its sites.

    The authority's key is never written: running the command again makes a new authority and replaces every file.
    """
    from fedmentor.identity.authority import LEAF_LIFETIME, throwaway
    from fedmentor.ids import site_id

    throwaway(folder, name, [site_id(site) for site in sorted(set(sites))], hosts)
    click.echo(f"{folder}: certificates for the coordinator and {len(set(sites))} sites, valid {LEAF_LIFETIME.days} days")

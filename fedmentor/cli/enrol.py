"""``fedmentor node enrol|renew`` and ``fedmentor coordinator enrol|renew``: one end's identity, made where it is used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from fedmentor.identity.enrolment import Installed, Place
    from fedmentor.identity.invite import Invite

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False, allow_dash=True)

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Wish:
    """What the options of ``enrol`` say."""

    certificates: Path
    site: str | None
    hosts: tuple[str, ...]
    federation: str | None
    invite: Path | None
    reply: Path | None
    authority: str
    out: Path | None
    replace: bool
    offline: bool
    proxy: str | None
    as_json: bool


def _options(command: F) -> F:
    for option in reversed(
        (
            click.option("--certificates", type=FOLDER, required=True, help="Certificates folder of this machine."),
            click.option("--federation", help="Name of the federation, where no invite says it."),
            click.option("--invite", type=FILE, help="Invite from the registrar; - reads standard input."),
            click.option("--reply", type=FILE, help="The registrar's reply file: install it."),
            click.option(
                "--authority", default="", metavar="SHA256", help="With --reply: fingerprint that the registrar read out."
            ),
            click.option("--out", type=FILE, help="Also write the request there, for carrying to the registrar."),
            click.option("--replace", is_flag=True, help="Make new keys although there are some in use."),
            click.option("--offline", is_flag=True, help="Write the request only, although the invite names an address."),
            click.option("--proxy", metavar="HOST:PORT", help="HTTP proxy through which the registrar is reached."),
            click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output."),
        )
    ):
        command = option(command)
    return command


@click.command("enrol")
@click.option("--site", required=True, metavar="ID", help="Name of this site.")
@_options
def enrol_site(**options: Any) -> None:
    """Make this site's keys and have them admitted by the federation's registrar.

    With an invite that names the registrar's address, everything in one go. Otherwise in two: the first call writes a request
    file for the registrar, the second one, with --reply, installs the answer. Private keys never leave the certificates folder.
    """
    _enrol(_Wish(hosts=(), **options))


@click.command("enrol")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="Name or address under which sites reach the coordinator.")
@_options
def enrol_coordinator(**options: Any) -> None:
    """Make the coordinator's keys and have them admitted by the federation's registrar.

    With an invite that names the registrar's address, everything in one go. Otherwise in two: the first call writes a request
    file for the registrar, the second one, with --reply, installs the answer. Private keys never leave the certificates folder.
    """
    _enrol(_Wish(site=None, **options))


@click.command("renew")
@click.option("--site", required=True, metavar="ID", help="Name of this site.")
@click.option("--certificates", type=FOLDER, required=True, help="Certificates folder of this machine.")
@click.option("--registrar", "address", required=True, metavar="HOST:PORT", help="The registrar's address for renewals.")
@click.option("--proxy", metavar="HOST:PORT", help="HTTP proxy through which the registrar is reached.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def renew_site(site: str, certificates: Path, address: str, proxy: str | None, *, as_json: bool) -> None:
    """Get a new certificate for this site's key, with the newest roster and deny-list. A running node takes it up by itself."""
    _show_installed(*_renewed(certificates, site, address, proxy), as_json=as_json)


@click.command("renew")
@click.option("--certificates", type=FOLDER, required=True, help="Certificates folder of this machine.")
@click.option("--registrar", "address", required=True, metavar="HOST:PORT", help="The registrar's address for renewals.")
@click.option("--proxy", metavar="HOST:PORT", help="HTTP proxy through which the registrar is reached.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def renew_coordinator(certificates: Path, address: str, proxy: str | None, *, as_json: bool) -> None:
    """Get a new certificate for the coordinator's key, with the newest roster and deny-list; it is taken up without a restart."""
    _show_installed(*_renewed(certificates, None, address, proxy), as_json=as_json)


def _renewed(certificates: Path, site: str | None, address: str, proxy: str | None) -> tuple[Place, Installed]:
    from fedmentor.clock import SystemClock
    from fedmentor.errors import ConfigError
    from fedmentor.identity.enrolment import Place, waiting_federation
    from fedmentor.identity.names import Peer
    from fedmentor.identity.renewal import Door, renew
    from fedmentor.ids import site_id
    from fedmentor.settings import host_and_port

    name = None if site is None else site_id(site)
    federation = waiting_federation(certificates, name)
    if federation is None:
        raise ConfigError(f"{certificates} has no certificate to renew", cure="enrol first")
    place = Place(certificates, Peer(federation, name))
    return place, renew(place, Door(host_and_port(address), _address(proxy)), SystemClock())


def _address(text: str | None) -> str | None:
    from fedmentor.settings import host_and_port

    return None if text is None else host_and_port(text)


def _enrol(wish: _Wish) -> None:
    from fedmentor.clock import SystemClock
    from fedmentor.errors import ConfigError
    from fedmentor.identity.enrolment import ask, install
    from fedmentor.identity.reply import MAX_REPLY_BYTES

    if wish.reply is not None and wish.invite is not None:
        raise ConfigError("--invite is for asking and --reply for the answer", cure="give one of them")
    invite = None if wish.invite is None else _read_invite(wish.invite)
    place = _place(wish, invite)
    if wish.reply is not None:
        reply = read_input(wish.reply, MAX_REPLY_BYTES, "give the file that the registrar wrote")
        _show_installed(place, install(place, reply, SystemClock().now(), wish.authority), as_json=wish.as_json)
        return
    asked = ask(place, hosts=wish.hosts, invite=invite, replace=wish.replace)
    if wish.out is not None:
        _write(wish.out, asked.request)
    if invite is not None and invite.registrar is not None and not wish.offline:
        from fedmentor.identity.door_client import enrol_online

        reply = enrol_online(invite, asked.request, _address(wish.proxy))
        _show_installed(place, install(place, reply, SystemClock().now(), fresh=True), as_json=wish.as_json)
        return
    file = asked.file if wish.out is None or str(wish.out) == "-" else wish.out
    if wish.as_json:
        click.echo(json.dumps({"event": "asked", "request": str(file), "fingerprint": asked.fingerprint, "again": asked.again}))
        return
    made = "the keys that wait already" if asked.again else "new keys"
    click.echo(f"{file}: request of {place.peer.label} with {made}; take it to the registrar", err=True)
    click.echo(f"fingerprint {asked.fingerprint}", err=True)


def _place(wish: _Wish, invite: Invite | None) -> Place:
    from fedmentor.errors import ConfigError
    from fedmentor.identity.enrolment import Place, waiting_federation
    from fedmentor.identity.names import Peer, federation_name
    from fedmentor.ids import site_id

    site = None if wish.site is None else site_id(wish.site)
    if invite is not None:
        if invite.site != site or (wish.federation is not None and wish.federation != invite.federation):
            raise ConfigError(
                f"the invite is for {invite.peer.label} of {invite.federation}", cure="give the invite that is meant for this end"
            )
        return Place(wish.certificates, invite.peer)
    federation = wish.federation or waiting_federation(wish.certificates, site)
    if federation is None:
        raise ConfigError("which federation is not known here", cure="give --federation, or --invite")
    return Place(wish.certificates, Peer(federation_name(federation), site))


def _read_invite(path: Path) -> Invite:
    from fedmentor.identity.invite import MAX_INVITE_BYTES, invite_from_bytes

    return invite_from_bytes(read_input(path, MAX_INVITE_BYTES, "give the file that the registrar wrote"), str(path))


def read_input(path: Path, limit: int, cure: str) -> bytes:
    """All bytes of a file, or of standard input where it is called ``-``.

    Raises:
        ConfigError: it cannot be read, or is over ``limit`` bytes.
    """
    from fedmentor.errors import ConfigError
    from fedmentor.identity.files import read_bounded

    if str(path) != "-":
        return read_bounded(path, limit, cure)
    data = sys.stdin.buffer.read(limit + 1)
    if len(data) > limit:
        raise ConfigError(f"standard input is over {limit} bytes", cure=cure)
    return data


def _write(path: Path, data: bytes) -> None:
    from fedmentor.models import write_atomically

    if str(path) == "-":
        sys.stdout.buffer.write(data)
    else:
        write_atomically(path, data)


def _show_installed(place: Place, installed: Installed, *, as_json: bool) -> None:
    if installed.expires is None:
        click.echo(f"{place.certificates}: roster version {installed.roster_version}")
        return
    if as_json:
        fields = {"expires_utc": installed.expires.isoformat(), "roster_version": installed.roster_version}
        click.echo(json.dumps({"event": "installed", "folder": str(place.folder), **fields}))
        return
    click.echo(
        f"{place.folder}: certificate of {place.peer.label} valid until {installed.expires:%Y-%m-%d %H:%M} UTC, "
        f"roster version {installed.roster_version}"
    )

"""``fedmentor federation``: the registrar's commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedmentor.cli.kit import kit

if TYPE_CHECKING:
    from fedmentor.identity.names import Peer
    from fedmentor.identity.registrar import Admitted, Registrar

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

MAX_MANIFEST_BYTES = 4 << 20
"""What fits into a message to a site."""

_registrar = click.option("--registrar", "folder", type=FOLDER, required=True, help="The registrar's own folder.")
_passphrase = click.option("--passphrase-file", type=FILE, help="Passphrase of the authority's key, in its first line.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
_coordinator = click.option("--coordinator", "of_coordinator", is_flag=True, help="The coordinator, instead of a site.")


@click.group()
def federation() -> None:
    """Decide who belongs to a federation: its registrar's commands.

    The registrar holds the authority and the roster, and is another person, on another machine, than the coordinator's operator.
    """


federation.add_command(kit)


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


@federation.command()
@_registrar
@click.option("--federation", "name", required=True, help="Name of the federation, e.g. chest.example.org.")
@click.option("--authority-days", type=click.IntRange(1, 3650), default=730, show_default=True, help="Validity of the authority.")
@click.option("--certificate-days", type=click.IntRange(1, 397), default=7, show_default=True, help="Validity of certificates.")
@_passphrase
@_json
def init(
    folder: Path, name: str, authority_days: int, certificate_days: int, passphrase_file: Path | None, *, as_json: bool
) -> None:
    """Make a new federation's authority and registrar."""
    from datetime import timedelta

    from fedmentor.clock import SystemClock
    from fedmentor.identity.authority import Authority
    from fedmentor.identity.names import federation_name
    from fedmentor.identity.registrar import Registrar
    from fedmentor.identity.registrar_state import RegistrarState
    from fedmentor.identity.reply import authority_fingerprint
    from fedmentor.identity.vault import read_passphrase

    clock, passphrase = SystemClock(), read_passphrase(passphrase_file)
    state = RegistrarState(federation=federation_name(name), leaf_days=certificate_days)
    authority = Authority.create(name, clock.now(), timedelta(days=authority_days))
    made = Registrar.create(folder, state, authority, clock, passphrase)
    fingerprint = authority_fingerprint(authority.certificate)
    if as_json:
        click.echo(json.dumps({"event": "made", "federation": name, "authority_sha256": fingerprint, "public": str(made.public)}))
        return
    click.echo(f"{folder}: registrar of {name}; keep it private, and keep a backup of it")
    click.echo(f"authority {fingerprint}")


@federation.command()
@click.argument("site", required=False)
@_coordinator
@_registrar
@click.option("--out", type=FILE, required=True, help="Invite file to write, for the invited and nobody else.")
@click.option("--hours", type=click.FloatRange(0, 8760, min_open=True), default=72, show_default=True, help="Until it expires.")
@click.option("--enrol-at", metavar="HOST:PORT", help="Where `federation serve` takes enrolments.")
@click.option("--renew-at", metavar="HOST:PORT", help="Where `federation serve` renews certificates.")
@click.option("--replace", is_flag=True, help="A member may bring new keys; its old ones are revoked then.")
@_json
def invite(folder: Path, out: Path, hours: float, *, replace: bool, as_json: bool, **options: Any) -> None:
    """Write a one-time invite for SITE: with it, a site is admitted without anybody comparing fingerprints."""
    from fedmentor.identity.registrar import Doors
    from fedmentor.models import write_atomically
    from fedmentor.settings import host_and_port

    registrar = open_registrar(folder, None)
    doors = Doors(*(host_and_port(options[name]) if options[name] else None for name in ("enrol_at", "renew_at")))
    made = registrar.invite(
        _peer(registrar, options["site"], of_coordinator=options["of_coordinator"]), hours, doors, replace=replace
    )
    write_atomically(out, made.to_bytes(), mode=0o600)
    if as_json:
        click.echo(json.dumps({"event": "invited", "uri": made.peer.uri, "expires_utc": made.expires_utc, "invite": str(out)}))
        return
    click.echo(
        f"{out}: invite of {made.peer.label}, good once and until {made.expires:%Y-%m-%d %H:%M} UTC; hand it over in private"
    )


@federation.command()
@click.argument("request", type=FILE)
@_registrar
@click.option("--out", type=FILE, required=True, help="Reply file to write, for carrying back; it holds no secret.")
@click.option("--fingerprint", default="", help="Where no invite was used: what the member's operator read out.")
@click.option("--replace", is_flag=True, help="A member may bring new keys; its old ones are revoked then.")
@_passphrase
@_json
def admit(  # noqa: PLR0913 - one parameter an option
    request: Path, folder: Path, out: Path, fingerprint: str, passphrase_file: Path | None, *, replace: bool, as_json: bool
) -> None:
    """Admit a REQUEST file to the federation, or renew the certificate of a member that has these keys already."""
    from fedmentor.identity.files import read_bounded
    from fedmentor.identity.registrar_rules import Vouching
    from fedmentor.identity.request import MAX_REQUEST_BYTES

    data = read_bounded(request, MAX_REQUEST_BYTES, "give the file that `enrol` wrote at the member")
    admitted = open_registrar(folder, passphrase_file).admit(data, Vouching(fingerprint, replace))
    _write_reply(admitted, out, as_json=as_json)


@federation.command()
@click.argument("sites", nargs=-1)
@_coordinator
@click.option("--all", "everybody", is_flag=True, help="Every member.")
@_registrar
@click.option("--out", type=FOLDER, required=True, help="Folder for reply files, one a member.")
@_passphrase
@_json
def renew(sites: tuple[str, ...], folder: Path, out: Path, passphrase_file: Path | None, *, as_json: bool, **options: bool) -> None:
    """Write new certificates for the keys that SITES have, with the newest roster and deny-list, for carrying there."""
    registrar = open_registrar(folder, passphrase_file)
    peers = [_peer(registrar, site, of_coordinator=False) for site in sites]
    if options["everybody"]:
        peers = list(registrar.state().members())
    elif options["of_coordinator"] or not sites:
        peers.append(_peer(registrar, None, of_coordinator=options["of_coordinator"]))
    for peer in peers:
        renewed = registrar.renew(peer)
        out.mkdir(parents=True, exist_ok=True)
        _write_reply(renewed, out / f"reply-{peer.site or 'coordinator'}.json", as_json=as_json)


@federation.command()
@click.argument("site", required=False)
@_coordinator
@_registrar
@_passphrase
@_json
def revoke(site: str | None, folder: Path, passphrase_file: Path | None, *, of_coordinator: bool, as_json: bool) -> None:
    """Take SITE off the roster and put its keys and certificates on the deny-list.

    Bring revoked.json, revoked.sig and the roster from the registrar's public folder to the coordinator's certificates folder
    (`federation roster --out`): it cuts the site off within 10 seconds, calls under way included.
    """
    registrar = open_registrar(folder, passphrase_file)
    peer = _peer(registrar, site, of_coordinator=of_coordinator)
    state = registrar.revoke(peer)
    if as_json:
        fields = {"revoked_version": state.revoked_version, "roster_version": state.roster_version, "public": str(registrar.public)}
        click.echo(json.dumps({"event": "revoked", "uri": peer.uri, **fields}))
        return
    click.echo(f"{peer.label} is revoked: deny-list version {state.revoked_version}, roster version {state.roster_version}")
    click.echo(f"bring the files in {registrar.public} to the coordinator's certificates folder")


@federation.command()
@_registrar
@click.option(
    "--out", type=FOLDER, help="Copy authority, roster and deny-list there, e.g. to the coordinator's certificates folder."
)
@_passphrase
@_json
def roster(folder: Path, out: Path | None, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Show the members and their certificates; with --out, hand out the signed documents."""
    from fedmentor.cli.registrar_lines import roster_json, roster_lines

    registrar = open_registrar(folder, passphrase_file)
    registrar.publish()
    if out is not None:
        registrar.hand_out(out)
    state, authorities = registrar.state(), registrar.authorities()
    if as_json:
        click.echo(json.dumps(roster_json(state, authorities)))
        return
    for line in roster_lines(state, authorities):
        click.echo(line)


@federation.command()
@click.argument("manifest", type=click.Path(path_type=Path, dir_okay=False))
@_registrar
@_passphrase
@_json
def approve(manifest: Path, folder: Path, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Sign a run's MANIFEST after looking at it: sites can ask for that (require_approval), and may trust what they then run.

    Writes the signature beside it, as MANIFEST.sig; both go to the coordinator.
    """
    from fedmentor.federation import manifest_from_bytes
    from fedmentor.identity.approval import approval_file, check_canonical
    from fedmentor.identity.files import read_bounded
    from fedmentor.models import write_atomically

    data = read_bounded(manifest, MAX_MANIFEST_BYTES, "make one with `fedmentor coordinator manifest`")
    run = manifest_from_bytes(data)
    check_canonical(data, run.to_bytes(), str(manifest))
    signature = open_registrar(folder, passphrase_file).approve(run)
    write_atomically(approval_file(manifest), signature)
    mode = "secure aggregation" if run.secure else "the coordinator sees single updates"
    if as_json:
        fields = {"run": run.run, "manifest": run.digest, "sites": list(run.roster), "secure": run.secure is not None}
        click.echo(json.dumps({"event": "approved", **fields, "signature": str(approval_file(manifest))}))
        return
    click.echo(f"{approval_file(manifest)}: run {run.run} approved, {len(run.roster)} sites, {run.rounds} rounds, {mode}")
    click.echo(f"manifest {run.digest}, from model {run.initial_model}")


@federation.command()
@click.argument("step", type=click.Choice(["begin", "switch", "retire"]))
@_registrar
@click.option("--authority-days", type=click.IntRange(1, 3650), default=730, show_default=True, help="With begin: its validity.")
@_passphrase
@_json
def rotate(step: Any, folder: Path, authority_days: int, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Replace the authority in three steps: begin, switch, retire.

    begin makes the new authority, which everybody gets beside the old one with the next renewal; switch has it issue and sign;
    retire takes the old one away. A step is refused until every member was given what the step before brought.
    """
    from datetime import timedelta

    registrar = open_registrar(folder, passphrase_file)
    state = registrar.rotate(step, timedelta(days=authority_days))
    if as_json:
        click.echo(json.dumps({"event": "rotated", "step": step, "authorities": state.authorities, "signer": state.signer}))
        return
    then = {
        "begin": "renew every member's certificate, then `rotate switch`",
        "switch": "renew every member's certificate again, then `rotate retire`",
        "retire": "renew every member's certificate once more; done",
    }
    click.echo(f"{step}: done; next: {then[step]}")


@federation.command()
@_registrar
@click.option("--listen", metavar="HOST:PORT", help="Take enrolments with an invite here; port 0 takes a free one.")
@click.option("--listen-renewals", metavar="HOST:PORT", help="Renew members' certificates here, over mutual TLS.")
@_passphrase
@_json
def serve(folder: Path, listen: str | None, listen_renewals: str | None, passphrase_file: Path | None, *, as_json: bool) -> int:
    """Answer members online until a signal comes; the authority's key is in use meanwhile.

    Other commands on the same folder work at the same time.
    """
    from fedmentor.cli.registrar_serve import serve_until_signal
    from fedmentor.identity.door import Addresses
    from fedmentor.settings import host_and_port

    if listen is None and listen_renewals is None:
        raise click.UsageError("give --listen, --listen-renewals, or both")
    addresses = Addresses(*(None if text is None else host_and_port(text) for text in (listen, listen_renewals)))
    return serve_until_signal(open_registrar(folder, passphrase_file), addresses, as_json=as_json)


def open_registrar(folder: Path, passphrase_file: Path | None) -> Registrar:
    """The registrar in a folder, with the passphrase of its authority's key where a file has it."""
    from fedmentor.clock import SystemClock
    from fedmentor.identity.registrar import Registrar
    from fedmentor.identity.vault import read_passphrase

    return Registrar(folder, SystemClock(), read_passphrase(passphrase_file))


def _peer(registrar: Registrar, site: str | None, *, of_coordinator: bool) -> Peer:
    from fedmentor.identity.names import Peer
    from fedmentor.ids import site_id

    if (site is None) != of_coordinator:
        raise click.UsageError("name one site, or give --coordinator")
    return Peer(registrar.state().federation, None if site is None else site_id(site))


def _write_reply(admitted: Admitted, out: Path, *, as_json: bool) -> None:
    from fedmentor.models import write_atomically

    write_atomically(out, admitted.reply)
    if as_json:
        fields = {"expires_utc": admitted.expires.isoformat(), "roster_version": admitted.roster_version, "reply": str(out)}
        click.echo(json.dumps({"event": "certified", "uri": admitted.peer.uri, **fields}))
        return
    click.echo(f"{out}: reply to {admitted.peer.label}, certificate valid until {admitted.expires:%Y-%m-%d %H:%M} UTC")

"""``fedmentor federation kit`` and ``fedmentor node unpack``: one archive from the registrar to a hospital's IT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmentor.cli.enrol import read_input

if TYPE_CHECKING:
    from fedmentor.identity.invite import Invite
    from fedmentor.kit.check import CheckedKit
    from fedmentor.kit.lay import Laid
    from fedmentor.kit.make import FreshInvite, Kit

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
INPUT = click.Path(path_type=Path, dir_okay=False, allow_dash=True)


@click.command()
@click.argument("site")
@click.option("--registrar", "folder", type=FOLDER, required=True, help="The registrar's own folder.")
@click.option("--coordinator", required=True, metavar="HOST:PORT", help="Where the coordinator listens.")
@click.option("--enrol-at", metavar="HOST:PORT", help="Where `federation serve` takes enrolments.")
@click.option("--renew-at", metavar="HOST:PORT", help="Where `federation serve` renews certificates.")
@click.option("--manifest", type=FILE, help="A run's manifest, with its approval (MANIFEST.sig) where there is one.")
@click.option("--invite", type=FILE, help="An invite that was made before; without it the kit gets one of its own.")
@click.option("--no-invite", is_flag=True, help="The invite travels on another way, or the site is a member already.")
@click.option("--hours", type=click.FloatRange(0, 8760, min_open=True), default=168, show_default=True, help="Until it expires.")
@click.option("--replace", is_flag=True, help="A member may bring new keys; its old ones are revoked then.")
@click.option("--out", type=FILE, help="Archive to write.  [default: fedmentor-SITE.tar.gz]")
@click.option("--passphrase-file", type=FILE, help="Passphrase of the authority's key, in its first line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def kit(site: str, folder: Path, out: Path | None, passphrase_file: Path | None, *, as_json: bool, **options: Any) -> None:
    """Write one archive with everything that the IT of SITE needs: settings, unit, Compose file, authority, roster, invite.

    An invite is a secret, and so is a kit with one: the file is yours alone (0600); hand it over in private. With --no-invite the
    kit holds no secret, and is the same bytes each time.
    """
    from fedmentor.cli.federation import open_registrar
    from fedmentor.disk import check_writable
    from fedmentor.ids import site_id
    from fedmentor.kit.archive import SECRET_MODE
    from fedmentor.kit.make import Order, make_kit
    from fedmentor.models import write_atomically

    name = site_id(site)
    out = Path(f"fedmentor-{name}.tar.gz") if out is None else out
    check_writable(out.parent)
    invite = _invite(options)
    renewals = options["renew_at"] or getattr(invite, "renewals", None)
    order = Order(name, options["coordinator"], renewals, _manifest(options["manifest"]))
    made = make_kit(open_registrar(folder, passphrase_file), order, invite)
    write_atomically(out, made.data, mode=SECRET_MODE)
    _show_made(made, out, as_json=as_json)


@click.command()
@click.argument("archive", metavar="KIT", type=INPUT)
@click.option("--into", "folder", type=FOLDER, required=True, help="The node's folder, e.g. /var/lib/fedmentor.")
@click.option("--authority", metavar="SHA256", help="Fingerprint of the authority that the registrar read out.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def unpack(archive: Path, folder: Path, authority: str | None, *, as_json: bool) -> None:
    """Check a KIT of the registrar and lay it out in a folder; - reads standard input.

    Nothing is written before everything is checked: sums, signatures, protocol, and that the kit holds plain files alone. It may be
    run again, with the same kit or a newer one: settings, keys and newer documents that are there stay as they are.
    """
    from fedmentor.kit.archive import MAX_KIT_BYTES
    from fedmentor.kit.check import check_kit
    from fedmentor.kit.lay import lay

    checked = check_kit(read_input(archive, MAX_KIT_BYTES, "give the archive that the registrar made"), authority)
    _show_laid(checked, lay(checked, folder), as_json=as_json)


@click.command()
def unit() -> None:
    """Print the systemd unit of this program, for /etc/systemd/system/fedmentor-node.service.

    It comes from what root installed. The copy in a kit lies where the node itself may write.
    """
    from fedmentor.kit.contents import UNIT_FILE
    from fedmentor.kit.program import resource

    click.echo(resource(UNIT_FILE), nl=False)


def _invite(options: dict[str, Any]) -> Invite | FreshInvite | None:
    from fedmentor.identity.invite import MAX_INVITE_BYTES, invite_from_bytes
    from fedmentor.kit.make import FreshInvite

    if options["no_invite"]:
        if options["invite"] is not None:
            raise click.UsageError("--invite and --no-invite contradict each other")
        return None
    if options["invite"] is None:
        return FreshInvite(options["hours"], options["enrol_at"], options["replace"])
    data = read_input(options["invite"], MAX_INVITE_BYTES, "give a file of `fedmentor federation invite`")
    return invite_from_bytes(data, str(options["invite"]))


def _manifest(path: Path | None) -> tuple[bytes, bytes] | None:
    from fedmentor.cli.federation import MAX_MANIFEST_BYTES
    from fedmentor.identity.approval import read_approval

    if path is None:
        return None
    return read_input(path, MAX_MANIFEST_BYTES, "make one with `fedmentor coordinator manifest`"), read_approval(path)


def _show_made(made: Kit, out: Path, *, as_json: bool) -> None:
    expires = None if made.invite is None else made.invite.expires_utc
    if as_json:
        fields = {"kit": str(out), "bytes": len(made.data), "authority_sha256": made.authority, "invite_expires_utc": expires}
        click.echo(json.dumps({"event": "kit", **fields}))
        return
    if made.invite is None:
        click.echo(f"{out}: kit without an invite; it holds no secret")
    else:
        click.echo(
            f"{out}: kit with an invite, good once and until {made.invite.expires:%Y-%m-%d %H:%M} UTC; hand it over in private"
        )
    click.echo(f"authority {made.authority}; read it to the site's IT on the telephone")


def _show_laid(kit: CheckedKit, laid: Laid, *, as_json: bool) -> None:
    from fedmentor.kit.contents import INVITE_FILE

    record = kit.record
    if as_json:
        fields = {"site": record.site, "federation": record.federation, "software": record.software, "kept": laid.kept}
        places = {"kit": str(laid.kit), "settings": str(laid.settings), "certificates": str(laid.certificates)}
        signed = {"authority_sha256": kit.authorities[0], "compared": kit.compared}
        click.echo(json.dumps({"event": "unpacked", **fields, **places, **signed}))
        return
    click.echo(f"{laid.kit}: kit of site {record.site} of {record.federation}, made with FedMentor {record.software}")
    if laid.kept:
        click.echo(f"kept as they were: {', '.join(laid.kept)}")
    if not kit.compared:
        click.echo(f"authority {kit.authorities[0]}; compare it with the registrar on the telephone")
    invite = laid.kit / INVITE_FILE if kit.invite is not None else "FILE"
    click.echo(f"next: set data in {laid.settings}; read {laid.kit / 'README.txt'}; then")
    click.echo(f"  fedmentor node enrol --site {record.site} --certificates {laid.certificates} --invite {invite}")

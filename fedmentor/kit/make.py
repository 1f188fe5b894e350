"""Making a kit at the registrar: what goes in, signed, in one archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmentor import __version__
from fedmentor.errors import ConfigError, PolicyRefusal
from fedmentor.federation import RunManifest, manifest_from_bytes
from fedmentor.identity.approval import approved, check_canonical
from fedmentor.identity.invite import MAX_INVITE_BYTES, Invite
from fedmentor.identity.layout import CA_FILE
from fedmentor.identity.names import Peer
from fedmentor.identity.registrar import Doors, Registrar
from fedmentor.identity.reply import authority_fingerprint
from fedmentor.identity.roster import ROSTER_FILE
from fedmentor.ids import SiteId
from fedmentor.kit.archive import MAX_KIT_BYTES, pack
from fedmentor.kit.check import check_kit
from fedmentor.kit.contents import (
    INVITE_FILE,
    MANIFEST_FILE,
    MANIFEST_SIGNATURE_FILE,
    README_FILE,
    RECORD_FILE,
    RECORD_SIGNATURE_FILE,
    SETTINGS_FILE,
    SHARED_FILES,
    SUMS_FILE,
    KitRecord,
    sha256,
    sums,
)
from fedmentor.kit.program import program_files, resource, templates
from fedmentor.kit.settings import STANDARD_FOLDERS, plain_address, settings_text
from fedmentor.protocol import PROTOCOL

README_TEMPLATE = "README.txt.template"

SECRETS = frozenset({INVITE_FILE})


@dataclass(frozen=True)
class Order:
    """What a kit is to be.

    Attributes:
        site: for whom.
        coordinator: ``host:port`` where the coordinator listens.
        renewals: ``host:port`` where the registrar renews certificates; None where files are carried.
        manifest: bytes of a run's manifest, and the registrar's signature over them (may be empty); None without one.
    """

    site: SiteId
    coordinator: str
    renewals: str | None = None
    manifest: tuple[bytes, bytes] | None = None

    @property
    def approved(self) -> bool:
        """Whether a manifest comes with the registrar's signature."""
        return self.manifest is not None and bool(self.manifest[1])


@dataclass(frozen=True)
class FreshInvite:
    """An invite that is yet to be opened; an earlier one of the same site is worth nothing then.

    Attributes:
        hours: until it expires.
        enrolment: ``host:port`` where the registrar takes enrolments; None where files are carried.
        replace: the site may bring new keys.
    """

    hours: float
    enrolment: str | None = None
    replace: bool = False


@dataclass(frozen=True)
class Kit:
    """A kit that was made.

    Attributes:
        data: the archive.
        authority: fingerprint that the site's IT compares.
        invite: the one in it.
    """

    data: bytes
    authority: str
    invite: Invite | None


def make_kit(registrar: Registrar, order: Order, invite: Invite | FreshInvite | None) -> Kit:
    """Make a kit.

    Everything that can be wrong is found before an invite is opened.

    Raises:
        ConfigError: the manifest is none; an address is none; the authority's key cannot be used.
        IdentityRefused: the manifest's signature is not the registrar's.
        PolicyRefusal: there is no roster yet; the manifest is not this site's; the site is a member already; the invite is
            another end's.
        OSError: the registrar's folder cannot be used.
    """
    registrar.publish()
    shared = {name: (registrar.public / name).read_bytes() for name in SHARED_FILES if (registrar.public / name).exists()}
    if ROSTER_FILE not in shared:
        raise PolicyRefusal("there is no roster yet", cure="admit the coordinator's request first")
    peer = Peer(registrar.state().federation, order.site)
    plain_address(order.coordinator)
    if isinstance(invite, Invite):
        _check_invite(invite, peer, shared[CA_FILE])
    run = None if order.manifest is None else _checked_manifest(*order.manifest, order.site, registrar.public)
    texts = _texts(registrar, order, run, None)
    _packed(order, _signed(registrar, peer, shared | texts))  # a passphrase that is missing, or too large a manifest, shows here
    if isinstance(invite, FreshInvite):
        doors = Doors(*(None if one is None else plain_address(one) for one in (invite.enrolment, order.renewals)))
        invite = registrar.invite(peer, invite.hours, doors, replace=invite.replace)
    texts = _texts(registrar, order, run, invite)
    inside = shared | texts
    if invite is not None:
        inside |= {INVITE_FILE: invite.to_bytes()}
    data = _packed(order, _signed(registrar, peer, inside))
    authority = authority_fingerprint(registrar.authorities()[0])
    check_kit(data, authority)  # a revocation in another process may have come between roster and signature
    return Kit(data, authority, invite)


def _packed(order: Order, sealed: dict[str, bytes]) -> bytes:
    data = pack(f"fedmentor-{order.site}", sealed | {SUMS_FILE: sums(sealed)}, SECRETS)
    if len(data) > MAX_KIT_BYTES - MAX_INVITE_BYTES:
        raise ConfigError(f"the kit would be over {MAX_KIT_BYTES} bytes", cure="leave the manifest out")
    return data


def _signed(registrar: Registrar, peer: Peer, inside: dict[str, bytes]) -> dict[str, bytes]:
    """The files with the record that names them."""
    if peer.site is None:
        raise ConfigError("a kit is a site's")
    digests = {name: sha256(data) for name, data in inside.items()}
    record = KitRecord(software=__version__, federation=peer.federation, site=peer.site, files=digests)
    return inside | {RECORD_FILE: record.to_bytes(), RECORD_SIGNATURE_FILE: registrar.sign(record)}


def _texts(registrar: Registrar, order: Order, run: RunManifest | None, invite: Invite | None) -> dict[str, bytes]:
    """Settings, unit, Compose file, explanation, and the manifest as it is."""
    facts: dict[str, Any] = {
        "site": order.site,
        "federation": registrar.state().federation,
        "coordinator": order.coordinator,
        "renewals": order.renewals,
        "software": __version__,
        "protocol": PROTOCOL,
        "authorities": [authority_fingerprint(one) for one in registrar.authorities()],
        "invite": invite and {"expires": f"{invite.expires:%Y-%m-%d %H:%M} UTC", "enrolment": invite.registrar},
        "run": run,
        "approved": order.approved,
    }
    texts = program_files(order.site, registrar.state().federation, __version__) | {
        README_FILE: templates().get_template(README_TEMPLATE).render(facts).encode(),
        SETTINGS_FILE: _settings(order, run).encode(),
    }
    if order.manifest is not None:
        data, signature = order.manifest
        texts |= {MANIFEST_FILE: data} | ({MANIFEST_SIGNATURE_FILE: signature} if signature else {})
    return texts


def _settings(order: Order, run: RunManifest | None) -> str:
    """Settings of this site; what the manifest in the kit promises is made a condition of this site for every run."""
    values: dict[str, str | bool] = {"site": order.site, "coordinator": order.coordinator, **STANDARD_FOLDERS}
    if order.renewals is not None:
        values["registrar"] = plain_address(order.renewals)
    if run is not None:
        promised = {
            "require_approval": order.approved,
            "require_secure": run.secure is not None,
            "require_privacy": run.privacy is not None,
        }
        values |= {name: True for name, kept in promised.items() if kept}
    return settings_text(resource(SETTINGS_FILE), values)


def _checked_manifest(data: bytes, signature: bytes, site: SiteId, public: Path) -> RunManifest:
    run = manifest_from_bytes(data)
    check_canonical(data, run.to_bytes(), "the manifest")
    approved(data, signature, public)
    if site not in run.roster:
        raise PolicyRefusal(f"site {site} has no part in run {run.run}", cure="give the manifest of a run with this site")
    return run


def _check_invite(invite: Invite, peer: Peer, bundle: bytes) -> None:
    if invite.peer != peer or invite.authorities.encode() != bundle:
        raise PolicyRefusal(
            f"the invite is for {invite.peer.label} of {invite.federation}, or of an authority that is not in force",
            cure="give an invite that this registrar made for the site, or none: the kit then gets one of its own",
        )
    if invite.registrar is not None:
        plain_address(invite.registrar)  # it will stand in the explanation

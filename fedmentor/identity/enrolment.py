"""A member's side of enrolment: makes its own keys, asks, and installs what the registrar answers.

Keys that wait for an answer lie in ``pending/`` beside those in use, which stay as they are until the answer is there::

    sites/SITE/pending/key.pem, signing.pem     private; never leave this folder but for the one above it
    sites/SITE/pending/request.pem              the request, for carrying to the registrar
    sites/SITE/pending/ca.pem                   the authority that an invite named

``install`` may be interrupted anywhere and be run again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.authority import CLOCK_LEEWAY
from fedmentor.identity.credentials import issued_by, load_certificate, peer_of_certificate
from fedmentor.identity.files import read_bounded
from fedmentor.identity.invite import Invite
from fedmentor.identity.keys import key_pem, new_tls_key, read_signing_key, read_tls_key
from fedmentor.identity.layout import (
    CA_FILE,
    CERTIFICATE_FILE,
    COORDINATOR_FOLDER,
    KEY_FILE,
    SIGNING_KEY_FILE,
    SITES_FOLDER,
)
from fedmentor.identity.names import Peer
from fedmentor.identity.reply import CheckedReply, Expected, authority_fingerprint, check_reply, plain_fingerprint
from fedmentor.identity.request import MAX_REQUEST_BYTES, OwnKeys, fingerprint_of, make_request, read_request
from fedmentor.identity.revocation import REVOKED_FILES, read_revocations
from fedmentor.identity.roster import ROSTER_FILE, ROSTER_FILES, read_roster
from fedmentor.identity.signed import MAX_CA_BYTES, authorities_of
from fedmentor.ids import SiteId
from fedmentor.models import write_atomically

PENDING_FOLDER: Final = "pending"
REQUEST_FILE: Final = "request.pem"

_ASK: Final = "get the current files from the registrar"


class CertificateOutlived(ConfigError):
    """Newer documents name only authorities that do not know the certificate in use."""


@dataclass(frozen=True)
class Place:
    """Where one end keeps its identity.

    Attributes:
        certificates: certificates folder.
        peer: whose.
    """

    certificates: Path
    peer: Peer

    @property
    def folder(self) -> Path:
        """With keys and certificate."""
        return self.certificates / (COORDINATOR_FOLDER if self.peer.site is None else Path(SITES_FOLDER, self.peer.site))

    @property
    def pending(self) -> Path:
        """With keys that wait for an answer."""
        return self.folder / PENDING_FOLDER


@dataclass(frozen=True)
class Asked:
    """A request that waits for its answer.

    Attributes:
        request: bytes of ``file``.
        file: where it lies.
        fingerprint: what the registrar may ask for on the telephone.
        again: the keys were made by an earlier call.
    """

    request: bytes
    file: Path
    fingerprint: str
    again: bool


@dataclass(frozen=True)
class Installed:
    """What is in force after a reply was installed; ``expires`` is None where it brought no certificate."""

    expires: datetime | None
    roster_version: int


def ask(place: Place, *, hosts: Sequence[str] = (), invite: Invite | None = None, replace: bool = False) -> Asked:
    """Make keys and a request; a call that finds keys waiting makes the request for those again.

    Args:
        hosts: of a coordinator.
        invite: where there is one.
        replace: new keys are wanted although there are some in use.

    Raises:
        ConfigError: there are keys in use and ``replace`` is not set; hosts or invite do not fit.
        OSError: the folder cannot be written.
    """
    if not replace and any((place.folder / name).exists() for name in (KEY_FILE, SIGNING_KEY_FILE)) and not place.pending.exists():
        raise ConfigError(
            f"{place.folder} has keys already",
            cure="renew their certificate (`renew`), or give --replace to have new keys take their place",
        )
    again = _has_keys(place.pending)
    keys = _read_keys(place.pending) if again else OwnKeys(new_tls_key(), Ed25519PrivateKey.generate())
    request = make_request(place.peer, keys, hosts, invite)
    place.pending.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not again:
        write_atomically(place.pending / KEY_FILE, key_pem(keys.tls), mode=0o600)
        write_atomically(place.pending / SIGNING_KEY_FILE, key_pem(keys.signing), mode=0o600)
    if invite is not None:
        authorities_of(invite.authorities.encode(), "the invite's authority")
        write_atomically(place.pending / CA_FILE, invite.authorities.encode())
    file = place.pending / REQUEST_FILE
    write_atomically(file, request)
    fingerprint = fingerprint_of(place.peer, keys.tls.public_key(), keys.signing.public_key())
    return Asked(request, file, fingerprint, again)


def request_for_keys_in_use(place: Place, hosts: Sequence[str]) -> bytes:
    """A request for the keys that a member has: for a new certificate without another enrolment.

    Raises:
        ConfigError: there are none.
    """
    return make_request(place.peer, _read_keys(place.folder), hosts)


def install(place: Place, reply: bytes, now: datetime, fingerprint: str = "", *, fresh: bool = False) -> Installed:
    """Check a reply and put it in force: an answer to ``ask``, a renewal for the keys in use, or newer documents alone.

    Whoever reads the folder meanwhile sees files that fit together, or reads again within a second.

    Args:
        reply: see fedmentor.identity.reply.
        now: in UTC.
        fingerprint: SHA-256 of the authority as the registrar read it out; needed where neither an invite nor an earlier reply
            has brought the authority here.
        fresh: the registrar made the reply a moment ago, so that its clock is a witness of this machine's.

    Raises:
        ConfigError: no keys are here; the reply is none, or is older than what is installed; this machine's clock is wrong.
        CertificateOutlived: it brings documents alone, and with them the certificate in use would be worth nothing.
        IdentityRefused: the reply is not this federation's, or not this member's.
        OSError: the folder cannot be written; run it again.
    """
    folder, keys, checked = _fitting(place, reply, now, _trusted(place, fingerprint))
    if fresh and checked.certificate is not None:
        _check_clock(load_certificate(checked.certificate, "the reply's certificate"), now)
    _check_not_older(place.certificates, checked)
    if checked.certificate is None:
        _check_goes_with(place, checked)
    _write_shared(place.certificates, checked)
    if checked.certificate is None:
        return Installed(None, checked.roster_version)
    if folder == place.pending:
        write_atomically(place.folder / SIGNING_KEY_FILE, key_pem(keys.signing), mode=0o600)
        write_atomically(place.folder / KEY_FILE, key_pem(keys.tls), mode=0o600)
    write_atomically(place.folder / CERTIFICATE_FILE, checked.certificate)
    if folder == place.pending:
        shutil.rmtree(place.pending, ignore_errors=True)
    return Installed(checked.expires, checked.roster_version)


def waiting_federation(certificates: Path, site: SiteId | None) -> str | None:
    """The federation that a request which waits here, or the certificate in use, is of; None where there is neither.

    Raises:
        ConfigError, IdentityRefused: what is there cannot be read.
    """
    folder = certificates / (COORDINATOR_FOLDER if site is None else Path(SITES_FOLDER, site))
    request, certificate = folder / PENDING_FOLDER / REQUEST_FILE, folder / CERTIFICATE_FILE
    if request.exists():
        return read_request(read_bounded(request, MAX_REQUEST_BYTES, _ASK), str(request)).peer.federation
    if certificate.exists():
        return peer_of_certificate(read_bounded(certificate, MAX_CA_BYTES, _ASK)).federation
    return None


def _fitting(place: Place, reply: bytes, now: datetime, trusted: frozenset[str]) -> tuple[Path, OwnKeys, CheckedReply]:
    """The keys that a reply is for: those that wait, or those in use.

    Raises:
        ConfigError, IdentityRefused: no keys are here, or it is for none of them.
    """
    folders = [folder for folder in (place.pending, place.folder) if _has_keys(folder)]
    if not folders:
        raise ConfigError(
            f"{place.folder} has no keys that a reply could be for", cure="make them and a request with `enrol` first"
        )
    refusal: IdentityRefused | None = None
    for folder in folders:
        keys = _read_keys(folder)
        try:
            return (
                folder,
                keys,
                check_reply(reply, Expected(place.peer, keys.tls.public_key(), keys.signing.public_key(), trusted), now),
            )
        except IdentityRefused as error:
            refusal = refusal or error
    raise refusal or IdentityRefused("the reply is for nobody here")


def _has_keys(folder: Path) -> bool:
    return all((folder / name).exists() for name in (KEY_FILE, SIGNING_KEY_FILE))


def _read_keys(folder: Path) -> OwnKeys:
    return OwnKeys(read_tls_key(folder / KEY_FILE), read_signing_key(folder / SIGNING_KEY_FILE))


def _trusted(place: Place, fingerprint: str) -> frozenset[str]:
    """What this member trusts: what a person compared, what an invite named, and what is installed."""
    found = {plain_fingerprint(fingerprint)} if fingerprint else set()
    for file in (place.pending / CA_FILE, place.certificates / CA_FILE):
        if file.exists():
            authorities = authorities_of(read_bounded(file, MAX_CA_BYTES, _ASK), str(file))
            found |= {authority_fingerprint(authority) for authority in authorities}
    return frozenset(found)


def _check_clock(certificate: x509.Certificate, now: datetime) -> None:
    """Hold this machine's clock against a certificate that was issued a moment ago.

    Raises:
        ConfigError: they differ by more than CLOCK_LEEWAY.
    """
    ahead = now - (certificate.not_valid_before_utc + CLOCK_LEEWAY)  # certificates are valid from a little before they are made
    if abs(ahead) > CLOCK_LEEWAY:
        minutes = round(abs(ahead).total_seconds() / 60)
        size = f"{minutes // 1440} days" if minutes >= 1440 else f"{minutes} minutes"
        side = "ahead of" if ahead > timedelta(0) else "behind"
        raise ConfigError(
            f"this machine's clock is {size} {side} the registrar's",
            cure="set the clock, best by NTP (chrony, timesyncd), and run the same again: the invite stays good for these keys",
        )


def _check_not_older(certificates: Path, reply: CheckedReply) -> None:
    """Refuse documents behind those that are installed; versions of another authority, as after a new foundation, do not compare.

    Raises:
        ConfigError: they are.
    """
    if not (certificates / CA_FILE).exists():
        return
    installed = authorities_of(read_bounded(certificates / CA_FILE, MAX_CA_BYTES, _ASK), str(certificates / CA_FILE))
    if set(installed).isdisjoint(authorities_of(reply.authorities, "the reply's bundle")):
        return
    versions = [(reply.roster_version, _installed_roster(certificates)), (reply.revoked_version, _installed_revoked(certificates))]
    if any(new < old for new, old in versions):
        raise ConfigError(
            "the reply is older than the roster or deny-list that is installed", cure="ask the registrar for a new reply"
        )


def _check_goes_with(place: Place, reply: CheckedReply) -> None:
    """Refuse documents whose authorities do not know the certificate in use: it could not be used any more.

    Raises:
        CertificateOutlived: they do not.
    """
    file = place.folder / CERTIFICATE_FILE
    certificate = load_certificate(read_bounded(file, MAX_CA_BYTES, _ASK), str(file))
    if not any(issued_by(certificate, authority) for authority in authorities_of(reply.authorities, "the reply's bundle")):
        raise CertificateOutlived(f"{file} is not of an authority that is still in force", cure="renew it first")


def _installed_roster(certificates: Path) -> int:
    """Version of the roster here; 0 where there is none, or none that the authority here signed (it was rotated)."""
    if not (certificates / ROSTER_FILE).exists():
        return 0
    try:
        return read_roster(certificates).version
    except (ConfigError, IdentityRefused):
        return 0


def _installed_revoked(certificates: Path) -> int:
    try:
        found = read_revocations(certificates)
    except (ConfigError, IdentityRefused):
        return 0
    return 0 if found is None else found.version


def _write_shared(certificates: Path, reply: CheckedReply) -> None:
    """The authority first: what comes after is checked against it."""
    write_atomically(certificates / CA_FILE, reply.authorities)
    for files, document in ((ROSTER_FILES, reply.roster), (REVOKED_FILES, reply.revoked)):
        if document is not None:
            write_atomically(certificates / files.name, document.data)
            write_atomically(certificates / files.signature_name, document.signature)

"""The registrar's answer to a request: certificate, authority, roster and deny-list in one file that holds no secret."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.credentials import check_validity, issued_by, load_certificate, peer_of_certificate
from fedmentor.identity.keys import raw_public, spki
from fedmentor.identity.layout import CA_FILE
from fedmentor.identity.names import Peer
from fedmentor.identity.revocation import MAX_REVOKED_BYTES, REVOKED_FILES, RevocationList, revocations_from_bytes
from fedmentor.identity.roster import MAX_ROSTER_BYTES, ROSTER_FILES, FederationRoster, roster_from_bytes
from fedmentor.identity.signed import (
    MAX_AUTHORITIES,
    MAX_SIGNATURE_BYTES,
    SignedDocument,
    authorities_of,
    bundle_bytes,
    check_signature,
)
from fedmentor.ids import SiteId
from fedmentor.settings import first_fault

MAX_REPLY_BYTES: Final = 2 * (MAX_ROSTER_BYTES + MAX_REVOKED_BYTES)
"""Roster and deny-list as JSON strings, whose quotes are escaped."""

_ASK: Final = "ask the registrar for another reply"

Signature = Annotated[bytes, Field(max_length=MAX_SIGNATURE_BYTES)]


class _Signed(BaseModel):
    """A signed document inside a reply; the text is what was signed, letter for letter."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")

    text: str
    signature: Signature

    @property
    def document(self) -> SignedDocument:
        return SignedDocument(self.text.encode(), self.signature)


class EnrolmentReply(BaseModel):
    """A reply as it stands in its file.

    Attributes:
        format: names the kind of document.
        authorities: what ``ca.pem`` is to be: PEM, two certificates while the authority is rotated.
        authority_signatures: over ``authorities``, by each of them: whoever trusts one of them may trust the others.
        certificate: PEM; None where only the documents were asked for.
        roster: the newest one.
        revoked: the newest deny-list; None where nothing was ever revoked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")

    format: Literal["fedmentor-reply-1"] = "fedmentor-reply-1"
    authorities: str
    authority_signatures: tuple[Signature, ...] = Field(max_length=MAX_AUTHORITIES)
    certificate: str | None = None
    roster: _Signed
    revoked: _Signed | None = None

    def to_bytes(self) -> bytes:
        """JSON."""
        return (self.model_dump_json(indent=2) + "\n").encode()


@dataclass(frozen=True)
class ReplyParts:
    """What a registrar puts into a reply; see EnrolmentReply."""

    authorities: bytes
    authority_signatures: tuple[bytes, ...]
    certificate: bytes | None
    roster: SignedDocument
    revoked: SignedDocument | None

    def to_bytes(self) -> bytes:
        """The reply's file."""
        return EnrolmentReply(
            authorities=self.authorities.decode(),
            authority_signatures=self.authority_signatures,
            certificate=None if self.certificate is None else self.certificate.decode(),
            roster=_signed(self.roster),
            revoked=None if self.revoked is None else _signed(self.revoked),
        ).to_bytes()


@dataclass(frozen=True)
class Expected:
    """What a member knows before it reads a reply.

    Attributes:
        peer: who it is.
        tls_key, signing_key: its own public keys.
        fingerprints: SHA-256 of the authorities that it trusts, each hexadecimal.
    """

    peer: Peer
    tls_key: ec.EllipticCurvePublicKey
    signing_key: Ed25519PublicKey
    fingerprints: frozenset[str]


@dataclass(frozen=True)
class CheckedReply:
    """A reply whose every part was verified; without a certificate and its end where it brings documents alone."""

    authorities: bytes
    certificate: bytes | None
    expires: datetime | None
    roster: SignedDocument
    roster_version: int
    revoked: SignedDocument | None
    revoked_version: int


def documents_digest(folder: Path) -> str:
    """SHA-256 over authority, roster and deny-list as they lie in a folder: whether two folders have the same; hexadecimal."""
    total = hashlib.sha256()
    for name in (CA_FILE, ROSTER_FILES.name, REVOKED_FILES.name):
        data = (folder / name).read_bytes() if (folder / name).exists() else b""
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()


def plain_fingerprint(text: str) -> str:
    """A fingerprint as a person gave it in the form of authority_fingerprint: lower case, no colons, hyphens and spaces."""
    return "".join(char for char in text.lower() if char not in ": -")


def authority_fingerprint(authority: x509.Certificate) -> str:
    """SHA-256 of a certificate, as ``openssl x509 -fingerprint -sha256`` prints it, in lower case and without colons."""
    return authority.fingerprint(hashes.SHA256()).hex()


def check_reply(data: bytes, expected: Expected, now: datetime) -> CheckedReply:
    """Check a reply before anything of it is installed.

    1. size and form; 2. an authority that this member trusts is in the bundle, which is nothing but certificates, and signed it;
    3. the certificate is for this member's key and name, issued by the bundle, and valid now; 4. roster and deny-list are signed,
    and of this federation; 5. the roster names this member with its own signing key.

    What the caller still owes: that no version is lower than one it has.

    Raises:
        ConfigError: 1 does not hold, or the certificate is not valid now.
        IdentityRefused: any other does not hold.
    """
    # (1)
    reply = _reply(data)
    # (2)
    authorities = authorities_of(reply.authorities.encode(), "the reply's bundle of authorities")
    _check_bundle(reply, authorities, expected.fingerprints)
    # (3)
    certificate = None if reply.certificate is None else _checked_certificate(reply.certificate, authorities, expected, now)
    # (4)
    check_signature(reply.roster.document, authorities, "the reply's roster")
    roster = roster_from_bytes(reply.roster.document.data, "the reply's roster")
    revoked = _revoked(reply, authorities)
    if roster.federation != expected.peer.federation or (revoked and revoked.federation != expected.peer.federation):
        raise IdentityRefused("the reply's roster or deny-list is another federation's", cure=_ASK)
    # (5)
    if _key_on(roster, expected.peer.site) != raw_public(expected.signing_key):
        raise IdentityRefused(f"the reply's roster does not name {expected.peer.label} with its own signing key", cure=_ASK)
    return CheckedReply(
        authorities=reply.authorities.encode(),
        certificate=None if certificate is None else certificate.public_bytes(Encoding.PEM),
        expires=None if certificate is None else certificate.not_valid_after_utc,
        roster=reply.roster.document,
        roster_version=roster.version,
        revoked=None if reply.revoked is None else reply.revoked.document,
        revoked_version=0 if revoked is None else revoked.version,
    )


def _reply(data: bytes) -> EnrolmentReply:
    if len(data) > MAX_REPLY_BYTES:
        raise ConfigError(f"the reply is over {MAX_REPLY_BYTES} bytes", cure=_ASK)
    try:
        return EnrolmentReply.model_validate_json(data)
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(f"the reply is not one of a registrar: {fault.name or 'the file'}: {fault.message}", cure=_ASK) from error


def _check_bundle(reply: EnrolmentReply, authorities: Sequence[x509.Certificate], fingerprints: frozenset[str]) -> None:
    trusted = [authority for authority in authorities if authority_fingerprint(authority) in fingerprints]
    if not trusted:
        raise IdentityRefused(
            "the reply's authority is not the one that this member trusts",
            cure="compare the authority's fingerprint with the registrar by telephone and give it with --authority",
        )
    bundle = reply.authorities.encode()
    if bundle != bundle_bytes(authorities):
        raise IdentityRefused("the reply's bundle of authorities is not PEM as a registrar writes it", cure=_ASK)
    for signature in reply.authority_signatures:
        try:
            check_signature(SignedDocument(bundle, signature), trusted, "the reply's bundle")
        except IdentityRefused:
            continue
        return
    raise IdentityRefused("the reply's bundle of authorities was not signed by the one that this member trusts", cure=_ASK)


def _checked_certificate(pem: str, authorities: Sequence[x509.Certificate], expected: Expected, now: datetime) -> x509.Certificate:
    certificate = load_certificate(pem.encode(), "the reply's certificate")
    if not any(issued_by(certificate, authority) for authority in authorities):
        raise IdentityRefused("the reply's certificate was not issued by the authority beside it", cure=_ASK)
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or spki(key) != spki(expected.tls_key):
        raise IdentityRefused(
            "the reply's certificate is for another key than the one that waits here",
            cure="send the request that was made last, and install the reply to it",
        )
    if peer_of_certificate(certificate.public_bytes(Encoding.PEM)) != expected.peer:
        raise IdentityRefused(f"the reply's certificate is not that of {expected.peer.label}", cure=_ASK)
    check_validity(certificate, "the reply's certificate", now)
    return certificate


def _revoked(reply: EnrolmentReply, authorities: Sequence[x509.Certificate]) -> RevocationList | None:
    if reply.revoked is None:
        return None
    check_signature(reply.revoked.document, authorities, "the reply's deny-list")
    return revocations_from_bytes(reply.revoked.document.data, "the reply's deny-list")


def _key_on(roster: FederationRoster, site: SiteId | None) -> bytes | None:
    if site is None:
        return roster.coordinator_key
    member = roster.find(site)
    return None if member is None else member.signing_key


def _signed(document: SignedDocument) -> _Signed:
    return _Signed(text=document.data.decode(), signature=document.signature)

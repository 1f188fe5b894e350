"""One-time invites: a site that holds one is admitted without a phone call.

The token is the seed of an Ed25519 key. The site signs its public keys with it; the registrar keeps the public half only, so that
neither its state nor a request that somebody reads on the way lets anybody else be admitted.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedmentor.errors import ConfigError
from fedmentor.identity.keys import raw_public, spki
from fedmentor.identity.names import Peer, federation_name
from fedmentor.identity.roster import utc_text
from fedmentor.identity.signed import MAX_CA_BYTES
from fedmentor.ids import SiteId, site_id
from fedmentor.settings import first_fault

TOKEN_BYTES: Final = 32
MAX_INVITE_BYTES: Final = 2 * MAX_CA_BYTES

_CONTEXT: Final = b"fedmentor invite 1\0"


class Invite(BaseModel):
    """What the registrar hands to one member, over a channel on which nobody else reads: whoever has it can be that member.

    Attributes:
        format: names the kind of document.
        federation: trust domain.
        site: who is invited; None for the coordinator.
        authorities: PEM of the federation's authority: the member trusts it from here on.
        token: seed of the invite's key; never printed.
        expires_utc: ISO 8601, UTC; the registrar decides by its own clock.
        registrar: ``host:port`` for enrolment online; None where files are carried.
        renewals: ``host:port`` for renewals; None where files are carried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")

    format: Literal["fedmentor-invite-1"] = "fedmentor-invite-1"
    federation: Annotated[str, AfterValidator(federation_name)]
    site: Annotated[SiteId, AfterValidator(site_id)] | None
    authorities: str
    token: Annotated[bytes, Field(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES, repr=False)]
    expires_utc: Annotated[str, AfterValidator(utc_text)]
    registrar: str | None = None
    renewals: str | None = None

    @property
    def peer(self) -> Peer:
        """Who is invited."""
        return Peer(self.federation, self.site)

    @property
    def key(self) -> Ed25519PrivateKey:
        """What proves the invite."""
        return Ed25519PrivateKey.from_private_bytes(self.token)

    @property
    def expires(self) -> datetime:
        """The end of the invite."""
        return datetime.fromisoformat(self.expires_utc)

    def to_bytes(self) -> bytes:
        """JSON for a file of mode 0600."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def invite_from_bytes(data: bytes, source: str) -> Invite:
    """Read an invite.

    Raises:
        ConfigError: not an invite; the message holds no part of the token.
    """
    try:
        return Invite.model_validate_json(data)
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(
            f"{source} is not an invite: {fault.name or 'the file'}: {fault.message}", cure="ask the registrar for another one"
        ) from error


def prove(invite: Invite, tls_key: ec.EllipticCurvePublicKey, signing_key: Ed25519PublicKey) -> bytes:
    """The invite's signature over who is admitted with which keys; 64 bytes."""
    return invite.key.sign(enrolment_bytes(invite.peer, tls_key, signing_key))


def proves(proof: bytes, invite_key: bytes, peer: Peer, tls_key: ec.EllipticCurvePublicKey, signing_key: Ed25519PublicKey) -> bool:
    """Whether a proof was made with the invite whose raw public key this is, for exactly this peer and these keys."""
    try:
        Ed25519PublicKey.from_public_bytes(invite_key).verify(proof, enrolment_bytes(peer, tls_key, signing_key))
    except InvalidSignature:
        return False
    return True


def enrolment_bytes(peer: Peer, tls_key: ec.EllipticCurvePublicKey, signing_key: Ed25519PublicKey) -> bytes:
    """Who asks to be admitted with which keys, as bytes of one length each: what an invite signs and a fingerprint hashes."""
    parts = (peer.uri.encode(), spki(tls_key), raw_public(signing_key))
    return _CONTEXT + b"".join(hashlib.sha256(part).digest() for part in parts)

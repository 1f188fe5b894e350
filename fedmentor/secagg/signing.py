"""Signed messages: Ed25519 (RFC 8032) over exactly the bytes that were received, never over something encoded again.

The signing key is a site's own and is not its TLS key: a coordinator that terminates TLS can thus not speak for a site.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.transcript import PROTOCOL

SIGNATURE_BYTES = 64
SIGNING_KEY_BYTES = 32

MAX_SIGNED_BYTES = 64 << 10
"""Above the largest message (the reveal of a site with 1,023 neighbours, 36 kB), and nothing longer is parsed or hashed."""


@dataclass(frozen=True)
class Signed:
    """A message's bytes and the signature over them; what is inside is not to be believed before ``verify``."""

    body: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """Body, then 64 bytes of signature."""
        return self.body + self.signature


def signed_from_bytes(data: bytes) -> Signed:
    """Split what came over the wire.

    Raises:
        ProtocolRefused: MALFORMED, too short or over MAX_SIGNED_BYTES.
    """
    if not SIGNATURE_BYTES < len(data) <= MAX_SIGNED_BYTES:
        raise ProtocolRefused(Reason.MALFORMED, f"a signed message of {len(data)} bytes is none")
    return Signed(bytes(data[:-SIGNATURE_BYTES]), bytes(data[-SIGNATURE_BYTES:]))


@final
class Signer:
    """A site's long-term signing key and its place on the roster. The key is never printed."""

    __slots__ = ("_key", "index")

    def __init__(self, index: int, key: Ed25519PrivateKey) -> None:
        self.index = index
        self._key = key

    @property
    def public_key(self) -> bytes:
        """32 bytes, as they stand on the roster."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, body: bytes) -> Signed:
        """Sign under this protocol's name."""
        return Signed(body, self._key.sign(_signed_bytes(body)))

    def __repr__(self) -> str:
        return f"Signer(index={self.index})"


def verify(public_key: bytes, signed: Signed) -> None:
    """Check a signature.

    Raises:
        ProtocolRefused: BAD_SIGNATURE.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signed.signature, _signed_bytes(signed.body))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolRefused(Reason.BAD_SIGNATURE, "a message is not signed by the site that it names") from error


def _signed_bytes(body: bytes) -> bytes:
    # The protocol's name in front, so that a signature made for another purpose with the same key is worth nothing here.
    return PROTOCOL + b"\0" + body

"""Private keys of one end: a P-256 key for TLS and an Ed25519 key (RFC 8032) for statements. Never one key for both.

Keys lie unencrypted in files that only their owner may read; they are made where they are used and never leave that machine.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)

from fedmentor.errors import ConfigError
from fedmentor.identity.files import read_bounded
from fedmentor.ids import Digest

SIGNING_KEY_BYTES: Final = 32
"""Of a raw Ed25519 public key."""

MAX_KEY_FILE_BYTES: Final = 1 << 14
"""Far more than any PEM key that is made here."""

PublicKey = ec.EllipticCurvePublicKey | Ed25519PublicKey

_ENROL = "enrol again with `fedmentor node enrol`, or restore the file from the machine that made it"


def new_tls_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8 PEM; write it with mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def raw_public(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 bytes by which a roster names a signing key."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def spki(key: PublicKey) -> bytes:
    """A public key as DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_digest(key: PublicKey) -> Digest:
    """SHA-256 of a key's SubjectPublicKeyInfo: the same for every certificate of that key."""
    return Digest(hashlib.sha256(spki(key)).hexdigest())


def load_tls_public(der: bytes) -> ec.EllipticCurvePublicKey:
    """A public key for TLS from its SubjectPublicKeyInfo.

    Raises:
        ConfigError: not one of a P-256 key.
    """
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("a public key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("a public key for TLS is not a P-256 key")
    return key


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read ``signing.pem``.

    Raises:
        ConfigError: missing, over MAX_KEY_FILE_BYTES, not an unencrypted PEM key, or of another kind.
    """
    key = _read_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key", cure=_ENROL)
    return key


def read_tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read ``key.pem``.

    Raises:
        ConfigError: missing, over MAX_KEY_FILE_BYTES, not an unencrypted PEM key, or of another kind.
    """
    key = _read_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path} is not a P-256 key", cure=_ENROL)
    return key


def _read_key(path: Path) -> PrivateKeyTypes:
    pem = read_bounded(path, MAX_KEY_FILE_BYTES, _ENROL)
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is not an unencrypted PEM key", cure=_ENROL) from error

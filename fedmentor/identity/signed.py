"""Documents that a federation's authority signs: the file, and beside it a detached signature that a stock openssl verifies.

::

    openssl x509 -in ca.pem -noout -pubkey > ca.pub
    openssl dgst -sha256 -verify ca.pub -signature roster.sig roster.json

One key signs documents of several kinds, and a signature of one kind is worth nothing under another: each reader takes exactly one
form of bytes, and no bytes have two of these forms.

============== ==================================================================================================
kind           what is signed
============== ==================================================================================================
document       canonical JSON of exactly its fields, one of which is ``format`` (CanonicalDocument)
run manifest   canonical JSON of exactly its fields, none of which is ``format`` (fedmentor.federation.RunManifest)
bundle         PEM certificates in their canonical form and nothing else (``bundle_bytes``)
certificate    DER (RFC 5280), which begins with 0x30 and is no text
============== ==================================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args, get_origin

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ValidationError

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.files import read_bounded
from fedmentor.identity.layout import CA_FILE
from fedmentor.models import canonical_json
from fedmentor.settings import first_fault

MAX_AUTHORITIES: Final = 4
"""Certificates in ``ca.pem``: one, and while the authority is rotated two."""

MAX_CA_BYTES: Final = 1 << 16
MAX_SIGNATURE_BYTES: Final = 128
"""A DER signature of P-256 is at most 72."""

RENEWAL_TRIES: Final = 5
RENEWAL_PAUSE_SECONDS: Final = 0.2
"""Files that do not fit together are read so many times, so far apart: they may be in the middle of being renewed."""

_ASK = "get the current files from the registrar (`fedmentor federation roster --out`)"


UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises where a certificate or a request for one cannot be read, be it when it is loaded or later."""


class CanonicalDocument(BaseModel):
    """A document with one form: the bytes that are signed. Its ``format`` is a literal that no other kind has."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """Refuse a kind of document whose bytes would not say which kind it is.

        Raises:
            TypeError: it has no field ``format`` that is one literal, by default, too.
        """
        field = cls.model_fields.get("format")
        if field is None or get_origin(field.annotation) is not Literal or get_args(field.annotation) != (field.default,):
            raise TypeError(f"{cls.__name__} needs a field `format` that is one literal, which is its default")

    def to_bytes(self) -> bytes:
        """Canonical JSON; the bytes that are signed."""
        return canonical_json(self.model_dump(mode="json"))


Document = TypeVar("Document", bound=CanonicalDocument)


@dataclass(frozen=True)
class SignedDocument:
    """A document's exact bytes and the authority's signature over them (ECDSA with SHA-256, DER)."""

    data: bytes
    signature: bytes


@dataclass(frozen=True)
class DocumentFiles:
    """Where a kind of document lies in a certificates folder, and how large it may be."""

    name: str
    signature_name: str
    max_bytes: int


def authorities_of(pem: bytes, source: str) -> list[x509.Certificate]:
    """The certificates of ``ca.pem``.

    Args:
        source: what to call it in an error.

    Raises:
        ConfigError: no certificate, too many, or one that is not a P-256 authority's.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
        keys = [authority.public_key() for authority in found]
    except UNREADABLE as error:
        raise ConfigError(f"{source} is not a PEM certificate", cure=_ASK) from error
    if len(found) > MAX_AUTHORITIES:
        raise ConfigError(f"{source} has {len(found)} certificates, at most {MAX_AUTHORITIES} are taken", cure=_ASK)
    if not all(isinstance(key, ec.EllipticCurvePublicKey) for key in keys):
        raise ConfigError(f"{source} has a certificate whose key is not an elliptic-curve one", cure=_ASK)
    return found


def bundle_bytes(authorities: Sequence[x509.Certificate]) -> bytes:
    """The one form of a bundle that is signed. A reader of PEM skips what stands around certificates, be it another document."""
    return b"".join(authority.public_bytes(Encoding.PEM) for authority in authorities)


def check_signature(document: SignedDocument, authorities: Sequence[x509.Certificate], what: str) -> x509.Certificate:
    """Check that one of the authorities signed a document; gives that one.

    Raises:
        IdentityRefused: none did.
    """
    for authority in authorities:
        key = authority.public_key()
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(document.signature, document.data, ec.ECDSA(hashes.SHA256()))
                return authority
        except InvalidSignature:
            continue
    raise IdentityRefused(f"{what} was not signed by this federation's authority", cure=_ASK)


def read_signed(folder: Path, files: DocumentFiles, pause: Callable[[float], None] | None = time.sleep) -> bytes:
    """Read a document of a certificates folder and verify it against ``ca.pem`` there.

    A signature that does not fit is read again for a second: one of the files may have been renewed just before another was read.

    Args:
        pause: sleeps for so many seconds; None reads once.

    Raises:
        ConfigError: a file is missing, too large or not what it should be.
        IdentityRefused: the authority did not sign it.
    """
    for _ in range(RENEWAL_TRIES - 1 if pause else 0):
        try:
            return _read_once(folder, files)
        except IdentityRefused:
            if pause:
                pause(RENEWAL_PAUSE_SECONDS)
    return _read_once(folder, files)


def _read_once(folder: Path, files: DocumentFiles) -> bytes:
    ca_file = folder / CA_FILE
    authorities = authorities_of(read_bounded(ca_file, MAX_CA_BYTES, _ASK), str(ca_file))
    data = read_bounded(folder / files.name, files.max_bytes, _ASK)
    signature = read_bounded(folder / files.signature_name, MAX_SIGNATURE_BYTES, _ASK)
    check_signature(SignedDocument(data, signature), authorities, str(folder / files.name))
    return data


def document_fault(what: str, name: str, message: str) -> ConfigError:
    """The error for a document whose signature may be right and whose content is not."""
    where = f" at {name!r}" if name else ""
    return ConfigError(f"{what} is wrong{where}: {message}", cure=_ASK)


def document_from_bytes(kind: type[Document], data: bytes, max_bytes: int, source: str) -> Document:
    """Read a document whose signature was checked.

    Args:
        kind: of document.
        source: what to call it in an error.

    Raises:
        ConfigError: over ``max_bytes``, not of this kind, or not in canonical form.
    """
    if len(data) > max_bytes:
        raise ConfigError(f"{source} is over {max_bytes} bytes")
    try:
        document = kind.model_validate_json(data)
    except ValidationError as error:
        fault = first_fault(error)
        raise document_fault(source, fault.name, fault.message) from error
    if document.to_bytes() != data:
        raise document_fault(source, "", "it is not canonical JSON")
    return document

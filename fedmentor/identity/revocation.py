"""The deny-list: certificates and keys that are refused before they expire, signed by the federation's authority.

gRPC for Python exposes no X.509 revocation list (grpc/grpc issue 11841), so this list is read by the program that answers calls.
A certificate is refused for its serial number or for its key: whoever stole a key cannot go on with a renewed certificate of it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AfterValidator, ConfigDict, Field

from fedmentor import ids
from fedmentor.errors import ConfigError
from fedmentor.identity.keys import spki_digest
from fedmentor.identity.names import federation_name
from fedmentor.identity.roster import MAX_VERSION, utc_text
from fedmentor.identity.signed import CanonicalDocument, DocumentFiles, document_from_bytes, read_signed
from fedmentor.ids import Digest

REVOKED_FILE: Final = "revoked.json"
REVOKED_SIGNATURE_FILE: Final = "revoked.sig"

MAX_REVOKED: Final = 1 << 14
"""Serials, and as many keys; of short-lived certificates only those that have not expired need to stand there."""

MAX_REVOKED_BYTES: Final = 2 << 20
"""MAX_REVOKED serials of 40 digits and keys of 64 are about 1.8 MB."""

REVOKED_FILES: Final = DocumentFiles(REVOKED_FILE, REVOKED_SIGNATURE_FILE, MAX_REVOKED_BYTES)


class RevocationList(CanonicalDocument):
    """What is refused.

    Attributes:
        format: names the kind of document.
        federation: trust domain of the certificates.
        version: counts up with every change; a reader never goes back to a lower one.
        issued_utc: ISO 8601, UTC.
        serials: serial numbers of certificates, lower-case hexadecimal (RFC 5280: at most 20 octets), sorted.
        keys: SHA-256 of SubjectPublicKeyInfo, sorted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["fedmentor-revoked-1"] = "fedmentor-revoked-1"
    federation: Annotated[str, AfterValidator(federation_name)]
    version: int = Field(ge=1, le=MAX_VERSION)
    issued_utc: Annotated[str, AfterValidator(utc_text)]
    serials: tuple[Annotated[str, Field(pattern=r"^[1-9a-f][0-9a-f]{0,39}$")], ...] = Field((), max_length=MAX_REVOKED)
    keys: tuple[Annotated[Digest, AfterValidator(ids.digest)], ...] = Field((), max_length=MAX_REVOKED)

    def model_post_init(self, _context: object) -> None:
        """Check what no single field shows.

        Raises:
            ConfigError: serials or keys are not sorted, or one stands there twice.
        """
        for values in (self.serials, self.keys):
            if list(values) != sorted(set(values)):
                raise ConfigError("serials and keys of a deny-list must be sorted and stand there once each")

    def covers(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate, or any of its key, is refused."""
        key = certificate.public_key()
        if _holds(self.serials, serial_text(certificate.serial_number)):
            return True
        return isinstance(key, ec.EllipticCurvePublicKey) and _holds(self.keys, spki_digest(key))


def serial_text(serial: int) -> str:
    """A serial number as it stands in the list; ``openssl x509 -serial`` prints the same digits in upper case."""
    return f"{serial:x}"


def revocations_from_bytes(data: bytes, source: str = "the deny-list") -> RevocationList:
    """Read a deny-list whose signature was checked.

    Raises:
        ConfigError: over MAX_REVOKED_BYTES, not a deny-list, or not in canonical form.
    """
    return document_from_bytes(RevocationList, data, MAX_REVOKED_BYTES, source)


def read_revocations(folder: Path, pause: Callable[[float], None] | None = sleep) -> RevocationList | None:
    """Read ``revoked.json`` of a certificates folder; ``revoked.sig`` must be the signature of an authority in ``ca.pem`` there.

    What the caller still owes: that the federation is its own, and that ``version`` is not lower than one it has seen.

    Returns:
        None where neither file is there: nothing was ever revoked, or nobody brought the list here.

    Raises:
        ConfigError: a file is missing, too large or not what it should be.
        IdentityRefused: the authority did not sign the list.
    """
    if not any((folder / name).exists() for name in (REVOKED_FILE, REVOKED_SIGNATURE_FILE)):
        return None
    return revocations_from_bytes(read_signed(folder, REVOKED_FILES, pause), str(folder / REVOKED_FILE))


def _holds(values: Sequence[str], value: str) -> bool:
    place = bisect_left(values, value)
    return place < len(values) and values[place] == value

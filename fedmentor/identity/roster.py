"""The roster: every member of a federation with the key that it signs statements with, signed by the federation's authority.

A site that holds it needs nobody's word for who the others are; the coordinator cannot add a member or swap a key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Annotated, Final, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedmentor.errors import ConfigError
from fedmentor.identity.keys import SIGNING_KEY_BYTES
from fedmentor.identity.names import federation_name
from fedmentor.identity.signed import CanonicalDocument, DocumentFiles, document_from_bytes, read_signed
from fedmentor.ids import Digest, SiteId, site_id

ROSTER_FILE: Final = "roster.json"
ROSTER_SIGNATURE_FILE: Final = "roster.sig"

MAX_MEMBERS: Final = 4096
MAX_ROSTER_BYTES: Final = 1 << 20
"""MAX_MEMBERS with names of 63 characters are about 700 kB."""

MAX_VERSION: Final = (1 << 53) - 1
"""The largest integer that every reader of JSON takes exactly (RFC 8259, section 6)."""

ROSTER_FILES: Final = DocumentFiles(ROSTER_FILE, ROSTER_SIGNATURE_FILE, MAX_ROSTER_BYTES)


def utc_text(text: str) -> str:
    """Check a time in a document: ISO 8601 with the offset of UTC.

    Raises:
        ValueError: another form or zone.
    """
    if datetime.fromisoformat(text).utcoffset() != timedelta(0):
        raise ValueError("expected ISO 8601 with +00:00")
    return text


RawSigningKey = Annotated[bytes, Field(min_length=SIGNING_KEY_BYTES, max_length=SIGNING_KEY_BYTES)]
"""Raw Ed25519 public key; lower-case hexadecimal in JSON."""


class RosterMember(BaseModel):
    """One site, and the raw Ed25519 public key of its ``signing.pem``."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")

    site: Annotated[SiteId, AfterValidator(site_id)]
    signing_key: RawSigningKey

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The key, ready to verify with."""
        return Ed25519PublicKey.from_public_bytes(self.signing_key)


class FederationRoster(CanonicalDocument):
    """Who belongs to a federation.

    Attributes:
        format: names the kind of document.
        federation: trust domain of the members' certificates.
        version: counts up with every change; a reader never goes back to a lower one.
        issued_utc: ISO 8601, UTC.
        coordinator_key: raw Ed25519 public key of the coordinator.
        members: sorted by site.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")

    format: Literal["fedmentor-roster-1"] = "fedmentor-roster-1"
    federation: Annotated[str, AfterValidator(federation_name)]
    version: int = Field(ge=1, le=MAX_VERSION)
    issued_utc: Annotated[str, AfterValidator(utc_text)]
    coordinator_key: RawSigningKey
    members: tuple[RosterMember, ...] = Field(max_length=MAX_MEMBERS)

    def model_post_init(self, _context: object) -> None:
        """Check what no single field shows.

        Raises:
            ConfigError: members not sorted, or a site or a key twice.
        """
        sites = [member.site for member in self.members]
        if sites != sorted(set(sites)):
            raise ConfigError("the roster's members must be sorted and each site must stand there once")
        keys = [self.coordinator_key, *(member.signing_key for member in self.members)]
        if len(set(keys)) != len(keys):
            raise ConfigError("a signing key stands on the roster twice")

    def find(self, site: SiteId) -> RosterMember | None:
        """A site's line; None where it is not a member."""
        return next((member for member in self.members if member.site == site), None)

    @property
    def signing_keys(self) -> dict[SiteId, bytes]:
        """Every site's raw Ed25519 public key."""
        return {member.site: member.signing_key for member in self.members}

    @property
    def digest(self) -> Digest:
        """SHA-256 of to_bytes()."""
        return Digest(hashlib.sha256(self.to_bytes()).hexdigest())


def roster_from_bytes(data: bytes, source: str = "the roster") -> FederationRoster:
    """Read a roster whose signature was checked.

    Raises:
        ConfigError: over MAX_ROSTER_BYTES, not a roster, or not in canonical form.
    """
    return document_from_bytes(FederationRoster, data, MAX_ROSTER_BYTES, source)


def read_roster(folder: Path, pause: Callable[[float], None] | None = sleep) -> FederationRoster:
    """Read ``roster.json`` of a certificates folder; ``roster.sig`` must be the signature of an authority in ``ca.pem`` there.

    What the caller still owes: that the federation is its own, and that ``version`` is not lower than one it has seen.

    Raises:
        ConfigError: a file is missing, too large or not what it should be.
        IdentityRefused: the authority did not sign the roster.
    """
    return roster_from_bytes(read_signed(folder, ROSTER_FILES, pause), str(folder / ROSTER_FILE))

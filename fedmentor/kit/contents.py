"""What a kit holds: names of its files, and the record that the registrar signs.

::

    README.txt               one page for IT, with the names of this site
    kit.json, kit.sig        record: versions, whose kit it is, SHA-256 of every file below; signed by the authority
    SHA256SUMS               of every other file, for a stock ``sha256sum --check``
    ca.pem                   the federation's authority
    roster.json, roster.sig  its members
    revoked.json, revoked.sig  its deny-list, where there is one
    node.toml                settings of the node
    fedmentor-node.service   the node under systemd
    compose.yaml             the node as a container
    invite                   secret, good once; not in kits whose invite travels on another way
    manifest.json, manifest.json.sig  a run's manifest and the registrar's approval of it, where one was given
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field

from fedmentor import ids
from fedmentor.errors import ConfigError
from fedmentor.identity.layout import CA_FILE
from fedmentor.identity.names import federation_name
from fedmentor.identity.revocation import REVOKED_FILE, REVOKED_SIGNATURE_FILE
from fedmentor.identity.roster import ROSTER_FILE, ROSTER_SIGNATURE_FILE
from fedmentor.identity.signed import CanonicalDocument
from fedmentor.ids import Digest, SiteId, site_id
from fedmentor.protocol import NEW_KIT, PROTOCOL
from fedmentor.text import one_line

KIT_FORMAT: Final = "fedmentor-kit-1"

MAX_RECORD_BYTES: Final = 1 << 16
"""One that names every file has 2 kB; one of megabytes would take thirty times as much before anybody's signature was checked."""

README_FILE: Final = "README.txt"
RECORD_FILE: Final = "kit.json"
RECORD_SIGNATURE_FILE: Final = "kit.sig"
SUMS_FILE: Final = "SHA256SUMS"
SETTINGS_FILE: Final = "node.toml"
UNIT_FILE: Final = "fedmentor-node.service"
COMPOSE_FILE: Final = "compose.yaml"
INVITE_FILE: Final = "invite"
MANIFEST_FILE: Final = "manifest.json"
MANIFEST_SIGNATURE_FILE: Final = "manifest.json.sig"

SHARED_FILES: Final = (CA_FILE, ROSTER_FILE, ROSTER_SIGNATURE_FILE, REVOKED_FILE, REVOKED_SIGNATURE_FILE)
"""What goes to the certificates folder, the authority first: the others are checked against it."""

ALWAYS: Final = frozenset({README_FILE, CA_FILE, ROSTER_FILE, ROSTER_SIGNATURE_FILE, SETTINGS_FILE, UNIT_FILE, COMPOSE_FILE})
SOMETIMES: Final = frozenset({REVOKED_FILE, REVOKED_SIGNATURE_FILE, INVITE_FILE, MANIFEST_FILE, MANIFEST_SIGNATURE_FILE})
SEALS: Final = frozenset({RECORD_FILE, RECORD_SIGNATURE_FILE, SUMS_FILE})
"""Files that the record cannot name."""


class KitRecord(CanonicalDocument):
    """Whose kit it is, for which program, and what is in it.

    Attributes:
        format: names the kind of document.
        protocol: see fedmentor.protocol; a program of another one does not take the kit.
        software: FedMentor's version at the registrar, to be installed at the site.
        federation: trust domain.
        site: who is to use it.
        files: SHA-256 of every file but the record itself, its signature and the sums.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["fedmentor-kit-1"] = KIT_FORMAT
    protocol: int = Field(PROTOCOL, ge=1)
    software: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,64}$")
    federation: Annotated[str, AfterValidator(federation_name)]
    site: Annotated[SiteId, AfterValidator(site_id)]
    files: dict[str, Annotated[Digest, AfterValidator(ids.digest)]]

    def model_post_init(self, _context: object) -> None:
        """Check what no single field shows.

        Raises:
            ConfigError: a file is missing, or is none of a kit.
        """
        odd = sorted(ALWAYS - self.files.keys()) + sorted(self.files.keys() - ALWAYS - SOMETIMES)
        if odd:
            raise ConfigError(f"a kit's record lacks {odd[0][:80]!r}, or should not have it")


def check_compatible(record: bytes) -> None:
    """Whether this program can use a kit, as far as its record says; looks at two fields and at nothing else of it.

    Raises:
        ConfigError: the kit is of another format or protocol, or has no record.
    """
    found = _loosely(record)
    if found is None:
        raise ConfigError("the kit has no record of what it is", cure="ask the registrar for another kit")
    if found["format"] != KIT_FORMAT:
        raise ConfigError(
            f"this kit is of the format {str(found['format'])[:40]!r}, this FedMentor reads {KIT_FORMAT!r}", cure=NEW_KIT
        )
    if found.get("protocol") != PROTOCOL:
        raise ConfigError(
            f"this kit is for protocol {str(found.get('protocol'))[:40]}, this FedMentor speaks protocol {PROTOCOL}", cure=NEW_KIT
        )


def owner_of(record: bytes) -> tuple[str, str] | None:
    """Federation and site of a record of any format, of whose truth nothing is known; None where it is none."""
    found = _loosely(record)
    return None if found is None else (one_line(str(found.get("federation"))), one_line(str(found.get("site"))))


def _loosely(record: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(record) if len(record) <= MAX_RECORD_BYTES else None
    except (ValueError, RecursionError):
        return None
    named = isinstance(found, dict) and str(found.get("format", "")).startswith("fedmentor-kit-")
    return found if named else None


def sha256(data: bytes) -> Digest:
    """SHA-256, lower-case hexadecimal."""
    return Digest(hashlib.sha256(data).hexdigest())


def sums(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 of every file, sorted by name, as ``sha256sum`` writes and checks it."""
    return "".join(f"{sha256(files[name])}  {name}\n" for name in sorted(files)).encode()

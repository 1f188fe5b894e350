"""Checkpoints: the coordinator's signed word on how long its audit chain is and how it ends, and the sites' signatures under it.

One checkpoint a published round and one at the end of a run. A site signs a checkpoint once it has verified every record up to it.
A coordinator that shows two sites two chains, or takes records back, thus needs two checkpoints that contradict each other, both
signed by itself: whoever holds both can prove it.

Signatures are Ed25519 (RFC 8032) over a line that names their purpose and then the checkpoint's canonical JSON, exactly as it
travels and as it lies in an export: a signature made for one purpose is worth nothing for another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fedmentor import ids
from fedmentor.audit.chain import Fields, Head
from fedmentor.errors import ConfigError, DataError
from fedmentor.identity.names import federation_name
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.models import canonical_json

CHECKPOINT_PURPOSE: Final = b"fedmentor audit checkpoint 1\n"
COUNTERSIGNATURE_PURPOSE: Final = b"fedmentor audit countersignature 1\n"

SIGNATURE_BYTES: Final = 64

MAX_CHECKPOINT_BYTES: Final = 1024
"""Above the longest one: names of 200 and 63 characters, a digest, a number and a time. Nothing longer is parsed."""

MAX_RECORDS: Final = 10_000_000
"""Longest chain that a checkpoint may name: a thousand sites for two thousand rounds."""


@dataclass(frozen=True)
class Checkpoint:
    """How an audit chain stands.

    Attributes:
        federation: whose coordinator keeps the chain.
        run: whose chain it is.
        records: how many records it has.
        head: hash of the last of them.
        utc: when it was signed; ISO 8601 with timezone, for people.
    """

    federation: str
    run: RunId
    records: int
    head: Digest
    utc: str

    @property
    def reached(self) -> Head:
        """The head that it stands for."""
        return Head(self.records, self.head)

    def to_bytes(self) -> bytes:
        """Canonical JSON; the bytes that are signed, stored and sent."""
        return canonical_json(asdict(self))


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint and the coordinator's signature under it, which is to be verified before anything inside is believed."""

    checkpoint: Checkpoint
    signature: bytes

    @property
    def records(self) -> int:
        """Length of the chain that it covers."""
        return self.checkpoint.records


@dataclass(frozen=True)
class Countersignature:
    """A site's signature under the checkpoint of that length: it has verified every record up to there."""

    records: int
    site: SiteId
    signature: bytes


@dataclass(frozen=True)
class AuditKeys:
    """Whose signatures count: the public Ed25519 keys (32 bytes each) of one federation, from its signed roster."""

    federation: str
    coordinator: bytes
    sites: Mapping[SiteId, bytes]


def checkpoint_from_bytes(data: bytes) -> Checkpoint:
    """Read a checkpoint that came over the wire or from disk; says nothing about who signed it.

    1. not longer than one can be; 2. a JSON object of exactly the five fields; 3. names, numbers and time are of their forms;
    4. the bytes are the canonical ones, so that two spellings of one checkpoint cannot be passed off as two.

    Raises:
        DataError: not a checkpoint.
    """
    if len(data) > MAX_CHECKPOINT_BYTES:
        raise DataError(f"a checkpoint of {len(data)} bytes is none")
    try:
        values: Any = json.loads(data)
        checkpoint = Checkpoint(**values)
        _check_form(checkpoint)
        canonical = checkpoint.to_bytes()
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise DataError("the bytes are not an audit checkpoint") from error
    if canonical != data:
        raise DataError("the bytes are not the canonical form of an audit checkpoint")
    return checkpoint


def signed_checkpoint(content: bytes, signature: bytes) -> SignedCheckpoint:
    """Put together what came over the wire or from disk; says nothing about who signed it.

    Raises:
        DataError: not a checkpoint, or not a signature's length.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise DataError(f"a signature has {SIGNATURE_BYTES} bytes, not {len(signature)}")
    return SignedCheckpoint(checkpoint_from_bytes(content), bytes(signature))


def sign_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> SignedCheckpoint:
    """Sign as the coordinator."""
    return SignedCheckpoint(checkpoint, key.sign(CHECKPOINT_PURPOSE + checkpoint.to_bytes()))


def countersign(checkpoint: Checkpoint, site: SiteId, key: Ed25519PrivateKey) -> Countersignature:
    """Sign as a site that has verified every record up to the checkpoint; the same every time (Ed25519 has no nonce)."""
    return Countersignature(checkpoint.records, site, key.sign(COUNTERSIGNATURE_PURPOSE + checkpoint.to_bytes()))


def is_signed(signed: SignedCheckpoint, keys: AuditKeys) -> bool:
    """Whether this federation's coordinator signed it."""
    content = signed.checkpoint.to_bytes()
    return signed.checkpoint.federation == keys.federation and _holds(
        keys.coordinator, signed.signature, CHECKPOINT_PURPOSE + content
    )


def is_countersigned(checkpoint: Checkpoint, countersignature: Countersignature, keys: AuditKeys) -> bool:
    """Whether the site that it names is on the roster and signed this checkpoint."""
    key = keys.sites.get(countersignature.site)
    if key is None or countersignature.records != checkpoint.records:
        return False
    return _holds(key, countersignature.signature, COUNTERSIGNATURE_PURPOSE + checkpoint.to_bytes())


def recorded_as(records: int, signature: bytes) -> Fields:
    """What the chain says of a signature under the checkpoint of that length."""
    return {"records": records, "signature_sha256": hashlib.sha256(signature).hexdigest()}


def _check_form(checkpoint: Checkpoint) -> None:
    if not all(isinstance(text, str) for text in (checkpoint.federation, checkpoint.run, checkpoint.head, checkpoint.utc)):
        raise TypeError("expected text")
    if type(checkpoint.records) is not int or not 1 <= checkpoint.records <= MAX_RECORDS:
        raise ValueError("expected a number of records")
    federation_name(checkpoint.federation)
    ids.run_id(checkpoint.run)
    ids.digest(checkpoint.head)
    if datetime.fromisoformat(checkpoint.utc).tzinfo is None:
        raise ValueError("expected a timezone")


def _holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True

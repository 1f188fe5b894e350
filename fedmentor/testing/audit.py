"""An audit trail in a test: an honest coordinator's chain, checkpoints and its sites' signatures, and what a rollback leaves."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from datetime import datetime, timedelta, timezone

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmentor.audit.chain import EMPTY, AuditRecord, Field, Head, head_of, next_record, values_of
from fedmentor.audit.checkpoint import (
    AuditKeys,
    Checkpoint,
    Countersignature,
    SignedCheckpoint,
    countersign,
    recorded_as,
    sign_checkpoint,
)
from fedmentor.audit.export import AuditTrail
from fedmentor.audit.vocabulary import CHECKPOINT_EVENT, COORDINATOR, COUNTERSIGN_EVENT, site_actor
from fedmentor.ids import RunId, SiteId

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


class ToyTrail:
    """A chain that grows by a record a minute.

    Args:
        sites: who may countersign.
        run: whose chain it is.

    Attributes:
        keys: the public keys of coordinator and sites.
        records, checkpoints, countersignatures: so far.
    """

    def __init__(self, sites: Iterable[str] = ("a", "b", "c"), run: str = "toy-run") -> None:
        self.run = RunId(run)
        self.coordinator_key = Ed25519PrivateKey.generate()
        self.site_keys = {SiteId(site): Ed25519PrivateKey.generate() for site in sites}
        public = {site: key.public_key().public_bytes_raw() for site, key in self.site_keys.items()}
        self.keys = AuditKeys("federation", self.coordinator_key.public_key().public_bytes_raw(), public)
        self.records: list[AuditRecord] = []
        self.checkpoints: list[SignedCheckpoint] = []
        self.countersignatures: list[Countersignature] = []

    @property
    def head(self) -> Head:
        """Of the chain as it stands."""
        return head_of(self.records[-1]) if self.records else EMPTY

    @property
    def trail(self) -> AuditTrail:
        """Everything so far, in the order of an export."""
        signatures = sorted(self.countersignatures, key=lambda item: (item.records, item.site))
        return AuditTrail(self.run, tuple(self.records), tuple(self.checkpoints), tuple(signatures))

    def append(self, actor: str, event: str, **fields: Field) -> AuditRecord:
        """Record something."""
        self.records.append(next_record(self.head, self._now, actor, event, fields))
        return self.records[-1]

    def seal(self) -> SignedCheckpoint:
        """Sign the chain as it stands, and record that."""
        checkpoint = Checkpoint(self.keys.federation, self.run, self.head.records, self.head.hash, self._now.isoformat())
        signed = sign_checkpoint(checkpoint, self.coordinator_key)
        self.checkpoints.append(signed)
        self.append(COORDINATOR, CHECKPOINT_EVENT, round=0, **recorded_as(signed.records, signed.signature))
        return signed

    def sign(self, site: str) -> Countersignature:
        """Let a site sign the newest checkpoint, and record that."""
        name = SiteId(site)
        made = countersign(self.checkpoints[-1].checkpoint, name, self.site_keys[name])
        self.countersignatures.append(made)
        self.append(site_actor(name), COUNTERSIGN_EVENT, **recorded_as(made.records, made.signature))
        return made

    def cut(self, records: int) -> ToyTrail:
        """The same coordinator with a chain that ends after so many records: what a rollback leaves, and where a fork begins."""
        shorter = copy(self)
        shorter.records = self.records[:records]
        told = {values_of(record).get("signature_sha256") for record in shorter.records}
        shorter.checkpoints = [item for item in self.checkpoints if _told(item.signature) in told]
        shorter.countersignatures = [item for item in self.countersignatures if _told(item.signature) in told]
        return shorter

    @property
    def _now(self) -> datetime:
        return START + timedelta(minutes=len(self.records))


def _told(signature: bytes) -> Field:
    return recorded_as(0, signature)["signature_sha256"]

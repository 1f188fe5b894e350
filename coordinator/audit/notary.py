"""The coordinator's signing key at work: a checkpoint of the audit chain for every published round and at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.store.journal import COORDINATOR, Transaction
from fedmentor.audit.checkpoint import AuditKeys, Checkpoint, recorded_as, sign_checkpoint
from fedmentor.audit.keys import coordinator_signing_key, has_roster, read_audit_keys
from fedmentor.audit.vocabulary import CHECKPOINT_EVENT
from fedmentor.ids import Round, RunId


class Notary:
    """Signs checkpoints, inside the transactions that they belong to.

    Args:
        key: the coordinator's signing key; never printed.
        keys: gives the keys on the roster that is in force now, for the sites' signatures.
    """

    def __init__(self, key: Ed25519PrivateKey, keys: Callable[[], AuditKeys]) -> None:
        self._key = key
        self.keys = keys
        self._federation = keys().federation

    def seal(self, tx: Transaction, run: RunId, round_: Round, now: datetime) -> None:
        """Sign the chain as it stands in this transaction, keep the checkpoint, and record that there is one."""
        head = tx.audit_head()
        signed = sign_checkpoint(Checkpoint(self._federation, run, head.records, head.hash, now.isoformat()), self._key)
        tx.put_checkpoint(signed)
        tx.audit(COORDINATOR, CHECKPOINT_EVENT, {"round": round_, **recorded_as(signed.records, signed.signature)})


def open_notary(certificates: Path) -> Notary | None:
    """The notary of a certificates folder; None where an older version made it: without a roster nobody could check a signature.

    Raises:
        ConfigError: there is a roster, and the coordinator's signing key is missing or not the one on it.
        IdentityRefused: the authority did not sign the roster.
    """
    if not has_roster(certificates):
        return None
    keys = read_audit_keys(certificates)
    return Notary(coordinator_signing_key(certificates, keys), lambda: read_audit_keys(certificates))

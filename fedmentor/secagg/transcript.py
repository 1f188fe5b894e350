"""What an attempt is bound to: the context that every advert signs, and the hash that salts every key derived in it.

``H`` is SHA-256 over fields, each behind its length as four little-endian bytes: no two lists of fields give the same input.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedmentor.ids import Attempt, Digest, Round, RunId

PROTOCOL = b"fedmentor/secagg/1"
"""Name and version; the first field of every context and a prefix of everything that is signed."""

HASH_BYTES = 32


def hash_fields(*fields: bytes) -> bytes:
    """H: SHA-256 over the length-prefixed fields, 32 bytes."""
    state = hashlib.sha256()
    for field in fields:
        state.update(len(field).to_bytes(4, "little"))
        state.update(field)
    return state.digest()


@dataclass(frozen=True)
class Context:
    """What one attempt of one round is about. Sites that see different contexts cannot aggregate with each other.

    Attributes:
        run: name of the run.
        round: round number, from 0.
        attempt: attempt of that round.
        manifest: digest of the run's manifest.
        model: digest of the global model that the round starts from.
        audit_root: head of the coordinator's audit chain; who advertises countersigns it.
        terms: digest of roster, thresholds and graph (fedmentor.secagg.terms.Terms.digest).
    """

    run: RunId
    round: Round
    attempt: Attempt
    manifest: Digest
    model: Digest
    audit_root: Digest
    terms: Digest

    def digest(self) -> bytes:
        """H over protocol name and all fields; 32 bytes."""
        return hash_fields(
            PROTOCOL,
            b"context",
            self.run.encode(),
            self.round.to_bytes(8, "little"),
            self.attempt.to_bytes(8, "little"),
            *(bytes.fromhex(digest) for digest in (self.manifest, self.model, self.audit_root, self.terms)),
        )


def transcript_hash(context: bytes, adverts: list[bytes]) -> bytes:
    """``tr``: H over the context's digest and the signed bytes of every advert, in roster order; 32 bytes."""
    return hash_fields(PROTOCOL, b"transcript", context, *adverts)

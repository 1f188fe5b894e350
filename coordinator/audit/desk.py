"""What the sites may see of the audit trail, and the signatures that they leave under it. Without a transport; thread-safe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coordinator.audit.notary import Notary
from coordinator.store.journal import Journal, Transaction, site_actor
from fedmentor.audit.chain import AuditRecord, record_to_line
from fedmentor.audit.checkpoint import (
    Checkpoint,
    Countersignature,
    SignedCheckpoint,
    is_countersigned,
    recorded_as,
)
from fedmentor.audit.vocabulary import COUNTERSIGN_EVENT
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import CHUNK_BYTES
from fedmentor.ids import SiteId

PAGE_RECORDS = 512
"""Records that are read from the journal at once."""

AuditPage = SignedCheckpoint | tuple[AuditRecord, ...]


class AuditDesk:
    """The audit trail of one run, as far as sites have to do with it.

    Args:
        journal: where it lies.
        notary: who signs; None where this federation has no signing keys, and then nobody countersigns either.
    """

    def __init__(self, journal: Journal, notary: Notary | None) -> None:
        self._journal = journal
        self._notary = notary

    def pages(self, from_record: int) -> Iterator[AuditPage]:
        """The newest checkpoint, where there is one, then the records from that number on, as they are asked for.

        Every site sees every record: who did what to which object, by name and digest. A page holds at most CHUNK_BYTES.
        """
        signed, end = self._journal.run_tx("read_checkpoint", lambda tx: (tx.checkpoint(), tx.audit_head().records))
        if signed is not None:
            yield signed
        for start in range(max(0, from_record), end, PAGE_RECORDS):
            yield from _pages(self._slice(start, min(end, start + PAGE_RECORDS)))

    def countersign(self, site: SiteId, checkpoint: Checkpoint, signature: bytes) -> bool:
        """Keep a site's signature; False where it is here already.

        Raises:
            PolicyRefusal: this federation has no signing keys, there is no such checkpoint, or the signature is not the site's.
        """
        countersignature = Countersignature(checkpoint.records, site, signature)
        if self._notary is None:
            raise PolicyRefusal(
                "this coordinator signs no checkpoints", cure="ask the registrar for certificates with signing keys"
            )
        if not is_countersigned(checkpoint, countersignature, self._notary.keys()):
            raise PolicyRefusal(
                f"the signature under the checkpoint is not that of site {site}", cure="get the current roster from the registrar"
            )
        return self._journal.run_tx("countersign", lambda tx: _keep(tx, checkpoint, countersignature))

    def _slice(self, start: int, stop: int) -> tuple[AuditRecord, ...]:
        return self._journal.run_tx("read_audit", lambda tx: tx.audit_records(start, stop))


def _keep(tx: Transaction, checkpoint: Checkpoint, countersignature: Countersignature) -> bool:
    stored = tx.checkpoint(checkpoint.records)
    if stored is None or stored.checkpoint != checkpoint:
        raise PolicyRefusal(f"this coordinator has no such checkpoint of {checkpoint.records} records")
    kept = tx.put_countersignature(countersignature)
    if kept:
        fields = recorded_as(countersignature.records, countersignature.signature)
        tx.audit(site_actor(countersignature.site), COUNTERSIGN_EVENT, fields)
    return kept


def _pages(records: Sequence[AuditRecord]) -> Iterator[tuple[AuditRecord, ...]]:
    page: list[AuditRecord] = []
    size = 0
    for record in records:
        length = len(record_to_line(record).encode())
        if page and size + length > CHUNK_BYTES:
            yield tuple(page)
            page, size = [], 0
        page.append(record)
        size += length
    if page:
        yield tuple(page)

"""How an update gets from a site onto this disk: offer, append, finish; every step idempotent, thread-safe, without a transport.

The receipt exists only once the words are fsynced in the spool and the row is committed in the journal, in this order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from coordinator.admission import check_offer, check_words
from coordinator.events import Observer, UpdateAccepted, UpdateRefused
from coordinator.progress import Progress
from coordinator.state import AcceptedUpdate
from coordinator.store.journal import Journal, Transaction, site_actor
from coordinator.store.spool import Spool
from fedmentor.audit import Fields
from fedmentor.clock import Clock
from fedmentor.errors import DigestMismatch, LimitExceeded, UpdateConflict, UpdateRejected
from fedmentor.federation import CHUNK_BYTES, Offset, Receipt, RunManifest, UpdateHeader, UpdateState
from fedmentor.ids import Digest, SiteId

AUDITED_REFUSALS = 8
"""Refusals of one site in one attempt that go into the audit chain; further ones only into the log: no site can fill the disk."""


class Uploads:
    """The updates of one run.

    Args:
        manifest: the run's rules.
        journal: where acceptance is recorded.
        spool: where the words lie.
        progress: where the run stands; for the quick check of each chunk.
        clock: for the time in the receipt.
        observe: is told what was accepted and refused.
    """

    def __init__(
        self, manifest: RunManifest, journal: Journal, spool: Spool, progress: Progress, clock: Clock, observe: Observer
    ) -> None:
        self._manifest = manifest
        self._journal = journal
        self._spool = spool
        self._progress = progress
        self._clock = clock
        self._observe = observe
        self._resumed: set[tuple[SiteId, Digest]] = set()
        self._refusals: Counter[tuple[SiteId, int, int]] = Counter()

    def offer(self, site: SiteId, header: UpdateHeader) -> UpdateState:
        """See CoordinatorService.offer_update."""
        with self._refusals_recorded(site, header):
            receipt = self._journal.run_tx("check_offer", lambda tx: self._check(tx, site, header))
            if receipt:
                return receipt
            stored = self._spool.stored(site, header)
        if stored == header.size_bytes:
            return self.finish(site, header)
        if stored:
            self._resumed.add((site, header.sha256))
        return Offset(stored)

    def append(self, site: SiteId, header: UpdateHeader, offset: int, data: bytes) -> None:
        """See CoordinatorService.append_update."""
        check_offer(self._manifest, self._progress.now().state, site, header, accepted=None)
        if len(data) > CHUNK_BYTES:
            raise LimitExceeded(f"a chunk of {len(data)} bytes is over {CHUNK_BYTES}")
        self._spool.append(site, header, offset, data)

    def finish(self, site: SiteId, header: UpdateHeader) -> UpdateState:
        """See CoordinatorService.finish_update."""
        with self._refusals_recorded(site, header):
            receipt = self._journal.run_tx("check_offer", lambda tx: self._check(tx, site, header))
            if receipt:
                return receipt
            stored = self._spool.stored(site, header)
            if stored < header.size_bytes:
                return Offset(stored)
            weight_word = self._checked_words(site, header)
            if weight_word is None:
                return Offset(0)
            self._spool.seal(site, header)
            receipt = self._journal.run_tx("accept_update", lambda tx: self._accept(tx, site, header, weight_word))
        self._observe(UpdateAccepted(site, header.round, header.sha256, header.size_bytes))
        return receipt

    def _checked_words(self, site: SiteId, header: UpdateHeader) -> int | None:
        """The weight word; None where bytes from an earlier connection turned out damaged and must come again."""
        try:
            return check_words(self._spool.open(site, header), header, self._manifest.ring)
        except DigestMismatch as error:
            self._spool.drop(site, header.sha256)
            if (site, header.sha256) in self._resumed:
                self._resumed.discard((site, header.sha256))
                return None
            raise UpdateRejected(error.message, cure=error.cure) from error
        except UpdateRejected:
            self._spool.drop(site, header.sha256)
            raise

    def _check(self, tx: Transaction, site: SiteId, header: UpdateHeader) -> Receipt | None:
        mine = [update for update in tx.updates(header.round.round, header.round.attempt) if update.site == site]
        return check_offer(self._manifest, tx.state(), site, header, mine[0] if mine else None)

    def _accept(self, tx: Transaction, site: SiteId, header: UpdateHeader, weight_word: int) -> Receipt:
        stored = self._check(tx, site, header)
        if stored:
            return stored
        receipt = Receipt(header.round, site, header.sha256, self._clock.now().isoformat())
        tx.put_update(AcceptedUpdate(receipt, header.size_bytes, weight_word))
        fields: Fields = {
            "round": header.round.round,
            "attempt": header.round.attempt,
            "sha256": header.sha256,
            "base_model": header.base_model,
            "weight_word": weight_word,
        }
        tx.audit(site_actor(site), "accept_update", fields)
        return receipt

    @contextmanager
    def _refusals_recorded(self, site: SiteId, header: UpdateHeader) -> Iterator[None]:
        try:
            yield
        except (UpdateRejected, UpdateConflict, LimitExceeded) as error:
            kind, ref = type(error).__name__, header.round
            self._observe(UpdateRefused(site, ref, kind, error.message))
            key = (site, ref.round, ref.attempt)
            # A round that is not open has its own error, so these keys are bounded by rounds and attempts that were.
            self._refusals[key] += 1
            if self._refusals[key] <= AUDITED_REFUSALS:
                where: Fields = {"round": ref.round, "attempt": ref.attempt, "sha256": header.sha256}
                fields = {**where, "kind": kind, "reason": error.message}
                self._journal.run_tx("refuse_update", lambda tx: tx.audit(site_actor(site), "refuse_update", fields))
            raise

"""How an update gets from a site onto this disk: offer, append, finish; every step idempotent, thread-safe, without a transport.

The receipt exists only once the words are fsynced in the spool and the row is committed in the journal, in this order.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

from coordinator.admission import check_masked_words, check_offer, check_words
from coordinator.events import UpdateAccepted
from coordinator.ports import ServicePorts
from coordinator.refusals import Refusals
from coordinator.secure import SecureRounds
from coordinator.state import AcceptedUpdate
from coordinator.store.journal import Transaction, site_actor
from fedmentor.audit import Fields
from fedmentor.errors import DigestMismatch, LimitExceeded, PolicyRefusal, RoundClosed, UpdateRejected
from fedmentor.federation import CHUNK_BYTES, Offset, Receipt, RunManifest, UpdateHeader, UpdateState
from fedmentor.ids import SiteId


class Uploads:
    """The updates of one run. A site's calls go one after another: none sees a file that another one is about to rename or drop.

    Args:
        manifest: the run's rules.
        ports: the world.
        secure: the protocol's side of it, in a run that aggregates securely.
    """

    def __init__(self, manifest: RunManifest, ports: ServicePorts, secure: SecureRounds | None = None) -> None:
        self._manifest = manifest
        self._ports = ports
        self._secure = secure
        self._locks = {site: threading.RLock() for site in manifest.roster}
        self._refusals = Refusals(ports, "refuse_update")

    def offer(self, site: SiteId, header: UpdateHeader) -> UpdateState:
        """See CoordinatorService.offer_update."""
        with self._locks[site]:
            with self._recorded(site, header):
                receipt = self._receipt(site, header)
                stored = 0 if receipt else self._ports.spool.stored(site, header)
            if receipt:
                return receipt
            return self.finish(site, header, resumed=True) if stored == header.size_bytes else Offset(stored)

    def append(self, site: SiteId, header: UpdateHeader, offset: int, data: bytes) -> None:
        """See CoordinatorService.append_update."""
        with self._recorded(site, header):
            check_offer(self._manifest, self._ports.progress.now().state, site, header, accepted=None)
            if len(data) > CHUNK_BYTES:
                raise LimitExceeded(f"a chunk of {len(data)} bytes is over {CHUNK_BYTES}")
        with self._locks[site]:
            self._ports.spool.append(site, header, offset, data)

    def finish(self, site: SiteId, header: UpdateHeader, *, resumed: bool) -> UpdateState:
        """See CoordinatorService.finish_update."""
        with self._locks[site], self._recorded(site, header):
            receipt = self._receipt(site, header)
            if receipt:
                return receipt
            stored = self._ports.spool.stored(site, header)
            if stored < header.size_bytes:
                return Offset(stored)
            weight_word = self._sealed(site, header, resumed=resumed)
            if weight_word is None:
                return Offset(0)
            receipt = self._accepted(site, header, weight_word)
        self._ports.observe(UpdateAccepted(site, header.round, header.sha256, header.size_bytes))
        return receipt

    def _sealed(self, site: SiteId, header: UpdateHeader, *, resumed: bool) -> int | None:
        """The weight word of an update that is now durable; None where resumed bytes were damaged. Whatever fails is dropped."""
        try:
            weight_word = self._weight_word(site, header)
            self._ports.spool.seal(site, header)
        except DigestMismatch as error:
            self._ports.spool.drop(site, header.sha256)
            # The round may have closed, and the spool been emptied, since the first look; then that is the answer.
            self._receipt(site, header)
            if resumed:
                return None
            raise UpdateRejected(error.message, cure=error.cure) from error
        except UpdateRejected:
            self._ports.spool.drop(site, header.sha256)
            raise
        return weight_word

    def _weight_word(self, site: SiteId, header: UpdateHeader) -> int:
        words = self._ports.spool.open(site, header)
        if self._secure is None:
            return check_words(words, header, self._manifest.ring)
        check_masked_words(words, header)
        return 0  # it is under the mask

    def _accepted(self, site: SiteId, header: UpdateHeader, weight_word: int) -> Receipt:
        with self._secure.held() if self._secure else nullcontext():
            try:
                return self._ports.journal.run_tx("accept_update", lambda tx: self._accept(tx, site, header, weight_word))
            except (PolicyRefusal, RoundClosed):
                # What was checked before the words came may not hold any more, and masked words are of no use to another attempt.
                if self._secure:
                    self._ports.spool.drop(site, header.sha256)
                raise

    def _receipt(self, site: SiteId, header: UpdateHeader) -> Receipt | None:
        return self._ports.journal.run_tx("check_offer", lambda tx: self._check(tx, site, header))

    def _check(self, tx: Transaction, site: SiteId, header: UpdateHeader) -> Receipt | None:
        mine = [update for update in tx.updates(header.round.round, header.round.attempt) if update.site == site]
        receipt = check_offer(self._manifest, tx.state(), site, header, mine[0] if mine else None)
        if receipt is None and any(entry.site == site for entry in tx.set_aside()):
            raise RoundClosed(f"site {site} is set aside for the rest of the run")
        return receipt

    def _accept(self, tx: Transaction, site: SiteId, header: UpdateHeader, weight_word: int) -> Receipt:
        stored = self._check(tx, site, header)
        if stored:
            return stored
        receipt = Receipt(header.round, site, header.sha256, self._ports.clock.now().isoformat())
        if self._secure:
            self._secure.take_upload(tx, site, header)
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

    def _recorded(self, site: SiteId, header: UpdateHeader) -> AbstractContextManager[None]:
        return self._refusals.recorded(site, header.round, {"sha256": header.sha256})

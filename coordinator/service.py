"""What a coordinator does for its sites, without a transport. Synchronous and thread-safe: call it from any thread.

Transports on top: coordinator.servicer (gRPC), fedmentor.testing.DirectLink (in process). Both supply ``site``, which they have
from the peer's certificate or from the test; no method believes a name that came in a message.

An update comes in three steps, all idempotent::

    state = offer_update(site, header)                  # Offset: go on from here.  Receipt: it is already accepted
    append_update(site, header, offset, data) ...       # from that offset, at most CHUNK_BYTES each
    state = finish_update(site, header, resumed=...)    # Receipt: it is on disk.  Offset: go on from here

Directives come from a Subscription, which calls ``wake`` (from any thread) whenever ``poll`` may have something new; ``follow`` is
the same as an asynchronous iterator. Every method refuses a site that is not on the roster with IdentityRefused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from math import isnan

from coordinator.admission import check_site
from coordinator.audit.desk import AuditDesk, AuditPage
from coordinator.events import SatOut, ScoresReported
from coordinator.phases.gate import candidate_of
from coordinator.ports import ServicePorts
from coordinator.refusals import Refusals
from coordinator.secure import SecureRounds
from coordinator.state import PhaseName, SiteScores
from coordinator.store.journal import Transaction, site_actor
from coordinator.streams import Streams, Subscription
from coordinator.uploads import Uploads
from fedmentor.audit import Fields
from fedmentor.audit.checkpoint import Checkpoint
from fedmentor.errors import RoundClosed, UpdateRejected
from fedmentor.federation import (
    Directive,
    Finished,
    Manifest,
    ModelRef,
    Receipt,
    RoundRef,
    RunManifest,
    Scores,
    StepAnswer,
    UpdateHeader,
    UpdateState,
)
from fedmentor.ids import Digest, Round, SiteId


class CoordinatorService:
    """See the module.

    Args:
        announcement: the run's rules, with the registrar's signature where there is one.
        ports: the world.
        wake_driver: called when the driver should look again.
        secure: the protocol's side of it, in a run that aggregates securely.
    """

    def __init__(
        self, announcement: Manifest, ports: ServicePorts, wake_driver: Callable[[], None], secure: SecureRounds | None = None
    ) -> None:
        manifest = self._manifest = announcement.manifest
        self._ports = ports
        self._wake_driver = wake_driver
        self._secure = secure
        self._audit = AuditDesk(ports.journal, ports.notary)
        asked = secure.asked if secure else None
        self._streams = Streams(announcement, ports.progress, ports.presence, ports.observe, wake_driver, asked)
        self._uploads = Uploads(manifest, ports, secure)
        self._refusals = Refusals(ports, "refuse_scores", ends_part=False)
        self._unreadable = Refusals(ports, "refuse_message", ends_part=False)

    @property
    def manifest(self) -> RunManifest:
        """The run's rules."""
        return self._manifest

    def admit(self, site: SiteId) -> None:
        """Whether a site may say anything at all; a transport asks before it reads a message.

        Raises:
            IdentityRefused: it is not on the run's roster.
        """
        check_site(self._manifest, site)

    def reading(self, site: SiteId, call: str) -> AbstractContextManager[None]:
        """For a transport: while the block reads a message of this site, what cannot be read is recorded under the site's name."""
        check_site(self._manifest, site)
        ref = self._ports.progress.now().state.ref(self._manifest.run)
        return self._unreadable.recorded(site, ref, {"call": call})

    def subscribe(self, site: SiteId, wake: Callable[[], None], software: str = "") -> Subscription:
        """Open the site's stream of directives. A site has one: an older one ends with PolicyRefusal.

        ``software`` is the site's own word, for the log.

        Raises:
            CoordinatorUnreachable: the coordinator is stopping.
        """
        check_site(self._manifest, site)
        return self._streams.subscribe(site, wake, software)

    async def follow(self, site: SiteId, software: str = "") -> AsyncGenerator[Directive, None]:
        """The site's directives, the manifest first; ends after Finished. Raises what ``subscribe`` and ``poll`` raise."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        subscription = self.subscribe(site, wake, software)
        try:
            while True:
                changed.clear()
                for directive in subscription.poll():
                    yield directive
                    if isinstance(directive, Finished):
                        return
                await changed.wait()
        finally:
            subscription.close()

    def notify(self) -> None:
        """The run has moved: wake every stream."""
        self._streams.notify()

    def close(self) -> None:
        """End every stream and refuse new ones with CoordinatorUnreachable."""
        self._streams.close()

    def fetch_model(self, site: SiteId, model: ModelRef, offset: int) -> Iterator[bytes]:
        """The bytes of the model in force, or of the candidate that the gate looks at, from ``offset`` on, as they are asked for.

        Chunks have at most CHUNK_BYTES.

        Raises:
            RoundClosed: the run has gone on to another model.
            UpdateRejected: ``offset`` is outside the model.
        """
        check_site(self._manifest, site)
        state = self._ports.progress.now().state
        if model.digest not in (state.model, candidate_of(self._manifest, state)):
            raise RoundClosed("this coordinator no longer serves that model")
        stored = self._ports.models.open(model.digest)
        if not 0 <= offset <= stored.size_bytes:
            raise UpdateRejected(f"offset {offset} is outside the model's {stored.size_bytes} bytes")
        for chunk in stored.chunks(offset):
            self._ports.meter.add(state.round, site, down=len(chunk))
            yield chunk

    def offer_update(self, site: SiteId, header: UpdateHeader) -> UpdateState:
        """Where to go on with an update, or its receipt.

        An update whose bytes are all here already (from a failed attempt, or from before a crash) is accepted at once.

        Raises:
            RoundClosed, UpdateConflict, LimitExceeded, UpdateRejected: see coordinator.admission.
        """
        check_site(self._manifest, site)
        return self._after(self._uploads.offer(site, header))

    def append_update(self, site: SiteId, header: UpdateHeader, offset: int, data: bytes) -> None:
        """Store the next bytes of an update that was offered.

        Raises:
            RoundClosed: the round closed in the meantime.
            LimitExceeded: more than CHUNK_BYTES at once.
            CoordinatorUnreachable: another stream of the site moved the end; offer the update again.
        """
        check_site(self._manifest, site)
        self._uploads.append(site, header, offset, data)
        self._ports.meter.add(header.round.round, site, up=len(data))

    def finish_update(self, site: SiteId, header: UpdateHeader, *, resumed: bool = False) -> UpdateState:
        """Check a whole update, make it durable, accept it.

        Args:
            resumed: some of the bytes were here before the transfer that ends now. If they are not what the header declares, this
                disk may be at fault, and the site is asked for them again instead of being refused.

        Returns:
            The receipt; or where to go on, if bytes are missing, or were resumed and turned out damaged.

        Raises:
            RoundClosed, UpdateConflict, LimitExceeded, UpdateRejected: see coordinator.admission.
            BrokenStore: it is not durable; nothing was accepted.
        """
        check_site(self._manifest, site)
        return self._after(self._uploads.finish(site, header, resumed=resumed))

    def answer_step(self, site: SiteId, answer: StepAnswer) -> None:
        """Take what a site says in a step of secure aggregation; a repeat is acknowledged and changes nothing.

        Raises:
            RoundClosed: the step is not in force.
            UpdateRejected: the run does not aggregate securely.
            ProtocolRefused: a check of the protocol does not hold.
        """
        check_site(self._manifest, site)
        if self._secure is None:
            raise UpdateRejected(f"run {self._manifest.run} does not aggregate securely")
        self._secure.answer(site, answer)
        self._moved()

    def sit_out(self, site: SiteId, ref: RoundRef, reason: str) -> None:
        """Note that nothing is to come from a site in an attempt; one that is not in force any more changes nothing.

        Not written down: a coordinator that restarts asks the site again, which says so again.

        Args:
            reason: the site's own word, for the log.
        """
        check_site(self._manifest, site)
        if ref == self._ports.progress.now().state.ref(self._manifest.run) and site not in self._ports.presence.refused(ref):
            self._ports.presence.refuse(site, ref)
            self._ports.observe(SatOut(site, ref, reason))
            self._moved()

    def report_scores(self, site: SiteId, scores: Scores) -> None:
        """Keep a site's scores of the model of this round or an earlier one, or of the candidate for the next one.

        A repeat is acknowledged and changes nothing.

        Raises:
            RoundClosed: the run is over, or the round has not begun and has no candidate.
            UpdateRejected: the scored model is not that of the round.
        """
        check_site(self._manifest, site)
        with self._refusals.recorded(site, scores.round, {"model": scores.model}):
            kept = self._ports.journal.run_tx("report_scores", lambda tx: self._keep_scores(tx, site, scores))
        if kept:
            self._ports.observe(ScoresReported(site, scores.round, scores.dice))
            self._moved()

    def fetch_audit(self, site: SiteId, from_record: int) -> Iterator[AuditPage]:
        """The newest checkpoint of the audit chain, where there is one, then pages of its records from that number on."""
        check_site(self._manifest, site)
        yield from self._audit.pages(from_record)

    def countersign(self, site: SiteId, checkpoint: Checkpoint, signature: bytes) -> None:
        """Keep a site's signature under a checkpoint; a repeat is acknowledged and changes nothing.

        Raises:
            PolicyRefusal: there is no such checkpoint, or the signature is not the site's.
        """
        check_site(self._manifest, site)
        if self._audit.countersign(site, checkpoint, signature):
            self._wake_driver()

    def tell_time(self, site: SiteId) -> datetime:
        """What this coordinator's clock says: a site may ask whether its own is wrong."""
        check_site(self._manifest, site)
        return self._ports.clock.now()

    def _keep_scores(self, tx: Transaction, site: SiteId, scores: Scores) -> bool:
        state, round_ = tx.state(), scores.round.round
        candidate = candidate_of(self._manifest, state)
        if candidate is not None and scores.round == RoundRef(self._manifest.run, Round(state.round + 1), state.attempt):
            return self._keep(tx, site, scores, candidate)
        if scores.round.run != self._manifest.run or state.phase is PhaseName.SHUTDOWN or not 0 <= round_ <= state.round:
            raise RoundClosed(f"scores of round {round_} are not asked for")
        models = {published.round: published.base_model for published in tx.rounds()} | {state.round: state.model}
        return self._keep(tx, site, scores, models[round_])

    def _keep(self, tx: Transaction, site: SiteId, scores: Scores, model: Digest) -> bool:
        """Keep scores if they are of ``model``."""
        round_ = scores.round.round
        if scores.model != model:
            raise UpdateRejected(f"the scored model is not that of round {round_}")
        hd95 = None if isnan(scores.hd95) else scores.hd95
        row = SiteScores(site, round_, model, scores.patients, scores.images, scores.dice, scores.iou, hd95, scores.hd95_undefined)
        of_candidate = round_ > tx.state().round
        kept = tx.put_candidate_scores(scores.round.attempt, row) if of_candidate else tx.put_scores(row)
        if kept:
            fields: Fields = {"round": round_, "model": scores.model, "patients": scores.patients, "dice": scores.dice}
            tx.audit(site_actor(site), "report_scores", fields)
        return kept

    def _after(self, state: UpdateState) -> UpdateState:
        if isinstance(state, Receipt):
            self._moved()
        return state

    def _moved(self) -> None:
        self._ports.progress.refresh()
        self.notify()
        self._wake_driver()

"""The one gate through which an update leaves the site: from the outbox, never from anywhere else."""

from __future__ import annotations

from fed_node.events import Delivered, Skipped
from fed_node.outbox import OutboxEntry, UpdateStage
from fed_node.ports import SessionPorts, private_training
from fed_node.rules import check_receipt
from fed_node.secure import SecureSite
from fedmentor.errors import PolicyRefusal, RoundClosed, UpdateRejected
from fedmentor.federation import RoundRef, UpdateHeader
from fedmentor.ids import SiteId


class Delivery:
    """Sends updates that are on disk and keeps what the coordinator answers."""

    def __init__(self, site: SiteId, ports: SessionPorts) -> None:
        self._site = site
        self._ports = ports
        self._secure: SecureSite | None = None

    def join(self, secure: SecureSite | None) -> None:
        """The run is joined; ``secure`` masks what leaves this site, in a run that aggregates securely."""
        self._secure = secure

    def send_waiting(self) -> None:
        """Everything that waits for its receipt; raises what send() raises.

        Updates of a run that aggregates securely wait until they are asked for: each attempt masks them anew.
        """
        for entry in self._ports.outbox.ready():
            manifest = self._ports.outbox.pinned(entry.header.round.run)
            if manifest is not None and manifest.secure is not None:
                continue
            self.send(entry, bytes_down=0, started_s=self._ports.clock.monotonic_s(), again=True)

    def send_again(self, ref: RoundRef, known: OutboxEntry) -> None:
        """Send an update that was finished before, under the attempt that is in force; raises what send() raises.

        Raises:
            PolicyRefusal: its words are gone: the round was over.
        """
        if known.stage is UpdateStage.RECEIPTED and known.header.round == ref:
            return  # the directive crossed our update on the wire
        self.send(self._ports.outbox.readdress(ref), bytes_down=0, started_s=self._ports.clock.monotonic_s(), again=True)

    def send(self, entry: OutboxEntry, bytes_down: int, started_s: float, *, again: bool) -> None:
        """Send one update and keep the answer. A refusal of this update is noted, and the site goes on.

        Args:
            entry: what the outbox holds.
            bytes_down: model bytes that were fetched for it, for the record.
            started_s: monotonic second at which this site began with the round, for the record.
            again: whether it was on disk already.

        Raises:
            CoordinatorUnreachable: it stays in the outbox.
            UpdateConflict: another update of this site is accepted: a second node runs under this identity.
            PolicyRefusal: the receipt is for something else, the privacy ledger never recorded what this update cost, or secure
                aggregation refuses to mask it.
            BrokenStore: the receipt could not be kept; it will be asked for again.
        """
        header, ports = entry.header, self._ports
        manifest = ports.outbox.pinned(header.round.run)
        if manifest is not None and manifest.privacy is not None:
            private_training(ports, manifest).release(header)
        words = entry.words
        try:
            if manifest is not None and manifest.secure is not None:
                header, words = self._masked(entry)
            receipt = ports.link.send_update(header, words)
        except (RoundClosed, UpdateRejected) as error:
            ports.outbox.mark_dropped(header.round, error.message)
            ports.observe(Skipped(header.round, error.message))
            return
        check_receipt(receipt, header, self._site)
        ports.outbox.mark_receipted(receipt)
        if self._secure is not None:
            self._secure.delivered()
        seconds = ports.clock.monotonic_s() - started_s
        ports.observe(Delivered(header.round, bytes_down, len(entry.words), seconds, again))

    def _masked(self, entry: OutboxEntry) -> tuple[UpdateHeader, bytes]:
        if self._secure is None:
            raise PolicyRefusal("an update of a run that aggregates securely does not leave this site unmasked")
        return self._secure.mask(entry)

"""What a site must remember across crashes: the pinned manifest, finished updates until they are acknowledged, receipts.

An update is in one of three states::

    put ─► ready ──► receipted        the coordinator's receipt is on this disk
             ▲ └───► dropped          its round closed, or it was refused; the reason is kept
             └─ readdress ◄──┘        the round is tried again: the same bytes go out under the new attempt

Words leave the disk when they can no longer be asked for: when an update of a later round is put, when the run is over, and when
another run is pinned: the end of the earlier one may have come while this site was away.
Receipts stay: the highest one is the mark behind which a site does not go back. Here are the port and its twin in memory;
fed_node.outbox_store keeps it on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from fedmentor.errors import PolicyRefusal
from fedmentor.federation import Receipt, RoundRef, RunManifest, UpdateHeader, manifest_from_bytes
from fedmentor.ids import Round, RunId


class UpdateStage(Enum):
    """Where an update stands."""

    READY = "ready"
    RECEIPTED = "receipted"
    DROPPED = "dropped"


@dataclass(frozen=True)
class OutboxEntry:
    """One finished update.

    Attributes:
        header: what is declared to the coordinator; its attempt is the latest one the update was addressed to.
        words: ring words as little-endian bytes, not masked; empty once they are no longer needed.
        stage: where it stands.
        receipt: the coordinator's word, where stage is RECEIPTED.
        reason: why, where stage is DROPPED.
    """

    header: UpdateHeader
    words: bytes = field(repr=False)
    stage: UpdateStage = UpdateStage.READY
    receipt: Receipt | None = None
    reason: str = ""


class Outbox(Protocol):
    """Durable memory of one site. Every method that changes something returns after it is on disk.

    All methods raise BrokenStore where the disk or the database fails; nothing may be sent after that.
    """

    def pin(self, manifest: RunManifest) -> None:
        """Store the manifest of a run at first contact and forget the words of every other run; the same one again changes nothing.

        A coordinator has one run at a time, so nobody will ask for an earlier one's updates any more.

        Raises:
            PolicyRefusal: another manifest is pinned for this run.
        """
        ...

    def pinned(self, run: RunId) -> RunManifest | None:
        """The manifest that is pinned for a run; None where there is none."""
        ...

    def put(self, header: UpdateHeader, words: bytes) -> OutboxEntry:
        """Store a finished update as READY; the same one again changes nothing. Forgets the words of earlier rounds of the run.

        Raises:
            PolicyRefusal: an update of other content is stored for this run and round.
        """
        ...

    def find(self, ref: RoundRef) -> OutboxEntry | None:
        """The update of this run and round, whatever its attempt and stage; None where there is none."""
        ...

    def ready(self) -> tuple[OutboxEntry, ...]:
        """Updates that wait for their receipt and still have their words, oldest first."""
        ...

    def readdress(self, ref: RoundRef) -> OutboxEntry:
        """Make the stored update of this run and round READY for the attempt in ``ref``; its bytes stay as they are.

        Raises:
            PolicyRefusal: there is none, or its words are gone.
        """
        ...

    def mark_receipted(self, receipt: Receipt) -> None:
        """Keep the receipt of a stored update; repeated receipts change nothing. Nothing happens where there is no such update."""
        ...

    def mark_dropped(self, ref: RoundRef, reason: str) -> None:
        """Note that a READY update will not be counted in its attempt. Nothing happens where no such update is READY."""
        ...

    def last_receipt(self, run: RunId) -> RoundRef | None:
        """The highest round and attempt of a run for which a receipt is held: the site's high-water mark."""
        ...

    def retire(self, run: RunId) -> None:
        """The run is over: forget the words of all its updates, keep receipts and reasons."""
        ...

    def close(self) -> None:
        """Let go of files and locks."""
        ...


def same_update(stored: UpdateHeader, offered: UpdateHeader) -> bool:
    """Whether two headers of one round declare the same content, attempt aside."""
    return replace(stored, round=offered.round) == offered


def refuse_second_update(ref: RoundRef) -> PolicyRefusal:
    """The refusal of put()."""
    return PolicyRefusal(f"round {ref.round} of run {ref.run!r} already has another update of this site")


def refuse_other_manifest(run: RunId) -> PolicyRefusal:
    """The refusal of pin()."""
    return PolicyRefusal(
        f"the coordinator announced other rules for run {run!r} than those that this site has pinned",
        cure="a changed run needs a new name",
    )


def refuse_missing_update(ref: RoundRef) -> PolicyRefusal:
    """The refusal of readdress()."""
    return PolicyRefusal(f"the update of round {ref.round} of run {ref.run!r} is no longer kept here")


class MemoryOutbox:
    """The twin that forgets everything with its process; see Outbox."""

    def __init__(self) -> None:
        self._manifests: dict[RunId, bytes] = {}
        self._entries: dict[tuple[RunId, Round], OutboxEntry] = {}
        self._receipts: set[RoundRef] = set()

    def pin(self, manifest: RunManifest) -> None:
        """See Outbox."""
        pinned = self._manifests.get(manifest.run)
        if pinned is None:
            self._manifests[manifest.run] = manifest.to_bytes()
            self._forget_words(lambda ref: ref.run != manifest.run)
        elif pinned != manifest.to_bytes():
            raise refuse_other_manifest(manifest.run)

    def pinned(self, run: RunId) -> RunManifest | None:
        """See Outbox."""
        return manifest_from_bytes(self._manifests[run]) if run in self._manifests else None

    def put(self, header: UpdateHeader, words: bytes) -> OutboxEntry:
        """See Outbox."""
        ref = header.round
        stored = self.find(ref)
        if stored is not None:
            if not same_update(stored.header, header):
                raise refuse_second_update(ref)
            return stored
        self._forget_words(lambda other: other.run == ref.run and other.round < ref.round)
        return self._keep(OutboxEntry(header, bytes(words)))

    def find(self, ref: RoundRef) -> OutboxEntry | None:
        """See Outbox."""
        return self._entries.get((ref.run, ref.round))

    def ready(self) -> tuple[OutboxEntry, ...]:
        """See Outbox."""
        return tuple(entry for entry in self._entries.values() if entry.stage is UpdateStage.READY and entry.words)

    def readdress(self, ref: RoundRef) -> OutboxEntry:
        """See Outbox."""
        stored = self.find(ref)
        if stored is None or not stored.words:
            raise refuse_missing_update(ref)
        return self._keep(OutboxEntry(replace(stored.header, round=ref), stored.words))

    def mark_receipted(self, receipt: Receipt) -> None:
        """See Outbox."""
        stored = self.find(receipt.round)
        if stored is not None and stored.stage is not UpdateStage.RECEIPTED:
            self._keep(replace(stored, stage=UpdateStage.RECEIPTED, receipt=receipt, reason=""))
            self._receipts.add(receipt.round)

    def mark_dropped(self, ref: RoundRef, reason: str) -> None:
        """See Outbox."""
        stored = self.find(ref)
        if stored is not None and stored.stage is UpdateStage.READY:
            self._keep(replace(stored, stage=UpdateStage.DROPPED, reason=reason))

    def last_receipt(self, run: RunId) -> RoundRef | None:
        """See Outbox."""
        return max((ref for ref in self._receipts if ref.run == run), default=None)

    def retire(self, run: RunId) -> None:
        """See Outbox."""
        self._forget_words(lambda ref: ref.run == run)

    def close(self) -> None:
        """See Outbox; nothing to do."""

    def _forget_words(self, of: Callable[[RoundRef], bool]) -> None:
        for key, entry in self._entries.items():
            if of(entry.header.round):
                self._entries[key] = replace(entry, words=b"")

    def _keep(self, entry: OutboxEntry) -> OutboxEntry:
        self._entries[entry.header.round.run, entry.header.round.round] = entry
        return entry

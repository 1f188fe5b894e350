"""Secure aggregation beside the journal: the protocol's phases of the attempt in force, and who is asked for what.

What sites say is checked by fedmentor.secagg.aggregator, written into the journal, and only then acknowledged. The phases draw no
randomness, so they are rebuilt from the journal after a restart; nothing here is lost with the process.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from coordinator.ports import ServicePorts
from coordinator.progress import STEP_OF
from coordinator.refusals import Refusals
from coordinator.secure_attempt import GroupAttempt, Opened, SecureAttempt
from coordinator.state import PhaseName, RunState
from coordinator.store.journal import Transaction, site_actor
from fedmentor.audit import Fields
from fedmentor.errors import BrokenStore, RoundClosed, UpdateRejected
from fedmentor.federation import RoundRef, RunManifest, StepAnswer, StepName, UpdateHeader
from fedmentor.ids import Digest, SiteId
from fedmentor.secagg.messages import sender_of, shares_from_bytes
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import signed_from_bytes
from fedmentor.secagg.transcript import Context
from fedmentor.tensors import spec_size

_HELD: Final = STEP_OF.keys() | {PhaseName.AGGREGATE}
"""Phases in which there is an attempt to look at."""


class SecureRounds:
    """The secure attempts of one run; safe to share between threads.

    Lock before journal: whoever holds the lock may begin a transaction, never the other way round.

    Args:
        manifest: of a run that aggregates securely.
        ports: the world.
    """

    def __init__(self, manifest: RunManifest, ports: ServicePorts) -> None:
        self._manifest = manifest
        self._ports = ports
        self._lock = threading.RLock()
        self._built: tuple[RoundRef, SecureAttempt] | None = None
        self._refusals = Refusals(ports, "refuse_answer")

    def open(self, tx: Transaction, state: RunState) -> None:
        """Begin the attempt of ``state``, in the transaction that opens it."""
        tx.open_secure_attempt(state.round, state.attempt, tx.audit_head().hash)

    def answer(self, site: SiteId, answer: StepAnswer) -> None:
        """Take what a site says; a repeat is acknowledged.

        1. the step is one that is answered; 2. what the site already said in it stands; 3. the step of that attempt is in force;
        4. the message names this site; 5. the protocol's own checks.

        Raises:
            RoundClosed: 3.
            UpdateRejected: 1.
            ProtocolRefused: 2, 4 or 5.
        """
        with self._refusals.recorded(site, answer.round, {"step": answer.step.value}), self.held():
            if answer.step is StepName.UPLOAD:  # 1
                raise UpdateRejected("an upload is not an answer")
            self._ports.journal.run_tx("answer_step", lambda tx: self._answer(tx, site, answer))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the attempt from moving while the block runs; where the disk fails in it, memory may be ahead, and is read anew."""
        with self._lock:
            try:
                yield
            except BrokenStore:
                self._built = None
                raise

    def take_upload(self, tx: Transaction, site: SiteId, header: UpdateHeader) -> None:
        """Check a whole masked upload and keep its signed header, in the transaction that accepts it; to be called while ``held``.

        Raises:
            RoundClosed, ProtocolRefused: see ``answer``.
        """
        self._answer(tx, site, StepAnswer(header.round, StepName.UPLOAD, header.masked), header.sha256)

    def asked(self, state: RunState, site: SiteId) -> bytes | None:
        """What a site is sent in the phase of ``state``; None where it has no part in it."""
        built = self._built
        if built is not None and built[0] == state.ref(self._manifest.run):
            # Without the lock, which may wait for the disk: whoever asks may be an event loop. What goes to sites is set once.
            return built[1].asked(state.phase, site)
        with self.attempt(state) as attempt:
            return attempt.asked(state.phase, site) if attempt else None

    def opened(self, state: RunState) -> tuple[Opened, ...]:
        """The groups of the attempt whose sums can be opened; none before its last step is closed."""
        with self.attempt(state) as attempt:
            return attempt.opened() if attempt else ()

    def expected(self, state: RunState) -> frozenset[SiteId]:
        """Sites that are asked for something in the phase of ``state``."""
        return frozenset(site for site in self._manifest.roster if self.asked(state, site) is not None)

    @contextmanager
    def attempt(self, state: RunState) -> Iterator[SecureAttempt | None]:
        """The attempt of ``state``, held as long as the block runs; None where that is no phase of the protocol, or is past."""
        with self.held():
            if state.phase in _HELD:
                yield self._ports.journal.run_tx("read_answers", lambda tx: self._current(tx, state))
            else:
                yield None

    def _answer(self, tx: Transaction, site: SiteId, answer: StepAnswer, words_sha256: Digest | None = None) -> None:
        state, ref = tx.state(), answer.round
        said = tx.answer(ref.round, ref.attempt, answer.step, site)
        if said is not None:  # 2
            if said != answer:
                raise ProtocolRefused(Reason.REPEATED_SITE, f"site {site} has already said something else in this step")
            return
        attempt = self._current(tx, state) if ref == state.ref(self._manifest.run) else None
        if attempt is None or STEP_OF.get(state.phase) is not answer.step:  # 3
            raise RoundClosed(f"round {ref.round} attempt {ref.attempt} is not at the step {answer.step.value!r}")
        group, index = attempt.place(site)
        if _sender(answer) != index:  # 4
            raise ProtocolRefused(Reason.FOREIGN_SITE, f"a message that names another site came from site {site}")
        if group.lost:
            raise RoundClosed(f"round {ref.round} attempt {ref.attempt} is over for {group.group.name}")
        group.add(answer.message, words_sha256)  # 5
        tx.put_answer(site, answer)
        fields: Fields = {"round": ref.round, "attempt": ref.attempt, "sha256": hashlib.sha256(answer.message).hexdigest()}
        tx.audit(site_actor(site), f"secure_{answer.step.value}", fields)

    def _current(self, tx: Transaction, state: RunState) -> SecureAttempt | None:
        """The attempt of ``state``; None where the run has gone on from it since ``state`` was read, or has not begun it."""
        ref = state.ref(self._manifest.run)
        if self._built is None or self._built[0] != ref:
            root = tx.audit_root(state.round, state.attempt)
            if root is None or tx.state().ref(self._manifest.run) != ref:
                return None
            self._built = ref, self._rebuilt(tx, state, root)
        return self._built[1]

    def _rebuilt(self, tx: Transaction, state: RunState, root: Digest) -> SecureAttempt:
        attempt = self._begun(state, root)
        uploads = {update.site: update.receipt.sha256 for update in tx.updates(state.round, state.attempt)}
        said = tx.answers(state.round, state.attempt)
        for phase, step in STEP_OF.items():
            for site, answer in said:
                if answer.step is step:
                    attempt.place(site)[0].add(answer.message, uploads.get(site))
            if phase is state.phase:
                break
            attempt.close()
        return attempt

    def _begun(self, state: RunState, root: Digest) -> SecureAttempt:
        manifest = self._manifest
        if manifest.secure is None:
            raise BrokenStore("the journal holds a secure attempt, but the run does not aggregate securely")
        where = (manifest.run, state.round, state.attempt, manifest.digest, state.model, root)
        words = spec_size(manifest.spec) + 1
        attempts = (GroupAttempt(group, Context(*where, group.terms.digest), words) for group in manifest.groups)
        return SecureAttempt(manifest.secure, tuple(attempts))


def _sender(answer: StepAnswer) -> int:
    """The roster index that an answer names; nothing about it is checked yet."""
    if answer.step is StepName.SHARE:
        return sender_of(shares_from_bytes(answer.message).commit)
    return sender_of(signed_from_bytes(answer.message))

"""A site's part in a run, as a state machine. It does no I/O but through its ports.

::

    away ──connect──► greeting ──Manifest (checked, pinned)──► joined ──Finished──► over
      ▲   (outbox first)                                        │  ▲
      └──── link broke: exponential backoff with jitter ◄───────┤  └── Train, SecureStep, Evaluate, Wait
            longer than give_up_seconds: CoordinatorUnreachable ┘

Every directive is shown to the witness first (fed_node.witness), which looks into the coordinator's audit trail before an order is
carried out.

Train, step by step (``Session._train``)::

    1 guard     directive fits the manifest; not behind the last receipt; in a secure run the other sites' shares open
    2 known?    the outbox has an update of this round from the same model: send those bytes again, never train twice
    3 fetch     model; its digest must be the one that was named
    4 evaluate  on the held-out patients; report the scores
    5 train     until done, or deadline, or nobody waits for it any more, or this node is stopped; in a run with a privacy plan the
                ledger reserves its cost before and commits it after (fed_node.privacy)
    6 quantise  clip, weight, ring words (fedmentor.secagg.ring); what is not finite is skipped
    7 outbox    on disk before a byte is sent
    8 send      through fed_node.delivery, the only gate by which an update leaves the site, and where it is masked in a secure run;
                keep the receipt

In a run that aggregates securely the steps before and after (fed_node.secure) are answered as they come; the first one of an
attempt fetches the model, whose digest is part of what the site's keys are bound to.

Whatever happens between two steps, doing the directive again is safe: 1 to 5 change nothing, 7 and 8 are idempotent.
"""

from __future__ import annotations

from contextlib import suppress

from fed_node.connection import Connection
from fed_node.delivery import Delivery
from fed_node.events import Answered, ClockDiffers, Joined, RunOver, Scored, Skipped, Trained, Waiting
from fed_node.mailbox import Arrived
from fed_node.ports import SessionPolicy, SessionPorts, private_training, secure_site
from fed_node.rules import check_approval, check_directive, check_manifest, check_model, check_not_older, check_same_base
from fed_node.secure import SecureSite
from fed_node.trainer import Interrupted, LocalScores, ShouldStop, TrainedUpdate, local_seed, ring_words
from fedmentor.errors import CoordinatorUnreachable, FedMentorError, PolicyRefusal, RoundClosed, UpdateRejected
from fedmentor.federation import (
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    RoundRef,
    RunManifest,
    Scores,
    SecureStep,
    StepName,
    Train,
    UpdateHeader,
    Wait,
)
from fedmentor.identity.authority import CLOCK_LEEWAY
from fedmentor.ids import Digest, SiteId
from fedmentor.tensors import FloatVector, sha256_hex


class Session:
    """One site in one run; see the module's diagram.

    Args:
        site: this site's name.
        ports: the world.
        policy: the site's own limits.
    """

    def __init__(self, site: SiteId, ports: SessionPorts, policy: SessionPolicy) -> None:
        self._site = site
        self._ports = ports
        self._policy = policy
        self._delivery = Delivery(site, ports)
        self._connection = Connection(ports, policy, self._delivery.send_waiting)
        self._manifest: RunManifest | None = None
        self._secure: SecureSite | None = None
        # The model that an attempt was announced with: training starts from it minutes later.
        self._announced: tuple[Digest, FloatVector] | None = None
        # Scores of the model evaluated last: a round that is tried again need not evaluate the same model again.
        self._scored: tuple[Digest, LocalScores] | None = None

    def run(self) -> Finished | None:
        """Take part until the run is over.

        Returns:
            How the run ended; None where this node was asked to stop before that. The outbox keeps what was not acknowledged.

        Raises:
            CoordinatorUnreachable: away for longer than give_up_seconds.
            PolicyRefusal: the coordinator asks for something that this site does not do, or refuses this site, or ended its
                stream for another node that runs under the same identity.
            BudgetExhausted: the privacy budget of this site's patients is used up; the federation goes on without this site.
            ModelError: it serves another architecture or a damaged model.
            BrokenStore: the outbox failed; nothing that depended on it was sent.
        """
        try:
            with suppress(Interrupted):
                while not self._ports.stopping():
                    finished = self.step()
                    if finished is not None:
                        return finished
            return None
        finally:
            self._connection.close()

    def step(self) -> Finished | None:
        """Do one thing: connect, or take one directive and act on it; raises what run() raises.

        Returns:
            How the run ended, once it has.
        """
        try:
            arrived = self._connection.take()
            return self._act(arrived) if arrived is not None else None
        except CoordinatorUnreachable as error:
            newest = self._connection.peek()
            if isinstance(newest, Finished):
                # The coordinator ended while this site still acted on what came before: it said so, and will never answer again.
                return self._leave(newest)
            self._connection.lost(error)
            return None

    def _act(self, arrived: Arrived) -> Finished | None:
        if self._ports.witness is not None and self._manifest is not None:
            self._ports.witness.attend(arrived.directive, self._manifest)
        match arrived.directive:
            case Manifest(manifest, signature):
                self._join(manifest, signature)
                return None
            case Train() as train:
                self._train(train, self._joined(), arrived.at_s)
            case SecureStep() as step:
                self._answer(step, self._joined())
            case Evaluate() as evaluate:
                self._evaluate(evaluate, self._joined())
            case Wait(reason):
                self._ports.observe(Waiting(reason))
            case Finished() as finished:
                return self._leave(finished)
        self._connection.worked()
        return None

    def _join(self, manifest: RunManifest, signature: bytes) -> None:
        trainer = self._ports.trainer
        approved = self._ports.approved(manifest.to_bytes(), signature)
        check_approval(manifest, self._policy.limits, approved=approved)
        check_manifest(manifest, self._site, trainer.architecture, trainer.spec, self._policy.limits)
        self._ports.outbox.pin(manifest)
        if manifest.privacy is not None:
            private_training(self._ports, manifest).admit(manifest)
        if self._manifest is None:
            self._compare_clocks()
        if manifest != self._manifest:
            self._secure = secure_site(self._ports, self._site, manifest, approved=approved)
            self._delivery.join(self._secure)
            self._manifest = manifest
            self._ports.observe(Joined(manifest.run, manifest.digest, manifest.rounds, len(manifest.roster)))
        elif self._secure is not None:
            self._secure.check_keys()

    def _compare_clocks(self) -> None:
        """Tell of a clock that is too wrong for certificates; the run itself needs none, so nothing else follows from it."""
        with suppress(FedMentorError):
            theirs = self._ports.link.tell_time()
            ahead = self._ports.clock.now() - theirs
            if abs(ahead) > CLOCK_LEEWAY:
                self._ports.observe(ClockDiffers(ahead.total_seconds()))

    def _joined(self) -> RunManifest:
        if self._manifest is None:
            raise PolicyRefusal("the coordinator gave a directive before the run's manifest")
        return self._manifest

    def _leave(self, finished: Finished) -> Finished:
        if self._manifest is not None:
            self._ports.outbox.retire(self._manifest.run)
        self._ports.observe(RunOver(finished.outcome, finished.reason))
        return finished

    def _evaluate(self, directive: Evaluate, manifest: RunManifest) -> None:
        check_directive(directive, manifest)
        try:
            vector = self._fetch(directive.model, manifest)
            self._report_scores(directive.round, directive.model.digest, vector)
        except RoundClosed as error:
            self._ports.observe(Skipped(directive.round, error.message))

    def _answer(self, directive: SecureStep, manifest: RunManifest) -> None:
        ref = directive.round
        check_directive(directive, manifest)
        check_not_older(ref, self._ports.outbox.last_receipt(ref.run))
        if self._secure is None:
            raise PolicyRefusal(
                f"the coordinator asks for a step of secure aggregation, and run {ref.run!r} does not aggregate securely"
            )
        try:
            if directive.step is StepName.ADVERTISE:
                self._announced = directive.model.digest, self._fetch(directive.model, manifest)
            answer = self._secure.answer(directive)
        except RoundClosed as error:
            self._sit_out(ref, error.message)
            return
        try:
            self._ports.link.answer_step(answer)
        except RoundClosed as error:
            self._ports.observe(Skipped(ref, error.message))
            return
        self._ports.observe(Answered(ref, directive.step))

    def _train(self, directive: Train, manifest: RunManifest, arrived_s: float) -> None:
        ref, started_s = directive.round, self._ports.clock.monotonic_s()
        # (1) guard
        check_directive(directive, manifest)
        check_not_older(ref, self._ports.outbox.last_receipt(ref.run))
        if self._secure is not None:
            try:
                self._secure.accept(ref, directive.delivery, directive.model.digest)
            except RoundClosed as error:
                self._sit_out(ref, error.message)
                return
        # (2) known?
        known = self._ports.outbox.find(ref)
        if known is not None:
            check_same_base(known.header, directive.model)
            self._delivery.send_again(ref, known)
            return
        try:
            # (3) fetch, (4) evaluate
            vector = self._fetch(directive.model, manifest)
            self._report_scores(ref, directive.model.digest, vector)
        except RoundClosed as error:
            self._ports.observe(Skipped(ref, error.message))
            return
        try:
            # (5) train
            update = self._train_until(ref, vector, manifest, arrived_s + directive.deadline_s)
            if update is None:
                return
            # (6) quantise
            words = ring_words(update, manifest.ring)
        except UpdateRejected as error:
            # Training diverged. Another round's model and seed may well do better; the federation goes on without this update.
            self._sit_out(ref, error.message)
            return
        header = UpdateHeader(ref, sha256_hex([words]), len(words), directive.model.digest)
        # (7) outbox
        entry = self._ports.outbox.put(header, words)
        self._ports.observe(Trained(ref, update.loss, update.examples, self._ports.clock.monotonic_s() - started_s))
        # (8) send
        self._delivery.send(entry, directive.model.size_bytes, started_s, again=False)

    def _sit_out(self, ref: RoundRef, reason: str) -> None:
        self._ports.observe(Skipped(ref, reason))
        self._ports.link.sit_out(ref, reason)

    def _fetch(self, model: ModelRef, manifest: RunManifest) -> FloatVector:
        if self._announced is not None and self._announced[0] == model.digest:
            return self._announced[1]
        return check_model(self._ports.link.fetch_model(model), model.digest, manifest.spec)

    def _report_scores(self, ref: RoundRef, model: Digest, vector: FloatVector) -> None:
        if self._scored is None or self._scored[0] != model:
            # The model is here; however long this and training take, it is not the coordinator that is away.
            self._connection.worked()
            self._scored = model, self._ports.trainer.evaluate(vector)
        scores = self._scored[1]
        if self._joined().reports_scores:
            means = (scores.dice, scores.iou, scores.hd95, scores.hd95_undefined)
            self._ports.link.report_scores(Scores(ref, model, scores.patients, scores.images, *means))
        self._ports.observe(Scored(ref, scores))

    def _train_until(self, ref: RoundRef, vector: FloatVector, manifest: RunManifest, deadline_s: float) -> TrainedUpdate | None:
        """Train while somebody waits for it; says why where it gave up."""

        def reason_to_stop() -> str:
            if self._ports.stopping():
                return "this node is stopping"
            if self._ports.clock.monotonic_s() >= deadline_s:
                return "the round's deadline passed before training was done"
            return self._superseded(ref)

        self._connection.worked()
        update = self._train_from(ref, vector, manifest, lambda: bool(reason_to_stop()))
        if update is None:
            self._ports.observe(Skipped(ref, reason_to_stop() or "training was stopped"))
        return update

    def _train_from(
        self, ref: RoundRef, vector: FloatVector, manifest: RunManifest, should_stop: ShouldStop
    ) -> TrainedUpdate | None:
        if manifest.privacy is not None:
            return private_training(self._ports, manifest).train(ref, manifest, vector, should_stop)
        seed = local_seed(manifest.training.seed, self._site, ref.round)
        return self._ports.trainer.train(vector, manifest.training, seed, should_stop)

    def _superseded(self, ref: RoundRef) -> str:
        """Why nobody waits for this round any more; empty while somebody does. Another attempt of it wants the same update."""
        newer = self._connection.peek()
        if isinstance(newer, Finished):
            return "the run is over"
        if isinstance(newer, Train | SecureStep | Evaluate) and (newer.round.run, newer.round.round) != (ref.run, ref.round):
            return f"the coordinator went on to round {newer.round.round}"
        return ""

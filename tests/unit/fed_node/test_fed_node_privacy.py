"""Private training under the ledger, alone and inside a session: nothing leaves that was not paid for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fed_node.events import Delivered, Scored, SessionEvent, Skipped
from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger
from fed_node.ledger.store import MemoryStore
from fed_node.outbox import MemoryOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.privacy import PrivateTrainer, PrivateUpdate, plan_of
from fed_node.rules import PlanLimits, check_manifest
from fed_node.session import Session
from fed_node.testing import PolledMailbox, QuadraticTrainer
from fed_node.trainer import ShouldStop
from fedmentor.errors import BudgetExhausted, CoordinatorUnreachable, PolicyRefusal
from fedmentor.federation import (
    Directive,
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    Outcome,
    RoundRef,
    RunManifest,
    Train,
    TrainingPlan,
)
from fedmentor.ids import Attempt, Round, RunId, SiteId
from fedmentor.models import PrivacySpent
from fedmentor.privacy.accounting import no_tight_bound, rdp_epsilon
from fedmentor.privacy.events import Stage
from fedmentor.privacy.plan import PrivacyPlan
from fedmentor.tensors import FloatVector, model_digest, vector_bytes
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import ScriptedLink

SITE = SiteId("north")
START = np.zeros(3, np.float32)
SPEC = QuadraticTrainer(START).spec
PLAN = PrivacyPlan(epsilon=9, delta=1e-5, noise_multiplier=1.2, sampling_rate=0.2, rounds=3, steps_per_round=10)
MANIFEST = RunManifest(
    run=RunId("run"),
    roster=(SITE, SiteId("south"), SiteId("west")),
    rounds=3,
    architecture="quadratic-v1",
    tensors=tuple((tensor.name, tensor.shape) for tensor in SPEC),
    initial_model=model_digest(START, SPEC),
    training=TrainingPlan(local_epochs=1),
    privacy=PLAN,
)
DONE = Finished(Outcome.COMPLETED, "all rounds are published")
ROOMY = BudgetPolicy(50.0, 1e-5)


def cost(rounds: int) -> float:
    return rdp_epsilon((replace(PLAN.one_round, steps=rounds * PLAN.steps_per_round),), 1e-5)


def ref(number: int = 0, attempt: int = 1) -> RoundRef:
    return RoundRef(MANIFEST.run, Round(number), Attempt(attempt))


def train(number: int = 0, attempt: int = 1) -> Train:
    return Train(ref(number, attempt), ModelRef(MANIFEST.initial_model, 12), 60.0)


class NoisyStudent:
    """A private student without a student: every training gives other bytes."""

    patients = ("anna", "ben", "cleo")

    def __init__(self) -> None:
        self.trainings = 0

    def train_privately(
        self, vector: FloatVector, plan: TrainingPlan, privacy: PrivacyPlan, should_stop: ShouldStop
    ) -> PrivateUpdate | None:
        """See PrivateStudent."""
        del plan
        if should_stop():
            return None
        self.trainings += 1
        return PrivateUpdate(vector + np.float32(0.01 * self.trainings), privacy.steps_per_round, 0.5)


@dataclass
class Bench:
    """A site that can be restarted: ledger store and outbox stay, everything else is new."""

    policy: BudgetPolicy = ROOMY
    store: MemoryStore = field(default_factory=MemoryStore)
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    events: list[SessionEvent] = field(default_factory=list)
    student: NoisyStudent = field(default_factory=NoisyStudent)

    def ledger(self) -> PrivacyLedger:
        """The ledger as a new process opens it."""
        return PrivacyLedger(SITE, self.policy, LedgerPorts(self.store, bytes(32), ManualClock(), no_tight_bound))

    def trainer(self) -> PrivateTrainer:
        """Private training of a new process."""
        return PrivateTrainer(self.student, self.ledger)

    def run(self, *script: Directive | CoordinatorUnreachable, private: bool = True) -> ScriptedLink:
        """One process, one stream."""
        link = ScriptedLink(SITE, {MANIFEST.initial_model: vector_bytes(START)}, [[Manifest(MANIFEST), *script]])
        clock = ManualClock()
        ports = SessionPorts(
            link=link,
            open_mailbox=lambda stream: QuietMailbox(stream, clock),
            trainer=QuadraticTrainer(START),
            outbox=self.outbox,
            clock=clock,
            pause=clock.advance,
            jitter=lambda: 0.0,
            stopping=lambda: False,
            observe=self.events.append,
            privacy=self.trainer() if private else None,
        )
        self.link = link
        assert Session(SITE, ports, SessionPolicy()).run() == DONE
        return link


class QuietMailbox(PolledMailbox):
    """The coordinator says the next thing only when it is listened to."""

    def peek(self) -> None:
        """Nothing, until somebody takes."""


def test_training_reserves_commits_and_weighs_all_sites_alike():
    bench = Bench()
    private = bench.trainer()
    update = private.train(ref(), MANIFEST, START, lambda: False)
    assert update is not None
    assert update.examples == MANIFEST.max_weight
    (item,) = private.ledger.state.of_round(MANIFEST.run, Round(0))
    assert (item.stage, item.segment, item.released) == (Stage.COMMITTED, PLAN.one_round, False)


def test_training_that_is_stopped_costs_nothing():
    private = Bench().trainer()
    assert private.train(ref(), MANIFEST, START, lambda: True) is None
    assert private.ledger.spent().epsilon == 0


class BrokenStudent(NoisyStudent):
    """Fails in the middle."""

    def train_privately(self, *_arguments):
        """See PrivateStudent."""
        raise ValueError("a bug")


def test_training_that_breaks_stays_reserved_until_the_next_start():
    bench = Bench(student=BrokenStudent())
    private = bench.trainer()
    with pytest.raises(ValueError, match="a bug"):
        private.train(ref(), MANIFEST, START, lambda: False)
    assert private.ledger.spent().epsilon == pytest.approx(cost(1))
    assert bench.ledger().spent().epsilon == 0


def test_a_whole_private_run_is_paid_for_and_sent():
    bench = Bench()
    link = bench.run(train(0), train(1), train(2), Evaluate(ref(3), ModelRef(MANIFEST.initial_model, 12), 60.0), DONE)
    ledger = bench.ledger()
    assert [item.released for item in ledger.state.reservations.values()] == [True] * 3
    assert ledger.spent().epsilon == pytest.approx(cost(3))
    assert [event.round.round for event in bench.events if isinstance(event, Delivered)] == [0, 1, 2]
    assert {item.release for item in ledger.state.reservations.values()} == {header.sha256 for header, _ in link.sent}


def test_scores_stay_at_the_site_unless_the_plan_says_otherwise():
    bench = Bench()
    link = bench.run(train(0), DONE)
    assert any(isinstance(event, Scored) for event in bench.events)
    assert not link.scores


def test_another_attempt_sends_the_same_bytes_and_costs_nothing():
    bench = Bench()
    bench.run(train(0), train(0, attempt=2), DONE)
    assert bench.student.trainings == 1
    assert bench.ledger().spent().epsilon == pytest.approx(cost(1))


def test_a_site_whose_budget_is_used_up_leaves_with_a_sentence():
    bench = Bench(policy=BudgetPolicy(cost(2) + 1e-6, 1e-5))
    with pytest.raises(BudgetExhausted, match="round 2 of run 'run'"):
        bench.run(train(0), train(1), train(2), DONE)
    assert bench.student.trainings == 2, "the data was not touched for the third round"
    assert len(bench.link.sent) == 2


def test_a_site_without_room_for_one_round_does_not_join():
    bench = Bench(policy=BudgetPolicy(cost(1) - 1e-3, 1e-5))
    with pytest.raises(BudgetExhausted):
        bench.run(train(0), DONE)
    assert bench.student.trainings == 0


def test_a_run_that_has_begun_may_be_joined_again_with_nothing_left():
    bench = Bench(policy=BudgetPolicy(cost(1) + 1e-6, 1e-5))
    bench.run(train(0), DONE)
    bench.run(Evaluate(ref(3), ModelRef(MANIFEST.initial_model, 12), 60.0), DONE)
    assert bench.student.trainings == 1


def test_an_update_whose_ledger_was_lost_never_leaves():
    bench = Bench()
    bench.run(train(0), DONE)
    # A crash before the receipt, and a new, empty ledger in the place of the old one.
    lost = Bench(outbox=MemoryOutbox())
    lost.outbox.pin(MANIFEST)
    lost.outbox.put(*bench.link.sent[0])
    with pytest.raises(PolicyRefusal, match="knows no update"):
        lost.run(DONE)
    assert lost.link.sent == []


def test_an_update_that_waited_for_its_receipt_is_sent_again_after_a_restart():
    bench = Bench()
    bench.run(train(0), DONE)
    restarted = Bench(store=bench.store)
    restarted.outbox.pin(MANIFEST)
    restarted.outbox.put(*bench.link.sent[0])
    before = bench.ledger().head
    assert restarted.run(DONE).sent == bench.link.sent
    assert restarted.ledger().head == before


def test_a_node_without_private_training_refuses_a_private_run():
    with pytest.raises(PolicyRefusal, match="this node cannot"):
        Bench().run(train(0), DONE, private=False)


def test_a_site_may_ask_for_privacy():
    limits = PlanLimits(privacy_required=True)
    check_manifest(MANIFEST, SITE, "quadratic-v1", SPEC, limits)
    with pytest.raises(PolicyRefusal, match="has no privacy plan"):
        check_manifest(MANIFEST.model_copy(update={"privacy": None}), SITE, "quadratic-v1", SPEC, limits)


def test_what_a_model_claims_grows_with_its_rounds():
    claims = [MANIFEST.privacy_spent(rounds) for rounds in range(4)]
    assert claims[3] == PrivacySpent(epsilon=cost(3), delta=1e-5, unit="patient", accountant="rdp")
    assert [claim.epsilon for claim in claims] == [0.0, pytest.approx(cost(1)), pytest.approx(cost(2)), pytest.approx(cost(3))]
    assert MANIFEST.model_copy(update={"privacy": None}).privacy_spent(3) is None


def test_a_run_without_a_plan_is_not_for_the_ledger():
    with pytest.raises(PolicyRefusal, match="promises no privacy"):
        plan_of(MANIFEST.model_copy(update={"privacy": None}))


def test_nothing_was_skipped_in_silence():
    bench = Bench()
    bench.run(train(0), DONE)
    assert not [event for event in bench.events if isinstance(event, Skipped)]

"""Private training as the session sees it: the student, held by the site's ledger.

One rule: what a run with a privacy plan makes leaves this site only if the ledger has recorded its cost. ``train`` reserves before
it trains and commits before it returns; ``release`` is asked by fed_node.delivery before the first byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fed_node.ledger.ledger import PrivacyLedger, Spend
from fed_node.trainer import ShouldStop, TrainedUpdate, ring_words
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import RoundRef, RunManifest, TrainingPlan, UpdateHeader
from fedmentor.ids import Round
from fedmentor.privacy.plan import PrivacyPlan
from fedmentor.tensors import FloatVector, sha256_hex


@dataclass(frozen=True)
class PrivateUpdate:
    """What one private training made.

    Attributes:
        delta: float32 [d], local minus global parameters.
        steps: taken, each with noise.
        loss: mean training loss, without noise: for this site's log only.
    """

    delta: FloatVector = field(repr=False)
    steps: int
    loss: float


class PrivateStudent(Protocol):
    """A student that can be trained by DP-SGD; fed_node.student_trainer.StudentTrainer is one."""

    @property
    def patients(self) -> tuple[str, ...]:
        """Ids of everybody with a training image; the ledger keeps keyed tags of them."""
        ...

    def train_privately(
        self, vector: FloatVector, plan: TrainingPlan, privacy: PrivacyPlan, should_stop: ShouldStop
    ) -> PrivateUpdate | None:
        """Train from a global model; two calls never give the same bytes.

        Returns:
            None where should_stop said so.
        """
        ...


class PrivateTraining(Protocol):
    """The port between the session and private training; PrivateTrainer is its implementation.

    Every method raises BrokenStore where the ledger cannot be written; nothing may be trained or sent after that.
    """

    def admit(self, manifest: RunManifest) -> None:
        """Called when a run with a privacy plan is joined.

        Raises:
            BudgetExhausted: there is no room for even one round of it; a run that has begun here is not asked again.
            PolicyRefusal: the ledger is not the one that was last seen.
        """
        ...

    def train(self, ref: RoundRef, manifest: RunManifest, vector: FloatVector, should_stop: ShouldStop) -> TrainedUpdate | None:
        """Reserve, train, commit; None where should_stop said so, and then nothing is spent.

        Raises:
            BudgetExhausted: no room for this round; the data was not touched.
        """
        ...

    def release(self, header: UpdateHeader) -> None:
        """Ask to send an update; the same one again costs nothing.

        Raises:
            PolicyRefusal: its cost was never committed.
        """
        ...


class PrivateTrainer:
    """See PrivateTraining.

    Args:
        student: on this site's data.
        open_ledger: opens the site's ledger; called once, when a run first needs it.
    """

    def __init__(self, student: PrivateStudent, open_ledger: Callable[[], PrivacyLedger]) -> None:
        self._student = student
        self._open_ledger = open_ledger
        self._ledger: PrivacyLedger | None = None

    @property
    def ledger(self) -> PrivacyLedger:
        """The site's ledger."""
        if self._ledger is None:
            self._ledger = self._open_ledger()
        return self._ledger

    def admit(self, manifest: RunManifest) -> None:
        """See PrivateTraining."""
        if any(item.run == manifest.run for item in self.ledger.state.reservations.values()):
            return  # it has begun; perhaps nothing but sending and scoring is left to do
        self.ledger.check(Spend(manifest.run, Round(0), plan_of(manifest).one_round, self._student.patients))

    def train(self, ref: RoundRef, manifest: RunManifest, vector: FloatVector, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See PrivateTraining."""
        privacy = plan_of(manifest)
        reservation = self.ledger.reserve(Spend(ref.run, ref.round, privacy.one_round, self._student.patients))
        made = self._student.train_privately(vector, manifest.training, privacy, should_stop)
        if made is None:
            self.ledger.void(reservation, "training was stopped, so nothing left this site")
            return None
        # Every site weighs the same: how many patients a site has is a statement about its patients.
        update = TrainedUpdate(made.delta, manifest.max_weight, made.loss)
        self.ledger.commit(reservation, made.steps, sha256_hex([ring_words(update, manifest.ring)]))
        return update

    def release(self, header: UpdateHeader) -> None:
        """See PrivateTraining."""
        self.ledger.release(header.round.run, header.round.round, header.sha256)

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()


def plan_of(manifest: RunManifest) -> PrivacyPlan:
    """The run's privacy plan.

    Raises:
        PolicyRefusal: it has none.
    """
    if manifest.privacy is None:
        raise PolicyRefusal(f"run {manifest.run!r} promises no privacy, so its training is not for the ledger")
    return manifest.privacy

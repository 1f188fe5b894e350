"""Sites that lie, for simulations and benchmarks: everything that they send is admissible, nothing of it is honest."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import numpy as np

from fed_node.trainer import LocalScores, LocalTrainer, ShouldStop, TrainedUpdate
from fedmentor.federation import TrainingPlan
from fedmentor.tensors import FloatVector, Spec


class Attack(str, Enum):
    """What a malicious site sends."""

    SIGN_FLIP = "sign-flip"
    """The opposite of what it learned (Blanchard et al. 2017 call it omniscient where it is scaled up)."""
    TIMES_100 = "x100"
    """What it learned a hundred times over: model replacement (Bagdasaryan et al. 2020, arXiv 1807.00459)."""
    SIGN_FLIP_TIMES_100 = "sign-flip-x100"
    """The opposite a hundred times over."""
    LABEL_FLIP = "label-flip"
    """What a trainer on wrong masks learned (Biggio, Nelson & Laskov 2012)."""
    ZERO = "free-rider-zero"
    """Nothing."""
    ECHO = "free-rider-echo"
    """The last round's change of the global model; nothing in the first round."""


FACTORS = {Attack.SIGN_FLIP: -1.0, Attack.TIMES_100: 100.0, Attack.SIGN_FLIP_TIMES_100: -100.0, Attack.LABEL_FLIP: 1.0}
"""By what each attack that trains multiplies what it learned."""


class MaliciousTrainer:
    """A LocalTrainer that attacks. The node around it clips and quantises as always, so admission has nothing to refuse.

    Args:
        attack: what it sends.
        trainer: the student on the site's data; for LABEL_FLIP, on data whose masks are wrong.
        claims: images that it says it trained on; None for as many as it did.
    """

    def __init__(self, attack: Attack, trainer: LocalTrainer, claims: int | None = None) -> None:
        self._attack = attack
        self._trainer = trainer
        self._claims = claims
        self._last: FloatVector | None = None

    @property
    def architecture(self) -> str:
        """See LocalTrainer."""
        return self._trainer.architecture

    @property
    def spec(self) -> Spec:
        """See LocalTrainer."""
        return self._trainer.spec

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """See LocalTrainer; its scores are honest."""
        return self._trainer.evaluate(vector)

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        before, self._last = self._last, np.array(vector, np.float32)
        if self._attack not in FACTORS:
            echo = vector - before if self._attack is Attack.ECHO and before is not None else np.zeros_like(vector)
            return TrainedUpdate(echo, self._claims or 1, 0.0)
        update = self._trainer.train(vector, plan, seed, should_stop)
        if update is None:
            return None
        delta = (update.delta * np.float32(FACTORS[self._attack])).astype(np.float32)
        return replace(update, delta=delta, examples=self._claims or update.examples)

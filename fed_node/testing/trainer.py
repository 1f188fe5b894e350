"""A trainer with a known optimum: every site pulls the vector toward its own target."""

from __future__ import annotations

import numpy as np

from fed_node.trainer import LocalScores, ShouldStop, TrainedUpdate
from fedmentor.federation import TrainingPlan
from fedmentor.tensors import FloatVector, Spec, TensorSpec

ARCHITECTURE = "quadratic-v1"


class QuadraticTrainer:
    """Gradient descent on f(v) = |v - target|^2 / 2, so the federation's optimum is the weighted mean of the targets.

    ``plan.learning_rate`` is the step size and ``plan.local_epochs`` the number of steps; the seed has nothing to decide.

    Args:
        target: float32 [d], where this site pulls to.
        examples: training images that the site claims.
    """

    def __init__(self, target: FloatVector, examples: int = 10) -> None:
        self._target = np.asarray(target, np.float32)
        self._examples = examples
        self.trainings = 0
        """How often train() finished: a test reads it to see that nothing was trained twice."""

    @property
    def architecture(self) -> str:
        """See LocalTrainer."""
        return ARCHITECTURE

    @property
    def spec(self) -> Spec:
        """One tensor of d values."""
        return (TensorSpec("vector", (int(self._target.size),)),)

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """Dice falls from 1 with the squared distance to the target; IoU follows as dice / (2 - dice)."""
        dice = 1.0 / (1.0 + self._distance(vector))
        return LocalScores(patients=1, images=1, dice=dice, iou=dice / (2.0 - dice), hd95=float("nan"), hd95_undefined=1)

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        del seed
        local = np.array(vector, np.float32)
        for _ in range(plan.local_epochs):
            if should_stop():
                return None
            local -= np.float32(plan.learning_rate) * (local - self._target)
        self.trainings += 1
        return TrainedUpdate(local - np.asarray(vector, np.float32), self._examples, self._distance(local))

    def _distance(self, vector: FloatVector) -> float:
        return float(np.sum((vector.astype(np.float64) - self._target) ** 2)) / 2.0

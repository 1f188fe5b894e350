"""The port between the session and the student: flat vectors in, scores and deltas out.

The session knows nothing of torch, images or optimisers. Implementations: fed_node.student_trainer.StudentTrainer (SM-lite on the
site's images) and fed_node.testing.QuadraticTrainer (numpy only, known optimum).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fedmentor.federation import TrainingPlan
from fedmentor.ids import Round, SiteId
from fedmentor.secagg.ring import Ring, quantise
from fedmentor.tensors import FloatVector, Spec

ShouldStop = Callable[[], bool]
"""Asked between steps; True means: give up this training, its result is no longer wanted."""

SEED_BITS = 63
"""Seeds stay positive in a signed 64-bit integer, which is what torch and numpy take."""


class Interrupted(Exception):
    """A trainer was asked to stop in the middle of something that has no half result; the session then ends."""


@dataclass(frozen=True)
class LocalScores:
    """How a model did on the site's own held-out patients.

    ``hd95`` is the mean 95th percentile Hausdorff distance in pixels at 256 x 256, NaN where it is undefined for every image;
    ``hd95_undefined`` counts the images that it leaves out.
    """

    patients: int
    images: int
    dice: float
    iou: float
    hd95: float
    hd95_undefined: int


@dataclass(frozen=True)
class TrainedUpdate:
    """What one local training made.

    Attributes:
        delta: float32 [d], local minus global parameters, neither clipped nor weighted.
        examples: number of training *images* behind it (n_k of FedAvg, McMahan et al. 2017, algorithm 1); one meaning everywhere.
        loss: mean training loss of the last epoch.
    """

    delta: FloatVector = field(repr=False)
    examples: int
    loss: float


class LocalTrainer(Protocol):
    """Evaluates and trains one architecture on one site's data, which it loads when it is made."""

    @property
    def architecture(self) -> str:
        """Id of the student's architecture, e.g. ``sm-lite-v1``."""
        ...

    @property
    def spec(self) -> Spec:
        """Names and shapes of the student's tensors."""
        ...

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """Scores of a global model on the held-out patients.

        Args:
            vector: float32 [d] in spec order; left unchanged.
        """
        ...

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """Train from a global model. The same arguments give the same bytes on the same machine.

        Args:
            vector: float32 [d] in spec order; left unchanged.
            plan: what the run's manifest says every site does.
            seed: from local_seed; the only randomness.
            should_stop: asked at least once a step.

        Returns:
            None where should_stop said so before training was done: nothing half-trained ever leaves.
        """
        ...


def ring_words(update: TrainedUpdate, ring: Ring) -> bytes:
    """The update as it leaves a site: clipped, weighted, quantised, little-endian words, not masked.

    Raises:
        UpdateRejected: a value is not finite.
    """
    return quantise(update.delta, update.examples, ring).astype("<u4", copy=False).tobytes()


def local_seed(run_seed: int, site: SiteId, number: Round) -> int:
    """The seed of one site's training in one round; the same for every attempt of the round.

    SHA-256 keeps the streams of neighbouring seeds, sites and rounds apart, which adding numbers would not.
    """
    state = hashlib.sha256(f"fedmentor/local-seed/1\n{run_seed}\n{site}\n{number}".encode())
    return int.from_bytes(state.digest()[:8], "little") >> (64 - SEED_BITS)

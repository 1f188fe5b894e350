"""What a federated run promises its patients, pinned in the run's manifest; and the noise that the promise takes."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmentor.errors import ConfigError
from fedmentor.privacy.accounting import History, Segment, rdp_epsilon
from fedmentor.privacy.rdp import NOISE_RANGE

NOISE_GRID = 1e-4
"""Calibrated noise multipliers are rounded up to a multiple of this, so that a manifest shows a short number."""

CLAIM_TOLERANCE = 1e-9

EpsilonOf = Callable[[History, float], float]


class PrivacyPlan(BaseModel):
    """(epsilon, delta)-differential privacy of one run for each patient of a site, by DP-SGD (Abadi et al. 2016).

    The neighbouring data sets differ by one patient with all their images. Sites differ in size, so the plan fixes the sampling
    *rate*: a site of n patients takes q * n of them a step on average, and the cost is the same everywhere.

    Attributes:
        epsilon: what the whole run may cost a patient; the numbers below must keep it.
        delta: probability that epsilon does not bound; well under one over the number of patients.
        noise_multiplier: sigma; the noise on the summed gradients has standard deviation sigma * clip_norm.
        clip_norm: C, the largest L2 norm of one patient's gradient.
        sampling_rate: q, the probability of each patient to be in a step.
        rounds: training rounds of the run.
        steps_per_round: optimiser steps a site takes in a round; ``local_epochs`` of the training plan has no say.
        unit: whose privacy it is.
        report_scores: whether sites send their held-out patients' mean scores. They carry no noise, so the promise does not cover
            the held-out patients then.

    Raises:
        ConfigError: noise, sampling and steps cost more than ``epsilon`` by Renyi accounting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, le=1e-2)
    noise_multiplier: float = Field(ge=NOISE_RANGE[0], le=NOISE_RANGE[1])
    clip_norm: float = Field(1.0, gt=0, le=1e6)
    sampling_rate: float = Field(gt=0, le=1)
    rounds: int = Field(ge=1, le=100_000)
    steps_per_round: int = Field(ge=1, le=1_000_000)
    unit: Literal["patient"] = "patient"
    report_scores: bool = False

    def model_post_init(self, _context: object) -> None:
        """Check that the noise keeps the promise."""
        cost = rdp_epsilon((self.whole_run,), self.delta)
        if cost > self.epsilon * (1 + CLAIM_TOLERANCE):
            raise ConfigError(
                f"the run would cost epsilon {cost:.3f}, its privacy plan promises {self.epsilon:g}",
                cure="calibrate the noise multiplier again, or plan fewer rounds, fewer steps or a lower sampling rate",
            )

    @property
    def one_round(self) -> Segment:
        """The steps of one round."""
        return Segment(self.noise_multiplier, self.sampling_rate, self.steps_per_round)

    @property
    def whole_run(self) -> Segment:
        """The steps of all rounds."""
        return Segment(self.noise_multiplier, self.sampling_rate, self.steps_per_round * self.rounds)

    def epsilon_after(self, rounds: int) -> float:
        """What ``rounds`` rounds cost a patient at ``delta``, by Renyi accounting."""
        return rdp_epsilon((Segment(self.noise_multiplier, self.sampling_rate, self.steps_per_round * rounds),), self.delta)


def calibrate(epsilon: float, delta: float, steps: int, sampling_rate: float, epsilon_of: EpsilonOf = rdp_epsilon) -> float:
    """The least noise multiplier, rounded up to NOISE_GRID, with which ``steps`` cost at most ``epsilon``; once a run, from zero.

    Args:
        epsilon, delta: the promise.
        steps: of the whole run.
        sampling_rate: q.
        epsilon_of: the accountant; falls as the noise grows.

    Raises:
        ConfigError: no noise multiplier up to the largest one keeps the promise.
    """

    def keeps(noise: float) -> bool:
        return epsilon_of((Segment(noise, sampling_rate, steps),), delta) <= epsilon

    low, high = round(NOISE_RANGE[0] / NOISE_GRID), round(NOISE_RANGE[1] / NOISE_GRID)
    if not keeps(high * NOISE_GRID):
        raise ConfigError(
            f"no noise keeps epsilon {epsilon:g} at delta {delta:g} over {steps} steps",
            cure="allow a larger epsilon or delta, or plan fewer steps",
        )
    if keeps(low * NOISE_GRID):
        return low * NOISE_GRID
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle * NOISE_GRID) else (middle, high)
    return high * NOISE_GRID


def plan_privacy(
    promise: tuple[float, float], patients: int, batch_patients: int, rounds: int, steps_per_round: int | None = None
) -> PrivacyPlan:
    """A plan with calibrated noise.

    Args:
        promise: (epsilon, delta).
        patients: of the smallest site; there the expected batch is ``batch_patients``.
        batch_patients: expected patients a step there.
        rounds: of the run.
        steps_per_round: None for about one pass over the patients.

    Raises:
        ConfigError: the numbers do not fit each other, or no noise keeps the promise.
    """
    if not 1 <= batch_patients <= patients:
        raise ConfigError(f"an expected batch of {batch_patients} does not fit {patients} patients")
    rate = batch_patients / patients
    steps = ceil(patients / batch_patients) if steps_per_round is None else steps_per_round
    noise = calibrate(*promise, steps * rounds, rate)
    return PrivacyPlan(
        epsilon=promise[0], delta=promise[1], noise_multiplier=noise, sampling_rate=rate, rounds=rounds, steps_per_round=steps
    )

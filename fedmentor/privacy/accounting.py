"""What a history of DP-SGD steps costs: segments, their composition, and epsilon by two independent accountants.

A history is a tuple of segments. Composition concatenates; steps are merged only where sigma and q are the same floats to the last
bit, because a sum of rounded parameters is a mechanism that never ran. Nothing here forgets: there is no subtraction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np

from fedmentor.errors import BudgetExhausted, ConfigError
from fedmentor.privacy.rdp import NOISE_RANGE, ORDERS, epsilon_from_rdp, rdp_of_step


@dataclass(frozen=True, order=True)
class Segment:
    """Steps of one and the same Poisson-subsampled Gaussian mechanism.

    Attributes:
        noise_multiplier: sigma, in units of the clipping norm.
        sampling_rate: q, the probability of each patient to be in a step.
        steps: how many; 0 costs nothing.

    Raises:
        ConfigError: a number is out of range.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not NOISE_RANGE[0] <= self.noise_multiplier <= NOISE_RANGE[1]:
            raise ConfigError(
                f"a noise multiplier of {self.noise_multiplier} cannot be accounted for",
                cure=f"give a number from {NOISE_RANGE[0]} to {NOISE_RANGE[1]}",
            )
        if not 0 < self.sampling_rate <= 1:
            raise ConfigError(
                f"a sampling rate of {self.sampling_rate} is not a probability", cure="give a number over 0 and up to 1"
            )
        if self.steps < 0:
            raise ConfigError(f"{self.steps} steps cannot be taken")


History = tuple[Segment, ...]

TightEpsilon = Callable[[History, float], "float | None"]
"""An upper bound on epsilon of a history at a delta that is tighter than RDP's; None where it cannot be computed."""


def compose(segments: Iterable[Segment]) -> History:
    """One history of all segments, equal mechanisms merged, sorted: the order of steps has no bearing on the bound."""
    steps: dict[tuple[float, float], int] = {}
    for segment in segments:
        key = segment.noise_multiplier, segment.sampling_rate
        steps[key] = steps.get(key, 0) + segment.steps
    return tuple(sorted(Segment(*key, count) for key, count in steps.items() if count))


def rdp_epsilon(history: History, delta: float) -> float:
    """Epsilon of a history at ``delta`` by Renyi accounting; 0 where nothing was done."""
    if not any(segment.steps for segment in history):
        return 0.0
    curve = np.zeros(len(ORDERS))
    for segment in history:
        curve = curve + segment.steps * rdp_of_step(segment.sampling_rate, segment.noise_multiplier)
    return epsilon_from_rdp(curve, delta)


@dataclass(frozen=True)
class Cost:
    """Epsilon of one history, by both accountants.

    Attributes:
        rdp: by Renyi accounting; None where it gave no finite number.
        prv: upper bound by privacy loss random variables; None where it could not be computed.
    """

    rdp: float | None
    prv: float | None

    @property
    def epsilon(self) -> float:
        """The number that counts: the tighter accountant's upper bound, else RDP's; infinite where there is neither."""
        return next((value for value in (self.prv, self.rdp) if value is not None), inf)

    @property
    def accountant(self) -> str:
        """Whose number ``epsilon`` is."""
        return "rdp" if self.prv is None else "prv"


def cost_of(history: History, delta: float, tight: TightEpsilon) -> Cost:
    """What a history costs at ``delta``.

    Raises:
        BudgetExhausted: neither accountant gives a finite number; what cannot be accounted for is not done.
    """
    if not history:
        return Cost(0.0, 0.0)
    cost = Cost(_finite(rdp_epsilon(history, delta)), _finite(tight(history, delta)))
    if not isfinite(cost.epsilon):
        raise BudgetExhausted("the privacy cost cannot be computed", cure="plan the run with other noise or sampling")
    return cost


def no_tight_bound(_history: History, _delta: float) -> float | None:
    """The TightEpsilon of those who have none."""
    return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) and value >= 0 else None

"""What a run promises each *site* when the coordinator itself clips and adds noise: central, client-level DP-FedAvg.

McMahan, Ramage, Talwar & Zhang 2018 (arXiv 1710.06963), with flat clipping, equal weights and the fixed-denominator estimator
f_f of its section 2: the sum of clipped deltas has sensitivity C to a site's presence, gets Gaussian noise of deviation z C, and is
divided by the size of the roster, whoever delivered. Every site of the roster takes part in every round (q = 1: no amplification
is claimed for sampling), so a round is one Gaussian mechanism of noise multiplier z.

The coordinator sees the updates and is trusted with them; the promise is towards whoever sees the published models.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmentor.errors import ConfigError
from fedmentor.privacy.accounting import Segment, rdp_epsilon
from fedmentor.privacy.plan import CLAIM_TOLERANCE, calibrate
from fedmentor.privacy.rdp import NOISE_RANGE


class CentralPrivacyPlan(BaseModel):
    """(epsilon, delta)-differential privacy of a run's published models for each site, all its patients together.

    The neighbouring federations differ by one site.

    Attributes:
        epsilon: what all published models together may tell about one site; the numbers below must keep it.
        delta: probability that epsilon does not bound; well under one over the number of sites.
        noise_multiplier: z; the noise on the sum of deltas has standard deviation z * clip_norm.
        clip_norm: C, the largest L2 norm of one site's delta.
        rounds: training rounds of the run.
        unit: whose privacy it is.

    Raises:
        ConfigError: noise and rounds cost more than ``epsilon`` by Renyi accounting.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epsilon: float = Field(gt=0, le=1000)
    delta: float = Field(gt=0, le=1e-1)
    noise_multiplier: float = Field(ge=NOISE_RANGE[0], le=NOISE_RANGE[1])
    clip_norm: float = Field(gt=0, le=1e6)
    rounds: int = Field(ge=1, le=100_000)
    unit: Literal["site"] = "site"

    def model_post_init(self, _context: object) -> None:
        """Check that the noise keeps the promise."""
        cost = self.epsilon_after(self.rounds)
        if cost > self.epsilon * (1 + CLAIM_TOLERANCE):
            raise ConfigError(
                f"the run would cost each site epsilon {cost:.3f}, its central privacy plan promises {self.epsilon:g}",
                cure="calibrate the noise multiplier again, or plan fewer rounds",
            )

    def epsilon_after(self, rounds: int) -> float:
        """What ``rounds`` published models tell about a site at ``delta``, by Renyi accounting of the Gaussian mechanism."""
        return rdp_epsilon((Segment(self.noise_multiplier, 1.0, rounds),), self.delta)


def plan_central_privacy(promise: tuple[float, float], clip_norm: float, rounds: int) -> CentralPrivacyPlan:
    """A plan with the least noise that keeps ``promise``, (epsilon, delta), over ``rounds`` rounds.

    Raises:
        ConfigError: no noise keeps it.
    """
    noise = calibrate(*promise, rounds, 1.0)
    return CentralPrivacyPlan(epsilon=promise[0], delta=promise[1], noise_multiplier=noise, clip_norm=clip_norm, rounds=rounds)

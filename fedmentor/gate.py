"""The model gate: what a round's model must hold on the sites' held-out patients before it becomes the model in force.

The decision is the *median* over sites of each site's own difference, not a mean over patients: how many patients a site has, and
how well a model does on them, is its own word, and a mean can be moved by one site as far as it likes. The median of n differences
stays between two honest ones as long as fewer than half are lies. Source of the idea that those who hold data vote on a candidate:
Andreina, Marson, Moellering & Karame 2021 (BaFFLe, arXiv 2011.02167).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from fedmentor.errors import ConfigError
from fedmentor.ids import SiteId


class GatePlan(BaseModel):
    """When a round's model is good enough.

    Attributes:
        max_dice_drop: how much Dice (0 to 1) the median site may lose against the model that the round started from.
        min_sites: fewest sites that must have scored both models; with fewer the round fails.
        seconds: how long the gate waits for scores.

    A model that fails is never published: its round is void, and the next one starts from the last good model with fresh training.
    As many such rounds in a row as the manifest's ``max_attempts`` end the run, with the last good model in force.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_dice_drop: float = Field(0.02, ge=0, le=1)
    min_sites: int = Field(3, ge=1)
    seconds: float = Field(600.0, gt=0, le=365.0 * 86_400)


@dataclass(frozen=True)
class GateVerdict:
    """What the sites' scores say of a candidate.

    Attributes:
        sites: how many scored both models.
        drop: Dice that the median site loses with the candidate; negative where it gains. 0 where no site scored both.
        passed: whether it may be published.
        reason: one public sentence.
    """

    sites: int
    drop: float
    passed: bool
    reason: str


def judge(plan: GatePlan, base: Mapping[SiteId, float], candidate: Mapping[SiteId, float]) -> GateVerdict:
    """Decide whether a candidate is published.

    1. At least ``min_sites`` sites scored both models.
    2. The median over those sites of (base - candidate) is at most ``max_dice_drop``.

    Args:
        base: each site's mean Dice with the model that the round started from.
        candidate: the same with the candidate.
    """
    drops = [base[site] - candidate[site] for site in sorted(base.keys() & candidate.keys())]
    if len(drops) < plan.min_sites:  # 1
        reason = f"{len(drops)} of the {plan.min_sites} sites that the model gate needs scored the model"
        return GateVerdict(len(drops), median(drops) if drops else 0.0, passed=False, reason=reason)
    drop = median(drops)
    passed = drop <= plan.max_dice_drop  # 2
    said = f"the median of {len(drops)} sites loses {drop:.4f} Dice"
    return GateVerdict(len(drops), drop, passed, f"{said}, the model gate allows {plan.max_dice_drop:g}")


def check_gate(plan: GatePlan, sites: int, *, reports_scores: bool) -> None:
    """Refuse a gate that could never open.

    Raises:
        ConfigError: it needs more sites than there are, or sites report no scores.
    """
    if plan.min_sites > sites:
        raise ConfigError(f"the model gate needs {plan.min_sites} sites, the roster has {sites}")
    if not reports_scores:
        raise ConfigError(
            "the model gate needs the sites' scores, which the privacy plan does not let them report",
            cure="leave the gate out, or let sites report their scores",
        )

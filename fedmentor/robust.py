"""How a plain run bounds what a malicious site can do to the global model, as the manifest pins it; see docs/robustness.md.

The rules themselves are in coordinator/strategies, one file each. All of them look at single updates, so the coordinator sees
those: a run cannot be robust in this way and hide updates from its coordinator at once.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedmentor.errors import ConfigError

MAX_MALICIOUS = 10_000
"""More than any roster has."""


class Flag(str, Enum):
    """Why a site is flagged in a round; the audit chain and the journal name it."""

    REFUSED = "refused"
    """Its update, or what it declared, was refused at admission."""
    ZERO = "zero"
    """Its update is nothing, or next to nothing, beside the others' of the round: it did not train."""
    ECHO = "echo"
    """Its update is the last round's change of the global model sent back, whatever the scale."""
    COPY = "copy"
    """Its update is bit for bit another site's of the round, or its own of the round before."""
    LEFT_OUT = "left-out"
    """The rule chose other updates."""


USUAL_STRIKES = (Flag.REFUSED, Flag.ZERO, Flag.ECHO, Flag.COPY)
"""What counts towards being set aside unless the manifest says otherwise. LEFT_OUT does not: Krum leaves out the same number of
updates in every round, also where all sites are honest, and then most often those of the hospital that is unlike the others."""


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NormClipping(_Rule):
    """No update is longer than a bound, and no site weighs much more than the others (coordinator.strategies.norm_clipping).

    Attributes:
        norm: largest L2 norm of a delta; None for the median norm of the round's updates.
        weight_cap: largest weight, in units of the round's median weight; 1 makes all larger sites equal. How many images a site
            has is its own word.
    """

    rule: Literal["clip"] = "clip"
    norm: float | None = Field(None, gt=0)
    weight_cap: float = Field(1.0, ge=1, le=1e6)

    @property
    def least_updates(self) -> int:
        """Fewest updates it works on: of three norms the median is an honest one's, or between two."""
        return 1 if self.norm is not None else 3


class CoordinateMedian(_Rule):
    """The median of each coordinate (coordinator.strategies.median); ignores weights."""

    rule: Literal["median"] = "median"

    @property
    def least_updates(self) -> int:
        """Fewest updates of which one may be malicious."""
        return 3


class TrimmedMean(_Rule):
    """The mean of each coordinate without its ``malicious`` largest and smallest values (coordinator.strategies.trimmed_mean).

    Ignores weights.
    """

    rule: Literal["trimmed-mean"] = "trimmed-mean"
    malicious: int = Field(1, ge=1, le=MAX_MALICIOUS)

    @property
    def least_updates(self) -> int:
        """Fewest updates of which something is left."""
        return 2 * self.malicious + 1


class Krum(_Rule):
    """The mean of the updates that lie closest to their neighbours (coordinator.strategies.krum); ignores weights.

    Attributes:
        malicious: f, how many sites may lie.
        selected: m, how many updates make the mean; None for all but f. 1 is Krum, more is multi-Krum.
    """

    rule: Literal["krum"] = "krum"
    malicious: int = Field(1, ge=1, le=MAX_MALICIOUS)
    selected: int | None = Field(None, ge=1)

    def model_post_init(self, _context: object) -> None:
        """Check that the chosen can be told from the malicious.

        Raises:
            ConfigError: with ``least_updates`` sites more would be chosen than are honest.
        """
        if self.selected is not None and self.selected > self.least_updates - self.malicious:
            raise ConfigError(
                f"Krum cannot choose {self.selected} of {self.least_updates} updates of which {self.malicious} may be malicious",
                cure=f"choose at most {self.least_updates - self.malicious}",
            )

    @property
    def least_updates(self) -> int:
        """2 f + 3 (Blanchard et al. 2017, proposition 4.2 asks for 2 f + 2 < n)."""
        return 2 * self.malicious + 3


Rule = NormClipping | CoordinateMedian | TrimmedMean | Krum


class RobustPlan(BaseModel):
    """A rule in place of the weighted mean, and what happens to sites that misbehave.

    Attributes:
        rule: how updates are combined.
        set_aside_after: rounds with a flag after which a site has no part in the rest of the run; None only flags.
        strikes: flags that count towards it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Annotated[Rule, Field(discriminator="rule")]
    set_aside_after: int | None = Field(None, ge=1, le=1000)
    strikes: tuple[Flag, ...] = USUAL_STRIKES

    def sites_behind(self, quorum: int) -> int:
        """Fewest sites whose updates are in a published model."""
        if isinstance(self.rule, Krum):
            chosen = quorum - self.rule.malicious if self.rule.selected is None else self.rule.selected
            return min(quorum, chosen)
        return quorum


def check_robust(plan: RobustPlan, quorum: int) -> None:
    """Refuse a rule that could not work on every round that reaches the quorum.

    Raises:
        ConfigError: the quorum is too small for the rule.
    """
    least = plan.rule.least_updates
    if quorum < least:
        raise ConfigError(
            f"the rule {plan.rule.rule!r} works on {least} updates or more, the quorum is {quorum}",
            cure=f"raise the quorum to {least}, or plan for fewer malicious sites",
        )

"""Which parts of a manifest go together, and what is lost where they do not; docs/robustness.md has the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedmentor.errors import ConfigError
from fedmentor.gate import GatePlan, check_gate
from fedmentor.ids import SiteId
from fedmentor.privacy.central import CentralPrivacyPlan
from fedmentor.robust import NormClipping, RobustPlan, check_robust


class Modes(Protocol):
    """The part of a run's manifest that this module looks at."""

    @property
    def roster(self) -> Sequence[SiteId]:
        """See RunManifest."""
        ...

    @property
    def quorum(self) -> int:
        """See RunManifest."""
        ...

    @property
    def rounds(self) -> int:
        """See RunManifest."""
        ...

    @property
    def reports_scores(self) -> bool:
        """See RunManifest."""
        ...

    @property
    def secure(self) -> object | None:
        """See RunManifest."""
        ...

    @property
    def privacy(self) -> object | None:
        """See RunManifest."""
        ...

    @property
    def robust(self) -> RobustPlan | None:
        """See RunManifest."""
        ...

    @property
    def central_privacy(self) -> CentralPrivacyPlan | None:
        """See RunManifest."""
        ...

    @property
    def gate(self) -> GatePlan | None:
        """See RunManifest."""
        ...


def check_modes(run: Modes) -> None:
    """Refuse a manifest whose parts contradict each other.

    1. A robust rule looks at single updates, which secure aggregation hides.
    2. A robust rule works on every round that reaches the quorum.
    3. Noise of the coordinator needs single updates, too: it clips them.
    4. Noise for a plan of so many rounds is for a run of so many rounds.
    5. Under central privacy an update's part is fixed before it is seen: of the rules only clipping at a fixed bound leaves it so.
    6. Under central privacy nothing depends on scores, which carry no noise, and no model is shown that is not counted: no gate.
    7. A gate can open: enough sites, which report scores.
    8. A model claims one promise: to each patient or to each site.

    Raises:
        ConfigError: names what does not go together.
    """
    if run.robust is not None:
        if run.secure is not None:  # 1
            raise ConfigError(
                "a robust rule needs to see single updates, which secure aggregation hides",
                cure="leave one of them out: clip_norm, the weight cap and the model gate work in a secure run, too",
            )
        check_robust(run.robust, run.quorum)  # 2
    if run.central_privacy is not None:
        _check_central(run, run.central_privacy)
    if run.gate is not None:
        check_gate(run.gate, len(run.roster), reports_scores=run.reports_scores)  # 7


def _check_central(run: Modes, plan: CentralPrivacyPlan) -> None:
    if run.privacy is not None:  # 8
        raise ConfigError("a run promises privacy to each patient or to each site, not both", cure="leave one of the plans out")
    if run.secure is not None:  # 3
        raise ConfigError(
            "the coordinator clips single updates for central privacy, which secure aggregation hides",
            cure="leave one of them out, or give sites a privacy plan of their own",
        )
    if plan.rounds != run.rounds:  # 4
        raise ConfigError(f"the central privacy plan is for {plan.rounds} rounds, the run has {run.rounds}")
    rule = run.robust.rule if run.robust is not None else None
    if rule is not None and not (isinstance(rule, NormClipping) and rule.norm is not None):  # 5
        raise ConfigError(
            f"the rule {rule.rule!r} makes one site's part depend on the others', so central privacy cannot be accounted for",
            cure="clip at a fixed norm instead",
        )
    if run.gate is not None:  # 6
        raise ConfigError(
            "a model gate decides on scores without noise, which central privacy does not cover", cure="leave one of them out"
        )

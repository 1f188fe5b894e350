"""From what a manifest says to the strategy that does it."""

from __future__ import annotations

from collections.abc import Callable

from coordinator.strategies.dp_fedavg import DpFedAvg
from coordinator.strategies.fedavg import FedAvg
from coordinator.strategies.krum import Krum
from coordinator.strategies.median import CoordinateMedian
from coordinator.strategies.norm_clipping import NormClipping
from coordinator.strategies.strategy import Strategy
from coordinator.strategies.trimmed_mean import TrimmedMean
from fedmentor import robust
from fedmentor.federation import RunManifest
from fedmentor.privacy.central import CentralPrivacyPlan


def strategy_for(manifest: RunManifest, noise_seed: Callable[[], bytes]) -> Strategy:
    """The strategy of a run in which the coordinator sees single updates.

    Args:
        noise_seed: gives the seed of this attempt's noise; called only where there is noise.
    """
    if manifest.central_privacy is not None:
        return _central(manifest, manifest.central_privacy, noise_seed())
    return robust_strategy(None if manifest.robust is None else manifest.robust.rule)


def robust_strategy(rule: robust.Rule | None) -> Strategy:
    """The strategy of a rule; the weighted mean where there is none."""
    match rule:
        case None:
            return FedAvg()
        case robust.NormClipping():
            return NormClipping(rule)
        case robust.CoordinateMedian():
            return CoordinateMedian(rule)
        case robust.TrimmedMean():
            return TrimmedMean(rule)
        case robust.Krum():
            return Krum(rule)


def _central(manifest: RunManifest, plan: CentralPrivacyPlan, seed: bytes) -> Strategy:
    rule = manifest.robust.rule if manifest.robust is not None else None
    fixed = rule.norm if isinstance(rule, robust.NormClipping) else None
    # A rule's fixed bound under the plan's lowers the sensitivity; the noise stays what the plan says, so its promise holds.
    bound = plan.clip_norm if fixed is None else min(fixed, plan.clip_norm)
    noise = plan.noise_multiplier * plan.clip_norm / bound
    return DpFedAvg(bound, noise, len(manifest.roster), 1 << manifest.fraction_bits, seed)

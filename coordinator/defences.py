"""From a few options to the parts of a manifest about malicious sites: robust rule, model gate, central privacy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedmentor import robust
from fedmentor.errors import ConfigError
from fedmentor.federation import RunManifest
from fedmentor.gate import GatePlan
from fedmentor.privacy.central import CentralPrivacyPlan, plan_central_privacy
from fedmentor.robust import RobustPlan
from fedmentor.settings import first_fault

ROBUST_MODE = "plain+robust"
RULES: dict[str, type[BaseModel]] = {
    "clip": robust.NormClipping,
    "median": robust.CoordinateMedian,
    "trimmed-mean": robust.TrimmedMean,
    "krum": robust.Krum,
}
USUAL_RULE = "clip"
"""What ``plain+robust`` means by default: measured by benchmarks/robustness.py, it costs an honest run nothing."""

USUAL_SET_ASIDE = 3
"""Rounds with a flag after which a site is set aside in a ``plain+robust`` run; 0 sets nobody aside."""

RULE_OPTIONS = {"clip_to": "norm", "weight_cap": "weight_cap", "malicious": "malicious", "selected": "selected"}
"""Options of the rules and the fields that they fill."""

GATE_OPTIONS = {"gate_drop": "max_dice_drop", "gate_sites": "min_sites", "gate_seconds": "seconds"}
CENTRAL_OPTIONS = ("site_epsilon", "site_delta", "site_clip")

Plan = TypeVar("Plan", bound=BaseModel)


def with_defences(options: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """Options in which plans stand in place of the options that describe them.

    Args:
        options: ``rounds`` and others, by name; those that were not given are absent.
        mode: ``plain+robust`` asks for a robust rule, and for the usual one where no other is named.

    Raises:
        ConfigError: an option is missing, does not fit the rule, or is out of range.
    """
    own = {"rule", "set_aside_after", *RULE_OPTIONS, *GATE_OPTIONS, *CENTRAL_OPTIONS}
    made = {key: value for key, value in options.items() if key not in own}
    plan = _robust_plan(options, mode)
    if plan is not None:
        made["robust"] = plan
    gate = {field: options[name] for name, field in GATE_OPTIONS.items() if name in options}
    if gate:
        made["gate"] = _made(GatePlan, gate)
    if any(name in options for name in CENTRAL_OPTIONS):
        made["central_privacy"] = _central_plan(options)
    return made


def described(manifest: RunManifest) -> list[str]:
    """A line for each plan in a manifest."""
    lines = []
    if manifest.robust is not None:
        after = manifest.robust.set_aside_after
        consequence = "only flagged" if after is None else f"set aside after {after} rounds with a flag"
        lines.append(f"rule {manifest.robust.rule.rule}; sites that misbehave are {consequence}")
    if manifest.gate is not None:
        lines.append(f"a round whose model costs the median site more than {manifest.gate.max_dice_drop:g} Dice is not published")
    if manifest.central_privacy is not None:
        plan = manifest.central_privacy
        lines.append(
            f"the published models cost each site epsilon {plan.epsilon_after(plan.rounds):.2f} at delta {plan.delta:g}; "
            f"noise multiplier {plan.noise_multiplier:g}, clipping norm {plan.clip_norm:g}"
        )
    return lines


def _robust_plan(options: Mapping[str, Any], mode: str) -> RobustPlan | None:
    asked = [name for name in ("rule", "set_aside_after", *RULE_OPTIONS) if name in options]
    if mode != ROBUST_MODE and not asked:
        return None
    name = options.get("rule", USUAL_RULE)
    fields = {field: options[option] for option, field in RULE_OPTIONS.items() if option in options}
    unknown = [option for option, field in RULE_OPTIONS.items() if option in options and field not in RULES[name].model_fields]
    if unknown:
        raise ConfigError(f"the rule {name!r} takes no {unknown[0]!r}", cure="leave it out, or take another rule")
    after = options.get("set_aside_after", USUAL_SET_ASIDE)
    return _made(RobustPlan, {"rule": {"rule": name, **fields}, "set_aside_after": after or None})


def _central_plan(options: Mapping[str, Any]) -> CentralPrivacyPlan:
    missing = [name for name in CENTRAL_OPTIONS if name not in options]
    if missing:
        raise ConfigError(f"central privacy needs {missing[0]!r} too", cure="give site_epsilon, site_delta and site_clip")
    try:
        return plan_central_privacy((options["site_epsilon"], options["site_delta"]), options["site_clip"], options["rounds"])
    except ValidationError as error:
        raise _wrong(error) from error


def _made(plan: type[Plan], fields: Mapping[str, Any]) -> Plan:
    try:
        return plan(**fields)
    except ValidationError as error:
        raise _wrong(error) from error


def _wrong(error: ValidationError) -> ConfigError:
    fault = first_fault(error)
    return ConfigError(f"the manifest's {fault.name!r} is wrong: {fault.message}")

"""Making the manifest of a run from its model, its sites and a few options."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmentor.errors import ConfigError
from fedmentor.federation import RunManifest, TrainingPlan
from fedmentor.ids import SiteId, run_id, site_id
from fedmentor.models import load_model
from fedmentor.privacy.plan import plan_privacy
from fedmentor.secagg.plan import MIN_GROUPS, plan_secure
from fedmentor.settings import first_fault
from fedmentor.tensors import spec_of

SECURE_FROM = 4
"""Sites from which on a run aggregates securely unless it is told otherwise: of three, none may be lost in any attempt."""

MAX_GROUP_SITES = 8
"""Sites in a group where there are enough for MIN_GROUPS of them: larger groups hide a site better, more groups outvote better."""

NEED_SINGLE_UPDATES = ("robust", "central_privacy")
"""Parts of a manifest for which the coordinator has to see single updates."""

PRIVACY_OPTIONS = ("epsilon", "delta", "patients", "batch_patients")


def with_privacy(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which a privacy plan, calibrated once for the whole run, stands in place of PRIVACY_OPTIONS.

    Args:
        options: ``rounds``, and either all of PRIVACY_OPTIONS or none.

    Raises:
        ConfigError: some are missing, or they do not fit each other.
    """
    given = {name: options[name] for name in PRIVACY_OPTIONS if options.get(name) is not None}
    rest = {name: value for name, value in options.items() if name not in PRIVACY_OPTIONS}
    if not given:
        return rest
    missing = [name for name in PRIVACY_OPTIONS if name not in given]
    if missing:
        raise ConfigError(f"a private run needs {missing[0]!r} too", cure="give epsilon, delta, patients and batch_patients")
    promise = given["epsilon"], given["delta"]
    plan = plan_privacy(promise, given["patients"], given["batch_patients"], options["rounds"])
    return rest | {"privacy": plan}


def with_aggregation(
    options: Mapping[str, Any], mode: str, sites: Collection[str], read_keys: Callable[[], Mapping[SiteId, bytes]] | None
) -> dict[str, Any]:
    """Options with the plan of secure aggregation where the run is to have one.

    Args:
        options: ``quorum`` among them, where it is not the usual one.
        mode: ``secagg``; ``secagg-grouped``: as many groups as there can be of MAX_GROUP_SITES and a few; ``plain``; or ``auto``:
            secagg from SECURE_FROM sites on, unless something needs single updates.
        sites: every site of the run.
        read_keys: reads the signing keys on the registrar's roster; None where no roster was given.

    Raises:
        ConfigError: no roster was given, or a site is not on it.
        ProtocolRefused: too few sites to aggregate securely.
    """
    sites = sorted(set(sites))
    if mode == "auto":
        mode = "plain" if len(sites) < SECURE_FROM or any(name in options for name in NEED_SINGLE_UPDATES) else "secagg"
    if mode == "plain":
        return dict(options)
    if read_keys is None:
        raise ConfigError(
            "the sites' signing keys are needed, so that the coordinator never sees the update of a single site",
            cure="give --certificates DIR with the registrar's roster.json, or --aggregation plain to let it see them",
        )
    keys = read_keys()
    for site in sites:
        if site not in keys:
            raise ConfigError(f"site {site} is not on the registrar's roster", cure="admit it first, or get the newest roster")
    quorum = options.get("quorum", RunManifest.model_fields["quorum"].default)
    chosen = {site_id(site): keys[site_id(site)] for site in sites}
    groups = max(MIN_GROUPS, len(sites) // MAX_GROUP_SITES) if mode == "secagg-grouped" else 1
    return dict(options) | {"secure": plan_secure(chosen, quorum=quorum, groups=groups)}


def make_manifest(model: Path, run: str, sites: Iterable[str], options: Mapping[str, Any]) -> RunManifest:
    """The manifest of a run that starts from the model in a folder.

    Args:
        options: fields of RunManifest and of TrainingPlan by name; those left out have their defaults.

    Raises:
        ConfigError: a name is malformed, or a field unknown or out of range.
        ModelError: the model cannot be read.
    """
    tensors, record = load_model(model)
    training = {key: value for key, value in options.items() if key in TrainingPlan.model_fields}
    rules = {key: value for key, value in options.items() if key not in training}
    try:
        return RunManifest(
            run=run_id(run),
            roster=tuple(sorted({site_id(site) for site in sites})),
            architecture=record.architecture,
            tensors=tuple((tensor.name, tensor.shape) for tensor in spec_of(tensors)),
            initial_model=record.digest,
            initialisation=record.initialisation,
            training=TrainingPlan(**training),
            **rules,
        )
    except ValidationError as error:
        fault = first_fault(error)
        raise ConfigError(f"the manifest's {fault.name!r} is wrong: {fault.message}") from error

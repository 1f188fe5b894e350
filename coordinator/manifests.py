"""Making the manifest of a run from its model, its sites and a few options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedmentor.errors import ConfigError
from fedmentor.federation import RunManifest, TrainingPlan
from fedmentor.ids import run_id, site_id
from fedmentor.models import load_model
from fedmentor.privacy.plan import plan_privacy
from fedmentor.settings import first_fault
from fedmentor.tensors import spec_of

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

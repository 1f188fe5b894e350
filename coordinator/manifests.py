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
from fedmentor.tensors import spec_of


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
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"the manifest's {where!r} is wrong: {first['msg']}") from error

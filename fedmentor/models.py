"""Models at rest: ``model.safetensors`` (float32 tensors) beside ``model.json`` (provenance). Nothing is ever unpickled.

The digest covers names, shapes and values, not the file's layout, and is checked at every read.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from fedmentor.disk import sync_path
from fedmentor.errors import DigestMismatch, ModelError
from fedmentor.ids import Digest
from fedmentor.tensors import Tensors, flatten, model_digest, spec_of

TENSORS_FILE = "model.safetensors"
RECORD_FILE = "model.json"


class PrivacySpent(BaseModel):
    """Differential privacy behind a model; absent when none was claimed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epsilon: float
    delta: float
    unit: str
    accountant: str


class ModelRecord(BaseModel):
    """``model.json``: where a model comes from.

    Attributes:
        architecture: architecture id, e.g. ``sm-lite-v1``.
        digest: fedmentor.tensors.model_digest of the tensors.
        parents: digests of the models it was made from; empty for a fresh initialisation.
        initialisation: ``random``, ``fm-instructed`` or ``pretrained``.
        seed: seed of the initialisation or the training that made it.
        teacher: digest of the teacher's weights, where one was involved.
        data: fingerprint of the data it was trained on, where this program saw it.
        run: federated run that made it.
        round: number of federated rounds behind it; 0 for an initialisation.
        privacy: privacy spent, where it was claimed.
        details: free provenance (hyper-parameters, counts, versions); values are plain JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    digest: Digest
    parents: tuple[Digest, ...] = ()
    initialisation: str = "random"
    seed: int | None = None
    teacher: Digest | None = None
    data: Digest | None = None
    run: str | None = None
    round: int = 0
    privacy: PrivacySpent | None = None
    details: dict[str, Any] = Field(default_factory=dict)


def digest_of(tensors: Tensors) -> Digest:
    """fedmentor.tensors.model_digest of named tensors."""
    spec = spec_of(tensors)
    return model_digest(flatten(tensors, spec), spec)


def save_model(folder: Path, tensors: Tensors, record: ModelRecord) -> None:
    """Write both files so that a reader sees the old model or the new one, never a mixture.

    Raises:
        DigestMismatch: the record names other tensors.
        OSError: the disk refused (full, read-only); the old files are untouched.
    """
    if digest_of(tensors) != record.digest:
        raise DigestMismatch("the record's digest is not that of the tensors")
    folder.mkdir(parents=True, exist_ok=True)
    data = save_safetensors({name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()})
    write_atomically(folder / TENSORS_FILE, data)
    write_atomically(folder / RECORD_FILE, (record.model_dump_json(indent=2) + "\n").encode())


def load_model(folder: Path) -> tuple[dict[str, npt.NDArray[np.float32]], ModelRecord]:
    """Read a model folder and check its digest.

    Raises:
        ModelError: a file is missing or malformed, or a tensor is not float32.
        DigestMismatch: the tensors are not those that the record names.
    """
    record = load_record(folder)
    try:
        tensors = load_safetensors((folder / TENSORS_FILE).read_bytes())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / TENSORS_FILE} cannot be read as safetensors", cure="make or copy the model again") from error
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ModelError(f"tensor {name!r} is {tensor.dtype}, expected float32")
    if digest_of(tensors) != record.digest:
        raise DigestMismatch(f"the tensors in {folder} are not those that {RECORD_FILE} names", cure="copy the folder again")
    return tensors, record


def load_record(folder: Path) -> ModelRecord:
    """Read ``model.json`` alone.

    Raises:
        ModelError: missing or malformed.
    """
    path = folder / RECORD_FILE
    try:
        return ModelRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read", cure="give a folder with model.safetensors and model.json") from error
    except ValidationError as error:
        raise ModelError(f"{path} is not a model record: {error.error_count()} fields are wrong") from error


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write, fsync, rename, fsync the folder: after a crash the file is the old one or the new one.

    Args:
        path: where to.
        data: what.
        mode: permissions before the umask; 0o600 for secrets, in force before the first byte is written.

    Raises:
        OSError: the disk refused; names ``path``.
    """
    try:
        _write_and_rename(path, data, mode)
    except OSError as error:  # of the temporary file, or without a name
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_and_rename(path: Path, data: bytes, mode: int) -> None:
    name = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    except BaseException:
        name.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and no spaces: the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

"""Converted weights: one safetensors file whose metadata says which architecture it is and what it was made from.

The teacher's digest is the SHA-256 of this file. Conversion is deterministic: the same checkpoint gives the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from fedmentor.errors import DigestMismatch, ModelError
from fedmentor.ids import Digest
from fedmentor.models import write_atomically

_METADATA = "fedmentor"
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Weights:
    """Converted weights in memory.

    Attributes:
        architecture: id of the architecture.
        digest: SHA-256 of the safetensors file.
        source_sha256: SHA-256 of the file that was converted.
        tensors: names to float32 or int64 tensors.
    """

    architecture: str
    digest: Digest
    source_sha256: Digest
    tensors: Mapping[str, torch.Tensor]


def weights_bytes(tensors: Mapping[str, torch.Tensor], architecture: str, source_sha256: Digest) -> bytes:
    """The file's bytes. One metadata entry only: safetensors writes several in no fixed order."""
    facts = json.dumps({"architecture": architecture, "source_sha256": source_sha256}, sort_keys=True)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {_METADATA: facts})


def write_weights(path: Path, data: bytes) -> Digest:
    """Write a converted file and name it by content.

    Returns:
        The teacher's digest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    return Digest(hashlib.sha256(data).hexdigest())


def read_weights(path: Path, expected: Digest | None = None) -> Weights:
    """Read a converted file.

    Args:
        path: what ``fedmentor teacher convert`` wrote.
        expected: refuse any other content.

    Raises:
        DigestMismatch: the content is not ``expected``.
        ModelError: not a converted file.
    """
    digest = file_sha256(path)
    if expected is not None and digest != expected:
        raise DigestMismatch(f"the weights in {path.name} are not those that were packed", cure="build the archive again")
    facts = weights_facts(path)
    return Weights(facts["architecture"], digest, Digest(facts["source_sha256"]), load_file(path))


def weights_facts(path: Path) -> dict[str, str]:
    """``architecture`` and ``source_sha256`` from a converted file's header; no tensor is read.

    Raises:
        ModelError: not a converted file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_METADATA])
        return {"architecture": str(facts["architecture"]), "source_sha256": str(facts["source_sha256"])}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is not a converted weights file", cure="run 'fedmentor teacher convert' on the official checkpoint first"
        ) from error


def file_sha256(path: Path) -> Digest:
    """SHA-256 of a file.

    Raises:
        ModelError: it cannot be read.
    """
    state = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                state.update(block)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    return Digest(state.hexdigest())

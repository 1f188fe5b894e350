"""Named float32 arrays, the flat vector that travels, and the digest that names a model.

A *spec* is the ordered list of (name, shape) that both ends of a federation agree on. Order is the sorted order of names,
so that two programs that build the same architecture in different ways get the same vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod

import numpy as np
import numpy.typing as npt

from fedmentor.errors import ModelError, WrongArchitecture
from fedmentor.ids import Digest

FloatVector = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[np.float32]]

MAX_PARAMETERS = 2_000_000_000
"""Upper bound on a spec's size: the flat vector of a larger one would not fit a 32-bit offset in float32 bytes."""


@dataclass(frozen=True)
class TensorSpec:
    """Name and shape of one tensor."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


Spec = tuple[TensorSpec, ...]


def spec_of(tensors: Tensors) -> Spec:
    """The spec of a set of tensors, sorted by name."""
    return tuple(TensorSpec(name, tuple(int(n) for n in tensors[name].shape)) for name in sorted(tensors))


def spec_size(spec: Spec) -> int:
    """Number of float32 elements in the flat vector.

    Raises:
        ModelError: over MAX_PARAMETERS.
    """
    size = sum(tensor.size for tensor in spec)
    if size > MAX_PARAMETERS:
        raise ModelError(f"a model of {size} parameters is over the limit of {MAX_PARAMETERS}")
    return size


def spec_digest(spec: Spec) -> Digest:
    """SHA-256 over the length-prefixed names and shapes; names an architecture."""
    return Digest(hashlib.sha256(_spec_bytes(spec)).hexdigest())


def check_fits(tensors: Tensors, spec: Spec) -> None:
    """Refuse tensors that are not exactly those of the spec.

    Raises:
        WrongArchitecture: names the first missing, unknown or differently shaped tensor.
    """
    expected = {tensor.name: tensor.shape for tensor in spec}
    for name in sorted(expected.keys() - tensors.keys()):
        raise WrongArchitecture(f"tensor {name!r} is missing", cure="use a model file of this architecture")
    for name in sorted(tensors.keys() - expected.keys()):
        raise WrongArchitecture(f"tensor {name!r} is unknown to this architecture", cure="use a model file of this architecture")
    for name, shape in expected.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            raise WrongArchitecture(
                f"tensor {name!r} has shape {found}, expected {shape}", cure="use a model file of this architecture"
            )


def flatten(tensors: Tensors, spec: Spec) -> FloatVector:
    """Concatenate the tensors in spec order.

    Returns:
        Contiguous float32 vector of spec_size(spec) elements; always a fresh array.

    Raises:
        WrongArchitecture: the tensors do not fit the spec.
    """
    check_fits(tensors, spec)
    vector = np.empty(spec_size(spec), np.float32)
    start = 0
    for tensor in spec:
        vector[start : start + tensor.size] = tensors[tensor.name].reshape(-1)
        start += tensor.size
    return vector


def unflatten(vector: FloatVector, spec: Spec) -> dict[str, npt.NDArray[np.float32]]:
    """The inverse of flatten; the arrays are views of ``vector``.

    Raises:
        WrongArchitecture: the vector's length is not spec_size(spec).
    """
    if vector.shape != (spec_size(spec),):
        raise WrongArchitecture(f"a vector of {vector.size} values does not fit an architecture of {spec_size(spec)}")
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    start = 0
    for tensor in spec:
        tensors[tensor.name] = vector[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size
    return tensors


def vector_bytes(vector: FloatVector) -> bytes:
    """Little-endian float32 bytes, the form in which a model travels."""
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()


def vector_from_bytes(data: bytes, spec: Spec) -> FloatVector:
    """Read little-endian float32 bytes.

    Raises:
        WrongArchitecture: the length is not four bytes a parameter of the spec.
    """
    expected = 4 * spec_size(spec)
    if len(data) != expected:
        raise WrongArchitecture(f"{len(data)} bytes do not hold this architecture's {expected}")
    return np.frombuffer(data, "<f4").astype(np.float32, copy=True)


def model_digest(vector: FloatVector, spec: Spec) -> Digest:
    """SHA-256 over spec and values: names a model independently of how a file lays it out."""
    return model_digest_of_blocks((vector,), spec)


def model_digest_of_blocks(blocks: Iterable[FloatVector], spec: Spec) -> Digest:
    """``model_digest`` of a vector that comes in consecutive blocks, for those who never hold a whole one."""
    return sha256_hex(chain((_spec_bytes(spec),), map(vector_bytes, blocks)))


def sha256_hex(parts: Iterable[bytes]) -> Digest:
    """SHA-256 of the concatenated parts."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return Digest(state.hexdigest())


def _spec_bytes(spec: Spec) -> bytes:
    fields = [len(spec).to_bytes(4, "little")]
    for tensor in spec:
        name = tensor.name.encode()
        fields += [len(name).to_bytes(4, "little"), name, len(tensor.shape).to_bytes(4, "little")]
        fields += [extent.to_bytes(8, "little") for extent in tensor.shape]
    return b"".join(fields)

"""Specs, flat vectors and digests."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ModelError, WrongArchitecture
from fedmentor.tensors import (
    MAX_PARAMETERS,
    TensorSpec,
    flatten,
    model_digest,
    model_digest_of_blocks,
    sha256_hex,
    spec_digest,
    spec_of,
    spec_size,
    unflatten,
    vector_bytes,
    vector_from_bytes,
)

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array(7.0, np.float32),
    "c": np.zeros((0, 4), np.float32),
}
SPEC = spec_of(TENSORS)


def test_the_spec_is_sorted_by_name_whatever_the_order_of_making():
    assert spec_of(dict(reversed(TENSORS.items()))) == SPEC
    assert [(tensor.name, tensor.shape) for tensor in SPEC] == [("a", ()), ("b", (2, 3)), ("c", (0, 4))]
    assert spec_size(SPEC) == 7


def test_flatten_and_unflatten_are_inverse():
    vector = flatten(TENSORS, SPEC)
    assert vector.tolist() == [7, 0, 1, 2, 3, 4, 5]
    for name, tensor in unflatten(vector, SPEC).items():
        assert np.array_equal(tensor, TENSORS[name])
        assert tensor.shape == TENSORS[name].shape


def test_the_wire_form_is_little_endian_float32():
    vector = flatten(TENSORS, SPEC)
    data = vector_bytes(vector)
    assert data[:4] == b"\x00\x00\xe0\x40"  # 7.0
    assert np.array_equal(vector_from_bytes(data, SPEC), vector)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "'a' is missing"),
        ({"z": np.zeros(1, np.float32)}, "'z' is unknown"),
        ({"b": np.zeros((3, 2), np.float32)}, r"'b' has shape \(3, 2\), expected \(2, 3\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    tensors = {name: tensor for name, tensor in (TENSORS | change).items() if tensor is not None}
    with pytest.raises(WrongArchitecture, match=message):
        flatten(tensors, SPEC)


@pytest.mark.parametrize("size", [0, 6, 8])
def test_vectors_of_another_length_are_refused(size):
    with pytest.raises(WrongArchitecture):
        unflatten(np.zeros(size, np.float32), SPEC)
    with pytest.raises(WrongArchitecture):
        vector_from_bytes(bytes(4 * size), SPEC)


def test_too_many_parameters_are_refused_before_anything_is_allocated():
    with pytest.raises(ModelError, match="over the limit"):
        spec_size((TensorSpec("w", (MAX_PARAMETERS, 2)),))


def test_the_digest_sees_values_names_and_shapes():
    vector = flatten(TENSORS, SPEC)
    other = vector.copy()
    other[3] = np.nextafter(other[3], np.float32(9))
    renamed = (TensorSpec("A", ()), *SPEC[1:])
    reshaped = (SPEC[0], TensorSpec("b", (3, 2)), SPEC[2])
    digests = {model_digest(vector, SPEC), model_digest(other, SPEC), model_digest(vector, renamed), model_digest(vector, reshaped)}
    assert len(digests) == 4
    assert len({spec_digest(SPEC), spec_digest(renamed), spec_digest(reshaped)}) == 3


@given(st.lists(st.integers(0, 7), max_size=5))
def test_the_digest_does_not_depend_on_blocks(cuts):
    vector = flatten(TENSORS, SPEC)
    blocks = np.split(vector, sorted(cuts))
    assert model_digest_of_blocks(blocks, SPEC) == model_digest(vector, SPEC)


def test_names_and_shapes_cannot_run_into_each_other():
    one = (TensorSpec("ab", (1,)), TensorSpec("c", (1,)))
    other = (TensorSpec("a", (1,)), TensorSpec("bc", (1,)))
    assert spec_digest(one) != spec_digest(other)


def test_sha256_of_parts():
    assert sha256_hex([b"ab", b"", b"c"]) == hashlib.sha256(b"abc").hexdigest()

"""SM-lite: size, names, determinism, and fitness for per-sample gradients."""

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from torch import nn

from fed_node.student.sm_lite import ARCHITECTURE, CONFIG, MAX_PARAMETERS, SPEC, load_student, new_student, student_tensors
from fedmentor.errors import WrongArchitecture
from fedmentor.models import digest_of
from fedmentor.tensors import spec_of, spec_size


def test_it_stays_below_the_promised_size():
    assert spec_size(SPEC) <= MAX_PARAMETERS
    assert spec_size(SPEC) == sum(parameter.numel() for parameter in new_student(0).parameters())


def test_the_architecture_is_pinned():
    # Another set of numbers is another architecture: it needs another id, because published models name this one.
    assert ARCHITECTURE == "sm-lite-v1"
    assert spec_size(SPEC) == 330_561
    assert SPEC[0].name == "down.0.0.convolution.weight"


def test_the_same_seed_gives_the_same_digest_whatever_else_draws_numbers():
    torch.manual_seed(1)
    first = digest_of(student_tensors(new_student(7)))
    torch.manual_seed(2)
    torch.rand(10)
    assert digest_of(student_tensors(new_student(7))) == first
    assert digest_of(student_tensors(new_student(8))) != first


def test_there_is_no_state_besides_parameters_and_no_batch_norm():
    student = new_student(0)
    assert list(student.buffers()) == []
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules())


def test_opacus_finds_nothing_to_object_to():
    student = new_student(0)
    student.train()
    assert ModuleValidator.validate(student, strict=False) == []


def test_no_parameter_is_shared():
    parameters = [parameter.data_ptr() for parameter in new_student(0).parameters()]
    assert len(set(parameters)) == len(parameters)


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_the_images_size(batch):
    with torch.inference_mode():
        assert new_student(0)(torch.rand(batch, 1, CONFIG.side, CONFIG.side)).shape == (batch, 1, CONFIG.side, CONFIG.side)


def test_tensors_survive_a_round_trip():
    tensors = student_tensors(new_student(5))
    assert spec_of(tensors) == SPEC
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in tensors.values())
    assert digest_of(student_tensors(load_student(tensors))) == digest_of(tensors)


def test_tensors_are_copies():
    student = new_student(0)
    tensors = student_tensors(student)
    loaded = load_student(tensors)
    before = digest_of(tensors)
    for tensor in tensors.values():
        tensor[...] = 0
    assert digest_of(student_tensors(student)) == before
    assert digest_of(student_tensors(loaded)) == before


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_tensors_of_another_architecture_are_refused(change):
    tensors = student_tensors(new_student(0))
    if change == "missing":
        del tensors["head.bias"]
    elif change == "unknown":
        tensors["extra"] = np.zeros(1, np.float32)
    else:
        tensors["head.bias"] = np.zeros(2, np.float32)
    with pytest.raises(WrongArchitecture, match="extra" if change == "unknown" else "head.bias"):
        load_student(tensors)


def test_a_samples_gradient_does_not_depend_on_its_batch():
    student = new_student(0)
    images = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))

    def gradient(batch: torch.Tensor) -> torch.Tensor:
        student.zero_grad()
        student(batch)[0].square().mean().backward()
        return torch.cat([parameter.grad.flatten() for parameter in student.parameters()])

    alone, together = gradient(images[:1]), gradient(images)
    assert torch.allclose(alone, together, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))

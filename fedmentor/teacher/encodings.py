"""How maps travel: what each encoding costs in accuracy, and how to undo it. Pure.

LOGITS_ERROR and PROBABILITY_ERROR state the largest error of a probability for each encoding; tests hold the numbers. Float16
logits are the default because any temperature can still be applied to them; saturated probabilities cannot be tempered.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmentor.teacher.contract import probability
from fedmentor.teacher.resizing import Maps

LOGITS_ERROR = 1.2e-4
"""Of the probability that a float16 logit stands for: |x| p (1 - p) 2^-11, largest near |x| = 2."""

PROBABILITY_ERROR: Mapping[str, float] = {"float16": 2.5e-4, "uint16": 8.0e-6, "uint8": 2.0e-3}
"""Half a step: of float16 just below 1, of 1/65535, and of 1/255."""

_STEPS = {"uint16": 65535, "uint8": 255}
_ZLIB_LEVEL = 1
_F16_MAX = float(np.finfo(np.float16).max)
MAX_MAP_BYTES = 256 << 20
"""Of one map after unpacking; a reply that claims more is refused before memory is asked for."""


def float16_logits(logits: Maps) -> npt.NDArray[np.float16]:
    """Logits of any shape as they travel; what is beyond float16 becomes its largest number."""
    return np.clip(logits, -_F16_MAX, _F16_MAX).astype(np.float16)


def encode_probability(logits: Maps, encoding: str) -> npt.NDArray[Any]:
    """Logits of any shape to probabilities in one of PROBABILITY_ERROR's encodings."""
    unit = probability(logits)
    if encoding == "float16":
        return unit.astype(np.float16)
    return np.asarray(np.rint(unit * np.float32(_STEPS[encoding])), encoding)


def decode_probability(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The inverse of encode_probability, up to its error; the encoding is the array's dtype."""
    steps = _STEPS.get(values.dtype.name, 1)
    return np.asarray(values.astype(np.float32) / np.float32(steps))


def pack(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """An array's bytes, zlib-compressed, as uint8 [n]."""
    return np.frombuffer(zlib.compress(np.ascontiguousarray(values).tobytes(), _ZLIB_LEVEL), np.uint8)


def unpack(packed: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The inverse of pack.

    Raises:
        ValueError: not what pack made of such an array, or over MAX_MAP_BYTES.
    """
    kind = np.dtype(dtype)
    size = int(np.prod([int(extent) for extent in shape], dtype=np.int64)) * kind.itemsize
    if kind.kind not in "fu" or not 0 <= size <= MAX_MAP_BYTES or any(extent < 0 for extent in shape):
        raise ValueError("not a map")
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed.tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError("not packed by zlib") from error
    if len(data) != size:
        raise ValueError("another size than declared")
    return np.frombuffer(data, kind).reshape(shape)


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, background first, so a mask that begins with foreground begins with 0.

    Args:
        mask: [H, W].
    """
    column_wise = np.asarray(mask, np.uint8).ravel(order="F")
    edges = np.flatnonzero(np.diff(column_wise)) + 1
    runs = np.diff([0, *edges.tolist(), column_wise.size]).tolist()
    return [0, *runs] if column_wise.size and column_wise[0] else [int(run) for run in runs]


def mask_of_runs(runs: list[int], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The inverse of run_lengths for an image of ``size`` (H, W)."""
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return values.reshape(size, order="F")

"""Arrays as numpy.save writes them (NEP 1), read without unpickling and without trusting the header's size."""

from __future__ import annotations

import io
import math
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from fedmentor.errors import UnreadableImage
from fedmentor.teacher.contract import Pixels
from fedmentor.teacher.grey_levels import View, check_size, eight_bits

MAGIC = npy.MAGIC_PREFIX

_KINDS = "buif"
"""Booleans, unsigned and signed integers, floating point; never objects, which would be unpickled."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_numpy(data: bytes, view: View) -> Pixels:
    """One picture from a .npy file.

    Returns:
        uint8 [H, W] or [H, W, 3].

    Raises:
        UnreadableImage: truncated, of another kind or shape, not finite, or of a size outside the limits.
    """
    try:
        values = _array(data)
    except (ValueError, OSError, EOFError, SyntaxError, RecursionError, TokenError) as error:
        raise UnreadableImage("the NumPy file is truncated or corrupt", cure="write it with numpy.save") from error
    return eight_bits(values, view.window)


def _array(data: bytes) -> npt.NDArray[Any]:
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError("a version that only exotic types need")
    shape, is_fortran, dtype = _HEADERS[version](stream)  # bounded in length, read by ast.literal_eval
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise UnreadableImage(f"the NumPy file holds {dtype}, not real numbers")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise UnreadableImage(f"the NumPy file has shape {list(shape)}, expected [H, W] grey or [H, W, 3] RGB")
    check_size(shape[1], shape[0])
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=stream.tell())  # raises where there is too little
    values = flat.reshape(shape, order="F" if is_fortran else "C")
    return values.astype(np.uint8) * 255 if dtype.kind == "b" else values

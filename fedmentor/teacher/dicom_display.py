"""A grey DICOM image as it is meant to be displayed, in eight bits; needs pydicom.

A teacher's doors and a site's readers both come here, so both know one file by one image digest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from fedmentor.errors import UnreadableImage
from fedmentor.teacher.contract import Pixels
from fedmentor.teacher.grey_levels import display_window, eight_bits


def displayed_grey(
    dataset: pydicom.Dataset, stored: npt.NDArray[Any], window: tuple[float, float] | None = None, frame: int = 0
) -> Pixels:
    """Modality rescale, then the window, then MONOCHROME1 inversion (DICOM PS3.3 C.11.1, C.11.2, C.7.6.3.1.2).

    Args:
        dataset: says how.
        stored: pixel values as they are stored, [H, W].
        window: (low, high) in rescaled units that goes before the file's own window. Without either, the smallest value becomes 0
            and the largest 255, also where eight bits are stored: they may use a part of their range only.
        frame: which one the pixels are; enhanced objects say how by frame.

    Returns:
        uint8 [H, W].

    Raises:
        UnreadableImage: rescaling or the window gives no finite numbers.
    """
    dataset = _of_frame(dataset, frame)
    rescaled = np.asarray(apply_modality_lut(stored, dataset))
    if np.issubdtype(rescaled.dtype, np.floating) and not np.isfinite(rescaled).all():  # a window would hide it
        raise UnreadableImage("the image holds values that are not finite numbers", cure="export it again")
    if window is None and "VOILUTSequence" in dataset:
        grey = eight_bits(np.asarray(apply_voi_lut(rescaled, dataset, prefer_lut=True)).astype(np.float64), None)
    elif window is None and dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        unit = display_window(rescaled.astype(np.float64), _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
        grey = eight_bits(unit, (0.0, 1.0))
    else:
        grey = eight_bits(rescaled.astype(np.float64) if rescaled.dtype == np.uint8 else rescaled, window)
    is_inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    return np.subtract(255, grey, dtype=np.uint8) if is_inverted else grey


def _of_frame(dataset: pydicom.Dataset, frame: int) -> pydicom.Dataset:
    """The dataset with a frame's rescaling and window at its top, where other objects have them (DICOM PS3.3 C.7.6.16.2.9, .10)."""
    shared, own = (dataset.get(f"{whose}FunctionalGroupsSequence") or [] for whose in ("Shared", "PerFrame"))
    found = [
        group[name].value[0]
        for group in (*shared[:1], *own[frame : frame + 1])
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence")
        if group.get(name)
    ]
    if not found:
        return dataset
    told = pydicom.Dataset()  # copy.copy would share its elements with the original
    told.update(dataset)
    told.file_meta = dataset.file_meta  # tables of values are read by its byte order
    for elements in found:
        told.update(elements)
    return told


def _first(value: Any) -> float:
    """The first of several windows: the one that the modality shows by default."""
    return float(value[0]) if isinstance(value, pydicom.multival.MultiValue) else float(value)

"""Single-frame grey DICOM radiographs through pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from fed_node.data.limits import GreyImage, check_pixels, stretched, unreadable
from fedmentor.errors import UnreadableImage

DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
"""Deflated Explicit VR Little Endian: the file is one zlib stream that pydicom inflates without a limit before it sees a header."""


def read_dicom(path: Path) -> GreyImage:
    """Read one frame as it is meant to be displayed.

    Returns:
        uint8 [H, W].

    Raises:
        UnreadableImage: not DICOM, without pixels, multi-frame, in colour, or compressed in a way that no installed codec reads.
    """
    try:
        _check_syntax(path)
        _check_header(path, pydicom.dcmread(path, stop_before_pixels=True))
        dataset = pydicom.dcmread(path)
        return _grey(dataset, np.asarray(dataset.pixel_array))
    except UnreadableImage:
        raise
    except Exception as error:  # codecs raise whatever their plug-ins raise
        raise unreadable(path, error, "a DICOM") from error


def window(values: npt.NDArray[np.float64], center: float, width: float, function: str = "LINEAR") -> npt.NDArray[np.float64]:
    """The display window as a map to [0, 1] (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: rescaled pixel values, any shape.
        center: window centre.
        width: window width, over 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID; anything else is taken as LINEAR, the standard's default.
    """
    width = max(width, 1e-6)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -60, 60))))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    return np.clip((values - (center - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _check_syntax(path: Path) -> None:
    if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED_SYNTAX:
        raise UnreadableImage(f"{path} uses the deflated transfer syntax", cure="store it uncompressed or as JPEG 2000")


def _check_header(path: Path, header: pydicom.Dataset) -> None:
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise UnreadableImage(f"{path} has {frames} frames, a radiograph has one", cure="export the frame to use as its own file")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise UnreadableImage(f"{path} is a colour DICOM", cure="export the original grey image instead of a screen capture")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        raise UnreadableImage(f"{path} stores numbers of colours, not grey values", cure="export the original grey image instead")
    rows, columns = header.get("Rows"), header.get("Columns")
    if rows is None or columns is None:
        raise UnreadableImage(f"{path} is a DICOM file without an image")
    check_pixels(path, int(rows), int(columns))


def _grey(dataset: pydicom.Dataset, stored: npt.NDArray[Any]) -> GreyImage:
    """Modality rescale, then the window, then MONOCHROME1 inversion (DICOM PS3.3 C.11.1, C.11.2, C.7.6.3.1.2)."""
    rescaled = np.asarray(apply_modality_lut(stored, dataset))
    if "VOILUTSequence" in dataset:
        grey = stretched(np.asarray(apply_voi_lut(rescaled, dataset, prefer_lut=True)))
    elif dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        unit = window(rescaled.astype(np.float64), _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
        if not np.isfinite(unit).all():
            raise ValueError("the rescale or the window is not a number")
        grey = np.rint(255 * unit).astype(np.uint8)
    else:
        grey = stretched(rescaled)
    inverted = dataset.get("PhotometricInterpretation") == "MONOCHROME1"
    return np.subtract(255, grey, dtype=np.uint8) if inverted else grey


def _first(value: Any) -> float:
    """The first of several windows: the one that the modality shows by default."""
    return float(value[0]) if isinstance(value, pydicom.multival.MultiValue) else float(value)

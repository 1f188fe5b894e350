"""One frame of a DICOM file as it is meant to be displayed, from bytes; needs pydicom.

Compressed transfer syntaxes are read by whatever plug-ins pydicom finds: JPEG and JPEG 2000 through Pillow, RLE by itself, JPEG-LS
and lossless JPEG where pylibjpeg or python-gdcm is installed. A frame that would expand to more than its header says is refused,
and so are the deflated syntax, which is inflated whole before a header is seen, and others whose size cannot be known beforehand.
"""

from __future__ import annotations

import io

import numpy as np
import pydicom
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels.utils import pixel_array

from fedmentor.errors import UnreadableImage
from fedmentor.teacher.codestream import check_expansion
from fedmentor.teacher.contract import Pixels
from fedmentor.teacher.dicom_display import displayed_grey
from fedmentor.teacher.dicom_silence import silent
from fedmentor.teacher.grey_levels import View, check_size, eight_bits

_DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def read_dicom(data: bytes, view: View) -> Pixels:
    """Read one frame.

    Args:
        data: the file.
        view: its frame, and a window that goes before the file's own.

    Returns:
        uint8 [H, W], or [H, W, 3] RGB.

    Raises:
        UnreadableImage: not DICOM, truncated, without pixels, multi-frame without a frame number, of palette colours, compressed in
            a way that no plug-in reads, or of a size outside the limits.
    """
    try:
        return _displayed(data, view)
    except UnreadableImage:
        raise
    except Exception as error:  # plug-ins raise whatever they raise, and their sentences may hold patient data
        raise UnreadableImage(
            f"the DICOM file is truncated, damaged, or compressed in an unknown way ({type(error).__name__})",
            cure="export it again, uncompressed",
        ) from error


def _displayed(data: bytes, view: View) -> Pixels:
    with silent():
        _check_syntax(data)
        header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
        frame = _checked_frame(header, view.frame)
        dataset = pydicom.dcmread(io.BytesIO(data))
        check_expansion(dataset, frame)
        stored = np.asarray(pixel_array(dataset, index=frame))
        if dataset.PhotometricInterpretation in _COLOUR:
            return eight_bits(stored, view.window)
        return displayed_grey(dataset, stored, view.window, frame)


def _check_syntax(data: bytes) -> None:
    stream = io.BytesIO(data)
    read_preamble(stream, force=False)
    meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_is_beyond_meta)
    if meta.get("TransferSyntaxUID") == _DEFLATED_SYNTAX:
        raise UnreadableImage("the DICOM file uses the deflated transfer syntax", cure="store it uncompressed or as JPEG 2000")


def _is_beyond_meta(tag: int, _representation: str | None, _length: int) -> bool:
    """Whether a tag lies behind the file's meta information, group 0002 (DICOM PS3.10, section 7.1)."""
    return tag >> 16 != 2


def _checked_frame(header: pydicom.Dataset, wanted: int | None) -> int:
    """The frame to decode, after everything that the header tells was checked."""
    rows, columns = header.get("Rows"), header.get("Columns")
    if rows is None or columns is None:
        raise UnreadableImage("the DICOM file holds no image")
    check_size(int(columns), int(rows))
    if header.get("PhotometricInterpretation") not in (*_GREY, *_COLOUR):
        raise UnreadableImage("the DICOM file stores numbers of colours, not values", cure="export the original grey image")
    frames = int(header.get("NumberOfFrames") or 1)
    if wanted is None and frames > 1:
        raise UnreadableImage(f"the DICOM file has {frames} frames and none was named", cure='name one: "frame": 0')
    if wanted is not None and not 0 <= wanted < frames:
        raise UnreadableImage(f"the DICOM file has no frame {wanted}", cure=f"name one from 0 to {frames - 1}")
    return wanted or 0

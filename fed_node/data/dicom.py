"""Single-frame grey DICOM radiographs through pydicom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from fed_node.data.decoder import DECODER
from fed_node.data.dicom_header import read_header, refusal_of, syntax_of
from fed_node.data.limits import GreyImage, unreadable
from fedmentor.errors import UnreadableImage
from fedmentor.teacher.codestream import check_expansion, needs_codec
from fedmentor.teacher.dicom_display import displayed_grey
from fedmentor.teacher.dicom_silence import silent


def read_dicom(path: Path) -> GreyImage:
    """Read one frame as it is meant to be displayed.

    Before any memory is taken for pixels: the size in the header is within the limits, and a compressed frame's own size is the
    same. What C++ codecs decode is decoded in a process of its own. No message quotes what the file holds.

    Returns:
        uint8 [H, W].

    Raises:
        UnreadableImage: not DICOM, without pixels, multi-frame, in colour, or compressed in a way that no installed codec reads.
    """
    header = read_header(path)
    try:
        with silent():
            _check_usable(path, header)
            if needs_codec(syntax_of(header)):
                return DECODER.grey(path, (int(header.Rows), int(header.Columns)))
        return decoded(path)
    except UnreadableImage:
        raise
    except Exception as error:  # noqa: BLE001 - codecs raise whatever their plug-ins raise
        raise unreadable(path, error, "a DICOM") from None


def decoded(path: Path) -> GreyImage:
    """Read the pixels of a file whose header was found good; raises whatever the libraries raise.

    Returns:
        uint8 [H, W].
    """
    with silent():
        dataset = pydicom.dcmread(path)
        check_expansion(dataset)
        try:
            return displayed_grey(dataset, np.asarray(dataset.pixel_array))
        except UnreadableImage as error:
            raise UnreadableImage(f"{path}: {error.message}", cure=error.cure) from None


def _check_usable(path: Path, header: pydicom.Dataset) -> None:
    refusal = refusal_of(header)
    if refusal is not None:
        raise UnreadableImage(f"{path} {refusal.sentence}", cure=refusal.cure)

"""Reading a DICOM header, and what it says about whether the object is a radiograph that can be used. No pixels here.

Nothing that a header holds may get into a message (fedmentor.teacher.dicom_silence).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pydicom
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from fed_node.data.limits import MIN_SIDE, check_bytes, unreadable
from fedmentor.errors import UnreadableImage
from fedmentor.teacher.contract import MAX_PIXELS
from fedmentor.teacher.dicom_silence import silent

DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"
"""Deflated Explicit VR Little Endian: the file is one zlib stream that pydicom inflates without a limit before it sees a header."""

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""No decoder under a permissive licence reads its 12-bit form."""

SEGMENTATION_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
"""Segmentation Storage and Label Map Segmentation Storage."""

MAX_BITS = 32

_DOCUMENTS = frozenset({"AU", "DOC", "FID", "KO", "PR", "REG", "RTDOSE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SR"})
"""Modalities whose objects are about images without being one."""


class Reason(Enum):
    """Why an object is not used; the value is what people read."""

    NO_ACCESS = "closed to the node's user"
    NOT_DICOM = "not a DICOM file"
    DAMAGED = "truncated, damaged or deflated"
    NO_CODEC = "compressed in a way that no installed codec reads"
    NOT_AN_IMAGE = "not an image (report, PDF, presentation state, ...)"
    SEGMENTATION = "a segmentation, not an image"
    MULTI_FRAME = "an image of several frames; a radiograph has one"
    COLOUR = "a colour image"
    PALETTE = "an image of colour numbers, not of grey values"
    LOCALIZER = "a localizer"
    SIZE = "too large or too small for a radiograph"
    OTHER_MODALITY = "of a modality that is not asked for"
    NO_PATIENT = "without PatientID, so nobody knows whom it shows"
    NO_UID = "without SOPInstanceUID"
    COPY = "a second copy of an image"
    AUTOMATIC_MASK = "a mask drawn by a program, not by a person"
    UNCLEAR_MASK = "one of several masks of an image, or a mask of several organs without the lung"
    STRANGE_MASK = "a mask that refers to no image here"


@dataclass(frozen=True)
class Refusal:
    """Why an object cannot be read as a radiograph: for counting, as a sentence after its name, and what to do."""

    reason: Reason
    sentence: str
    cure: str = ""


def read_header(path: Path) -> pydicom.Dataset:
    """Everything before the pixels, the file's meta information included.

    Raises:
        UnreadableImage: not DICOM, over the size limit, deflated, or damaged. Nothing of the content is quoted.
    """
    check_bytes(path)
    try:
        with silent():
            _check_not_deflated(path)
            return pydicom.dcmread(path, stop_before_pixels=True)
    except UnreadableImage:
        raise
    except Exception as error:  # noqa: BLE001 - the parser raises whatever hostile bytes make it raise
        raise unreadable(path, error, "a DICOM") from None


def _check_not_deflated(path: Path) -> None:
    if read_file_meta_info(path).get("TransferSyntaxUID") == DEFLATED_SYNTAX:
        raise UnreadableImage(f"{path} uses the deflated transfer syntax", cure="store it uncompressed or as JPEG 2000")


def refusal_of(header: pydicom.Dataset) -> Refusal | None:
    """Why this object cannot be read as one grey picture; None where it can.

    Raises:
        ValueError: an attribute is not of its type.
    """
    return _not_a_picture(header) or _not_grey(header) or _not_of_size(header) or _not_decodable(header)


def is_segmentation(header: pydicom.Dataset) -> bool:
    """Whether the object is a DICOM segmentation."""
    return str(header.get("SOPClassUID")) in SEGMENTATION_CLASSES


def is_localizer(header: pydicom.Dataset) -> bool:
    """Whether the third value of ImageType says so (PS3.3, C.7.6.1.1.2)."""
    kinds = header.get("ImageType") or ()
    return "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds))


def syntax_of(header: pydicom.Dataset) -> str:
    """The transfer syntax, empty where the file names none."""
    return str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""


def _not_a_picture(header: pydicom.Dataset) -> Refusal | None:
    if is_segmentation(header):
        return Refusal(Reason.SEGMENTATION, "is a DICOM segmentation, not an image", "give it as a mask instead")
    if "SOPClassUID" not in header and "Rows" not in header:
        return Refusal(Reason.DAMAGED, "is a DICOM file that ends before it says what it is", "export it again from its source")
    if header.get("Rows") is None or header.get("Columns") is None or header.get("Modality") in _DOCUMENTS:
        return Refusal(Reason.NOT_AN_IMAGE, "is a DICOM file without an image")
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        return Refusal(Reason.MULTI_FRAME, f"has {frames} frames, a radiograph has one", "export the frame to use as its own file")
    return None


def _not_grey(header: pydicom.Dataset) -> Refusal | None:
    if int(header.get("SamplesPerPixel") or 1) != 1:
        return Refusal(Reason.COLOUR, "is a colour DICOM", "export the original grey image instead of a screen capture")
    if header.get("PhotometricInterpretation") == "PALETTE COLOR":
        return Refusal(Reason.PALETTE, "stores numbers of colours, not grey values", "export the original grey image instead")
    return None


def _not_of_size(header: pydicom.Dataset) -> Refusal | None:
    rows, columns = int(header.Rows), int(header.Columns)
    if min(rows, columns) < MIN_SIDE:
        return Refusal(Reason.SIZE, f"is {columns}x{rows} pixels, under the minimum side of {MIN_SIDE}")
    if rows * columns > MAX_PIXELS:
        return Refusal(Reason.SIZE, f"is {columns}x{rows} pixels, over the limit of {MAX_PIXELS}")
    if not 1 <= int(header.get("BitsAllocated") or 0) <= MAX_BITS:
        return Refusal(Reason.DAMAGED, f"does not have 1 to {MAX_BITS} bits a pixel")
    return None


def _not_decodable(header: pydicom.Dataset) -> Refusal | None:
    syntax = UID(syntax_of(header))
    cure = "export it uncompressed, or as JPEG lossless, JPEG-LS, JPEG 2000 or RLE"
    if syntax == JPEG_EXTENDED and int(header.get("BitsStored") or 0) > 8:
        return Refusal(Reason.NO_CODEC, "is compressed as 12-bit JPEG extended, which no installed codec reads", cure)
    try:
        decodable = get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        return Refusal(Reason.NO_CODEC, "is compressed in a way that no installed codec reads", cure)
    return None

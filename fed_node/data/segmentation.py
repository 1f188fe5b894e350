"""Reading masks from DICOM Segmentation objects (PS3.3, A.51) through highdicom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from fed_node.data.dicom_header import is_segmentation, read_header, syntax_of
from fed_node.data.limits import Mask, unreadable
from fedmentor.errors import DataError, MaskMismatch, UnreadableImage
from fedmentor.teacher.codestream import check_expansion, needs_codec
from fedmentor.teacher.dicom_silence import silent

LUNG_CODES = frozenset(
    {
        *(("SCT", "39607008"), ("SCT", "181216001"), ("SCT", "3341006"), ("SCT", "44029006")),  # lung, entire lung, right, left
        *(("SRT", "T-28000"), ("SRT", "T-28100"), ("SRT", "T-28500")),  # lung, right, left in the older scheme
    }
)
"""Segmented property types that are the lung or one of the two."""

MAX_FRAME_PIXELS = 512 << 20
"""Rows x columns x frames of one object: it is unpacked to a byte a pixel."""

HALF = 0.5
"""From this share of a fractional segment on a pixel is foreground."""


@dataclass(frozen=True)
class SegmentationFacts:
    """What a segmentation's header says.

    Attributes:
        references: SOPInstanceUIDs of the images that its frames were drawn on; never printed.
        segments: numbers of the segments that make up the organ; empty where that is unclear.
        automatic: a program drew every one of those.
    """

    references: frozenset[str] = field(repr=False)
    segments: tuple[int, ...]
    automatic: bool


def segmentation_facts(header: pydicom.Dataset) -> SegmentationFacts:
    """Read references and segments from a header.

    The organ is every segment whose type is a lung, else the only segment there is.
    """
    groups = [*(header.get("PerFrameFunctionalGroupsSequence") or ()), *(header.get("SharedFunctionalGroupsSequence") or ())]
    sources = [source for group in groups for source in group.get("DerivationImageSequence") or ()]
    images = [image for source in sources for image in source.get("SourceImageSequence") or ()]
    references = {str(image.get("ReferencedSOPInstanceUID")) for image in images}
    # Number 0 is the background of a label map.
    everything = [item for item in header.get("SegmentSequence") or () if int(item.SegmentNumber) != 0]
    lungs = [item for item in everything if _property_type(item) in LUNG_CODES]
    chosen = lungs or (everything if len(everything) == 1 else [])
    automatic = bool(chosen) and all(item.get("SegmentAlgorithmType") == "AUTOMATIC" for item in chosen)
    return SegmentationFacts(frozenset(references), tuple(int(item.SegmentNumber) for item in chosen), automatic)


def instance_uid(image: Path) -> str:
    """The SOPInstanceUID of a DICOM image.

    Raises:
        MaskMismatch: it has none, so no segmentation can name it.
        UnreadableImage: not DICOM.
    """
    with silent():
        uid = str(read_header(image).get("SOPInstanceUID") or "")
    if not uid:
        raise MaskMismatch(f"{image} has no SOPInstanceUID, so a DICOM segmentation cannot belong to it")
    return uid


def read_segmentation(path: Path, uid: str, size: tuple[int, int]) -> Mask:
    """The organ's pixels in one image.

    Args:
        path: the segmentation object.
        uid: SOPInstanceUID of the image.
        size: (H, W) of the image.

    Returns:
        bool [H, W].

    Raises:
        MaskMismatch: it does not name the image, is of another size, or leaves open which segment is the organ.
        UnreadableImage: not a segmentation, damaged, or over a limit.
    """
    header = read_header(path)
    try:
        with silent():
            facts = _checked(path, header, uid, size)
            dataset = pydicom.dcmread(path)
            check_expansion(dataset)
            return _pixels(dataset, uid, facts.segments)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - the libraries raise whatever hostile bytes make them raise
        raise unreadable(path, error, "a DICOM segmentation") from None


def _checked(path: Path, header: pydicom.Dataset, uid: str, size: tuple[int, int]) -> SegmentationFacts:
    if not is_segmentation(header):
        raise UnreadableImage(f"{path} is not a DICOM segmentation")
    if needs_codec(syntax_of(header)):
        raise UnreadableImage(f"{path} is compressed like a photograph", cure="export the segmentation uncompressed or as RLE")
    rows, columns, frames = int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames") or 1)
    if (rows, columns) != size:
        raise MaskMismatch(f"{path} is {columns}x{rows} pixels, its image {size[1]}x{size[0]}")
    if rows * columns * frames > MAX_FRAME_PIXELS:
        raise UnreadableImage(
            f"{path} has {frames} frames of {columns}x{rows} pixels, over the limit of {MAX_FRAME_PIXELS} together"
        )
    facts = segmentation_facts(header)
    if uid not in facts.references:
        raise MaskMismatch(f"{path} does not refer to its image", cure="export the segmentation that was drawn on this image")
    if not facts.segments:
        raise MaskMismatch(
            f"{path} has several segments and none of them is typed as lung",
            cure="give the lung segments the type 'Lung' (SCT 39607008)",
        )
    return facts


def _pixels(dataset: pydicom.Dataset, uid: str, segments: tuple[int, ...]) -> Mask:
    from highdicom.seg import Segmentation  # noqa: PLC0415 - slow to load, and few datasets have one

    found: Any = Segmentation.from_dataset(dataset, copy=False).get_pixels_by_source_instance(
        [uid], segment_numbers=list(segments), ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    return np.asarray((found[0] >= HALF).any(axis=-1), np.bool_)


def _property_type(segment: pydicom.Dataset) -> tuple[str, str]:
    for code in segment.get("SegmentedPropertyTypeCodeSequence") or ():
        return str(code.get("CodingSchemeDesignator")), str(code.get("CodeValue"))
    return "", ""

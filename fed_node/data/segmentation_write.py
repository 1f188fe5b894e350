"""Writing a predicted mask as a DICOM Segmentation (PS3.3, A.51) through highdicom, for the PACS that the image came from.

The object is about the patient and goes back where the image was, so it carries the image's patient and study. Before it is
written it is read back, and everything that ties it to its image is compared.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from fed_node.data.dicom_header import read_header, refusal_of
from fed_node.data.limits import Mask
from fedmentor import __version__
from fedmentor.errors import DataError, UnreadableImage
from fedmentor.ids import Digest
from fedmentor.teacher.dicom_silence import silent

LUNG = Code("39607008", "SCT", "Lung")
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")

SERIES_NUMBER = 9900
SERIES_DESCRIPTION = "Lung mask by FedMentor, not for diagnosis"
MAKER = "FedMentor"

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Attributes of type 2: an image without one is common, an object without one is not DICOM."""

_SAME = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Algorithm:
    """Who drew the mask: name of the architecture and digest of the model."""

    name: str
    digest: Digest


def segmentation_bytes(image: Path, mask: Mask, algorithm: Algorithm) -> bytes:
    """A complete DICOM file with one segment, the lung, on one image.

    Args:
        image: a DICOM image; its pixels are not read.
        mask: bool [H, W], of the image's size.
        algorithm: goes into the algorithm identification, the model's digest as its version.

    Raises:
        UnreadableImage: the image is not DICOM, or lacks what a segmentation has to refer to.
        DataError: the object could not be made, or did not read back as it was meant; nothing of the image is quoted.
    """
    try:
        with silent():
            source = _source(image)
            content = _encoded(source, mask, algorithm)
            _check_read_back(pydicom.dcmread(io.BytesIO(content)), source, mask, algorithm)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 - the library raises what the image's attributes make it raise, and quotes them
        raise DataError(
            f"no DICOM segmentation can be made for {image} ({type(error).__name__})", cure="ask for PNG or NIfTI instead"
        ) from None
    return content


def _source(image: Path) -> pydicom.Dataset:
    """The image's header, with empty values for what may be empty but must be there."""
    header = read_header(image)
    refusal = refusal_of(header)
    if refusal is not None:
        raise UnreadableImage(f"{image} {refusal.sentence}", cure=refusal.cure)
    for keyword in _NEEDED:
        if not header.get(keyword):
            raise UnreadableImage(
                f"{image} has no {keyword}, which a DICOM segmentation refers to", cure="ask for PNG or NIfTI instead"
            )
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _encoded(source: pydicom.Dataset, mask: Mask, algorithm: Algorithm) -> bytes:
    from highdicom import AlgorithmIdentificationSequence  # noqa: PLC0415 - slow to load, and only this format needs it
    from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription  # noqa: PLC0415

    identification = AlgorithmIdentificationSequence(
        name=f"{MAKER} {algorithm.name}", family=codes.cid7162.ArtificialIntelligence, version=algorithm.digest, source=MAKER
    )
    made = Segmentation(
        source_images=[source],
        pixel_array=mask,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[SegmentDescription(1, "Lung", ANATOMY, LUNG, "AUTOMATIC", identification)],
        series_instance_uid=generate_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=algorithm.name,
        software_versions=__version__,
        device_serial_number=algorithm.digest[:16],
        content_label="LUNG",
        omit_empty_frames=False,
        series_description=SERIES_DESCRIPTION,
    )
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _check_read_back(written: pydicom.Dataset, source: pydicom.Dataset, mask: Mask, algorithm: Algorithm) -> None:
    """Compare what was written with what was meant.

    1. patient, study and frame of reference are the image's; 2. series and instance that it refers to are the image's, in the list
    of references and in the frame; 3. the segment names the algorithm and the model's digest; 4. the pixels are the mask.

    Raises:
        ValueError: one of these does not hold.
    """
    from highdicom.seg import Segmentation  # noqa: PLC0415

    # (1) patient, study, frame of reference
    for keyword in _SAME:
        _same(written.get(keyword), source.get(keyword))
    # (2) references
    (series,) = written.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    (group,) = written.PerFrameFunctionalGroupsSequence
    (frame,) = group.DerivationImageSequence[0].SourceImageSequence
    _same(series.SeriesInstanceUID, source.SeriesInstanceUID)
    for reference in (instance, frame):
        _same(reference.ReferencedSOPInstanceUID, source.SOPInstanceUID)
        _same(reference.ReferencedSOPClassUID, source.SOPClassUID)
    # (3) algorithm
    (segment,) = written.SegmentSequence
    (identification,) = segment.SegmentationAlgorithmIdentificationSequence
    _same(identification.AlgorithmVersion, algorithm.digest)
    # (4) pixels
    found: Any = Segmentation.from_dataset(written).get_pixels_by_source_instance(
        [source.SOPInstanceUID], ignore_spatial_locations=True
    )
    if not np.array_equal(found[0, ..., 0] != 0, mask):
        raise ValueError("other pixels")


def _same(written: object, meant: object) -> None:
    if (written or "") != (meant or ""):
        raise ValueError("another value")

"""DICOM objects for tests: identified radiographs, their neighbours in a PACS, and segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

LUNG, HEART = Code("39607008", "SCT", "Lung"), Code("80891009", "SCT", "Heart")

SIZE = (40, 48)
DX = pydicom.uid.DigitalXRayImageStorageForPresentation

SECRETS = {
    "PatientName": "Zebrowski^Quentin",
    "PatientBirthDate": "19370913",
    "PatientAddress": "17 Quagga Lane",
    "OtherPatientIDs": "ALT-77231",
    "AccessionNumber": "ACC-990017",
    "ReferringPhysicianName": "Okonjo^Wilhelmina",
    "OperatorsName": "Vandermeer^Ottoline",
    "InstitutionName": "Saint Mungo Infirmary",
    "StationName": "XRAYROOM9",
    "DeviceSerialNumber": "SN-4471-B",
    "StudyID": "STUDY-5512",
    "PatientComments": "lives next to the lighthouse",
    "StudyDescription": "thorax of Zebrowski",
    "IssuerOfPatientID": "MUNGO-MRN",
}
"""Values that must not be seen outside."""


def pixels(seed: int = 0, size: tuple[int, int] = SIZE) -> npt.NDArray[np.uint16]:
    """Twelve-bit noise."""
    return np.random.default_rng(seed).integers(0, 4096, size).astype(np.uint16)


def radiograph(path: Path, patient: str = "MRN-1", seed: int = 0, **fields: Any) -> pydicom.Dataset:
    """Write a digital radiograph; ``fields`` replace attributes, None removes one."""
    image = pixels(seed)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DX, generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        **SECRETS,
        "SOPClassUID": DX,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "DX",
        "PatientID": patient,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "Rows": image.shape[0],
        "Columns": image.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "ViewPosition": "PA",
        "BurnedInAnnotation": "NO",
        "PatientSex": "F",
        "StudyDate": "20191104",
        "StudyTime": "101010",
        "PixelData": image.tobytes(),
        **fields,
    }
    for name, value in values.items():
        if value is not None:
            setattr(data, name, value)
    block = data.private_block(0x0011, "MUNGO", create=True)
    block.add_new(1, "LO", "private Zebrowski")
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return data


def document(path: Path, modality: str) -> None:
    """Write an object without an image, as a report or a presentation state is."""
    radiograph(path, Modality=modality, Rows=None, Columns=None, PixelData=None, PhotometricInterpretation=None)


def compressed(source: Path, target: Path, syntax: str) -> Path:
    """Compress a file without loss; ``syntax`` is GDCM's name of the transfer syntax."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target


def segmentation(
    path: Path,
    source: pydicom.Dataset,
    masks: npt.NDArray[Any],
    types: tuple[Code, ...] = (LUNG,),
    kind: str = "MANUAL",
    form: str = "BINARY",
) -> Segmentation:
    """Write a segmentation of one image.

    Args:
        path: where to.
        source: the image.
        masks: bool [H, W], or [H, W, S] for several segments; probabilities in a fractional one.
        types: what each segment is.
        kind: who drew them: MANUAL, SEMIAUTOMATIC or AUTOMATIC.
        form: BINARY, FRACTIONAL or LABELMAP.
    """
    family = codes.cid7162.ArtificialIntelligence
    how = {} if kind == "MANUAL" else {"algorithm_identification": AlgorithmIdentificationSequence("net", family, "1")}
    described = [
        SegmentDescription(number, code.meaning, codes.SCT.Organ, code, kind, **how) for number, code in enumerate(types, 1)
    ]
    made = Segmentation(
        [source],
        masks if masks.ndim == 2 else masks[None],
        form,
        described,
        generate_uid(),
        7,
        generate_uid(),
        1,
        "maker",
        "model",
        "1",
        "serial",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)
    return made

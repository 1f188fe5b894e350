"""A predicted mask as DICOM segmentation: read back by others, it belongs to its image in every way."""

from __future__ import annotations

import io

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from dicom_samples import SIZE, compressed, document, radiograph, segmentation
from highdicom.seg import Segmentation, segread
from PIL import Image

from fed_node.cli.predict import predict
from fed_node.data.dicom_header import Reason
from fed_node.data.export_rules import ExportRules
from fed_node.data.identifiers import Pseudonyms
from fed_node.data.pacs_export import survey_export
from fed_node.data.reading import read_mask
from fed_node.data.segmentation_write import Algorithm, _check_read_back, segmentation_bytes
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.errors import DataError, MaskMismatch, UnreadableImage
from fedmentor.ids import Digest
from fedmentor.models import ModelRecord, digest_of, save_model

ALGORITHM = Algorithm("sm-lite-v1", Digest("ab" * 32))
MASK = np.zeros(SIZE, bool)
MASK[5:30, 6:20] = True


def written(path, mask=MASK):
    return pydicom.dcmread(io.BytesIO(segmentation_bytes(path, mask, ALGORITHM)))


@pytest.mark.parametrize("frame_of_reference", [True, False])
def test_references_are_intact(tmp_path, frame_of_reference):
    source = radiograph(tmp_path / "x", **({} if frame_of_reference else {"FrameOfReferenceUID": None}))
    made = written(tmp_path / "x")
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert made.get(keyword) == source.get(keyword), keyword
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    (series,) = made.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [source.SOPInstanceUID]
    seen = Segmentation.from_dataset(made)
    assert [tuple(map(str, uids)) for uids in seen.get_source_image_uids()] == [
        (source.StudyInstanceUID, source.SeriesInstanceUID, source.SOPInstanceUID)
    ]
    (segment,) = made.SegmentSequence
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("FedMentor sm-lite-v1", ALGORITHM.digest)
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Lung", "AUTOMATIC")


@pytest.mark.parametrize("mask", [MASK, ~MASK, np.zeros(SIZE, bool), np.ones(SIZE, bool)], ids=["part", "rest", "none", "all"])
def test_it_reads_back_as_the_mask(tmp_path, mask):
    radiograph(tmp_path / "x")
    (tmp_path / "x.mask.dcm").write_bytes(segmentation_bytes(tmp_path / "x", mask, ALGORITHM))
    assert np.array_equal(read_mask(tmp_path / "x.mask.dcm", SIZE, tmp_path / "x"), mask)


def test_a_compressed_image_and_one_with_little_in_its_header_get_one_too(tmp_path):
    bare = ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
    radiograph(tmp_path / "x", **dict.fromkeys(bare), LossyImageCompression="01")
    compressed(tmp_path / "x", tmp_path / "y", "JPEGLosslessProcess14_1")
    for name in ("x", "y"):
        assert written(tmp_path / name).AccessionNumber == ""


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_an_image_that_nobody_can_refer_to_is_refused(tmp_path, keyword):
    radiograph(tmp_path / "x", **{keyword: None})
    with pytest.raises(UnreadableImage, match=f"no {keyword}"):
        written(tmp_path / "x")


def test_a_report_has_no_mask(tmp_path):
    document(tmp_path / "x", "SR")
    with pytest.raises(UnreadableImage, match="without an image"):
        written(tmp_path / "x")


def test_a_mask_of_another_size_makes_no_object(tmp_path):
    radiograph(tmp_path / "x")
    with pytest.raises(DataError, match="no DICOM segmentation"):
        written(tmp_path / "x", np.zeros((9, 9), bool))


def test_the_command_writes_one_that_no_node_takes_for_the_truth(tmp_path):
    tensors = student_tensors(new_student(0))
    record = ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors))
    save_model(tmp_path / "model", tensors, record)
    folder = tmp_path / "export"
    sources = [radiograph(folder / name, seed=number) for number, name in enumerate(("1.2.3", "1.2.4"))]
    (folder / "1.2.5").write_bytes(b"no image")
    images = [str(folder / name) for name in ("1.2.3", "1.2.4", "1.2.5")]
    done = CliRunner().invoke(
        predict, [str(tmp_path / "model"), *images, "--out", str(folder), "--format", "seg"], standalone_mode=False
    )
    assert done.return_value == 3
    for source, name in zip(sources, ("1.2.3", "1.2.4"), strict=True):
        made = segread(folder / f"{name}.mask.dcm")
        assert made.StudyInstanceUID == source.StudyInstanceUID
        (algorithm,) = made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmVersion == record.digest
    export = survey_export(folder, Pseudonyms(bytes(32)), ExportRules())
    assert (len(export.pictures), export.masks, export.skipped[Reason.AUTOMATIC_MASK]) == (2, 0, 2)


def change_study(made):
    made.StudyInstanceUID = "1.2.3"


def change_frame_of_reference(made):
    made.FrameOfReferenceUID = "1.2.3"


def change_series(made):
    made.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


def change_instance(made):
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def change_frame(made):
    group = made.PerFrameFunctionalGroupsSequence[0]
    group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def change_digest(made):
    made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion = "other"


def change_pixels(made):
    made.PixelData = bytes(len(made.PixelData))


@pytest.mark.parametrize(
    "change",
    [change_study, change_frame_of_reference, change_series, change_instance, change_frame, change_digest, change_pixels],
)
def test_every_broken_tie_is_found_when_it_is_read_back(tmp_path, change):
    source = radiograph(tmp_path / "x")
    made = written(tmp_path / "x")
    _check_read_back(made, source, MASK, ALGORITHM)
    change(made)
    with pytest.raises(ValueError, match=r"another value|other pixels"):
        _check_read_back(made, source, MASK, ALGORITHM)


# Reading what others wrote.


def test_a_segmentation_of_another_image_does_not_fit(tmp_path):
    radiograph(tmp_path / "x.dcm")
    other = radiograph(tmp_path / "y.dcm", seed=1)
    segmentation(tmp_path / "mask.dcm", other, MASK)
    with pytest.raises(MaskMismatch, match="does not refer to its image"):
        read_mask(tmp_path / "mask.dcm", SIZE, tmp_path / "x.dcm")


def test_a_segmentation_fits_no_png(tmp_path):
    source = radiograph(tmp_path / "x.dcm")
    segmentation(tmp_path / "mask.dcm", source, MASK)
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match="not a DICOM"):
        read_mask(tmp_path / "mask.dcm", SIZE, tmp_path / "x.png")
    with pytest.raises(MaskMismatch, match="only fits a DICOM image"):
        read_mask(tmp_path / "mask.dcm", SIZE)


def test_an_image_is_no_segmentation_and_a_segmentation_no_image(tmp_path):
    source = radiograph(tmp_path / "x.dcm")
    with pytest.raises(UnreadableImage, match="not a DICOM segmentation"):
        read_mask(tmp_path / "x.dcm", SIZE, tmp_path / "x.dcm")
    segmentation(tmp_path / "mask.dcm", source, MASK)
    with pytest.raises(UnreadableImage, match="is a DICOM segmentation"):
        written(tmp_path / "mask.dcm")


def test_a_segmentation_of_very_many_frames_is_refused_by_its_header(tmp_path):
    source = radiograph(tmp_path / "x.dcm")
    made = segmentation(tmp_path / "mask.dcm", source, MASK)
    made.NumberOfFrames = 10_000_000
    made.save_as(tmp_path / "mask.dcm")
    with pytest.raises(UnreadableImage, match="10000000 frames"):
        read_mask(tmp_path / "mask.dcm", SIZE, tmp_path / "x.dcm")


def test_a_damaged_segmentation_is_refused(tmp_path):
    source = radiograph(tmp_path / "x.dcm")
    segmentation(tmp_path / "mask.dcm", source, MASK)
    content = (tmp_path / "mask.dcm").read_bytes()
    (tmp_path / "mask.dcm").write_bytes(content[:-100])
    with pytest.raises(UnreadableImage, match="damaged"):
        read_mask(tmp_path / "mask.dcm", SIZE, tmp_path / "x.dcm")

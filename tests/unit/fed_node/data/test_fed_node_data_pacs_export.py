"""A PACS export of every kind of object is read where it lies, and what is not used is counted with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess

import nibabel
import numpy as np
import pytest
from dicom_samples import HEART, LUNG, SIZE, compressed, document, radiograph, segmentation
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fed_node.data.dataset import HELD_OUT, TRAIN
from fed_node.data.dicom_header import Reason
from fed_node.data.export_rules import ExportRules
from fed_node.data.identifiers import PRIVATE, Pseudonyms
from fed_node.data.pacs_export import export_dataset, export_files, held_out_patients, survey_export
from fed_node.data.site import open_site_data
from fedmentor.errors import DataError, EmptyDataset, MaskMismatch, UnreadableImage

KEY = Pseudonyms(b"k" * 32)
MASK = np.zeros(SIZE, bool)
MASK[5:30, 6:20] = True
OTHER = np.zeros(SIZE, bool)
OTHER[2:4, 2:4] = True


def look(folder, **rules):
    return survey_export(folder, KEY, ExportRules(**rules))


def only(folder, **rules):
    """The one sample of an export."""
    export = look(folder, **rules)
    (sample,) = export_dataset(folder, export, KEY, 0.5)
    return sample


def test_a_mixed_export_is_sorted_out(tmp_path):
    folder = tmp_path / "EXPORT"
    first = radiograph(folder / "A" / "S1" / "IM000001", "MRN-1", 1)
    segmentation(folder / "A" / "S9" / "SEG1", first, MASK)
    radiograph(folder / "A" / "S1" / "IM000002", "MRN-1", 2, ViewPosition="LL", BurnedInAnnotation="YES")
    radiograph(folder / "B" / "IM1", "MRN-2", 3, Modality="CR", BurnedInAnnotation=None)
    compressed(folder / "B" / "IM1", tmp_path / "squeezed", "JPEGLosslessProcess14_1")
    shutil.move(tmp_path / "squeezed", folder / "B" / "IM1")
    radiograph(folder / "C" / "multi", "MRN-3", NumberOfFrames=2)
    radiograph(folder / "C" / "colour", "MRN-3", SamplesPerPixel=3, PhotometricInterpretation="RGB")
    radiograph(folder / "C" / "palette", "MRN-3", PhotometricInterpretation="PALETTE COLOR")
    radiograph(folder / "C" / "localizer", "MRN-3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    radiograph(folder / "C" / "slice", "MRN-3", Modality="CT")
    radiograph(folder / "C" / "icon", "MRN-3", Rows=8, Columns=8)
    radiograph(folder / "C" / "huge", "MRN-3", Rows=60000, Columns=60000)
    radiograph(folder / "C" / "nobody", None)
    radiograph(folder / "C" / "nameless", "MRN-3", SOPInstanceUID=None)
    for modality in ("SR", "DOC", "PR", "KO"):
        document(folder / "C" / modality, modality)
    shutil.copy(folder / "A" / "S1" / "IM000001", folder / "A" / "S1" / "IM000009")
    (folder / "C" / "cut").write_bytes((folder / "C" / "multi").read_bytes()[:150])
    (folder / "README").write_text("not DICOM")
    export = look(folder)
    assert dict(export.skipped) == {
        Reason.MULTI_FRAME: 1,
        Reason.COLOUR: 1,
        Reason.PALETTE: 1,
        Reason.LOCALIZER: 1,
        Reason.OTHER_MODALITY: 1,
        Reason.SIZE: 2,
        Reason.NO_PATIENT: 1,
        Reason.NO_UID: 1,
        Reason.NOT_AN_IMAGE: 4,
        Reason.COPY: 1,
        Reason.DAMAGED: 1,
        Reason.NOT_DICOM: 1,
    }
    assert (export.files, len(export.pictures), export.patients, export.masks) == (20, 3, 2, 1)
    assert export.burned_in == {"NO": 1, "YES": 1, "not said": 1}
    assert {picture.view for picture in export.pictures} == {"PA", "LL"}
    assert export.identifying["PatientName"] == 18
    assert export.identifying[PRIVATE] == 17  # a segmentation has none
    assert export.identifying["OperatorsName"] == 17
    samples = {sample.id: sample for sample in export_dataset(folder, export, KEY, 0.5)}
    sample = samples[KEY.image(str(first.SOPInstanceUID))]
    assert sample.pixels().shape == SIZE
    assert np.array_equal(sample.truth(SIZE), MASK)
    assert {one.pixels().shape for one in samples.values()} == {SIZE}


def test_files_are_numbered_as_a_shell_numbers_them(tmp_path):
    for name in ("b/2", "b-1", "b/10", "a b", "Z", "ä"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "Z")
    command = 'find "$0" -type f | LC_ALL=C sort'
    listed = subprocess.run(["sh", "-c", command, tmp_path], check=True, capture_output=True, text=True).stdout.splitlines()
    assert [str(path) for path in export_files(tmp_path)] == listed


def test_a_damaged_image_is_called_by_its_number(tmp_path):
    radiograph(tmp_path / "DOE_JOHN" / "1.2.3.4")
    path = tmp_path / "DOE_JOHN" / "1.2.3.4"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UnreadableImage, match=r"^file 1 of .* \(sorted by path\) is not a DICOM image") as caught:
        only(tmp_path).pixels()
    assert "DOE" not in str(caught.value)


def test_an_empty_export_says_what_it_holds(tmp_path):
    with pytest.raises(EmptyDataset, match="holds no file"):
        export_dataset(tmp_path, look(tmp_path), KEY, 0.2)
    document(tmp_path / "sr", "SR")
    with pytest.raises(EmptyDataset, match="1 not an image"):
        export_dataset(tmp_path, look(tmp_path), KEY, 0.2)
    with pytest.raises(DataError, match="not a folder"):
        look(tmp_path / "none")


def test_the_form_of_a_folder_is_told_by_its_table(tmp_path):
    radiograph(tmp_path / "x")
    assert open_site_data(tmp_path, lambda: KEY.key, ExportRules()).export is not None
    (tmp_path / "x").rename(tmp_path / "metadata.csv")
    (tmp_path / "metadata.csv").write_text("id,split\n")
    with pytest.raises(EmptyDataset, match="no rows"):
        open_site_data(tmp_path, lambda: pytest.fail("no key is needed"), ExportRules())


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_what_is_closed_to_the_nodes_user_is_said(tmp_path):
    radiograph(tmp_path / "a")
    radiograph(tmp_path / "b", seed=1)
    (tmp_path / "b").chmod(0)
    assert look(tmp_path).skipped == {Reason.NO_ACCESS: 1}
    (tmp_path / "inner").mkdir(mode=0)
    with pytest.raises(DataError, match=r"1 folders of .* are closed"):
        look(tmp_path)
    (tmp_path / "inner").chmod(0o700)


# Patients.


def test_patients_are_told_apart_under_the_key_and_by_issuer(tmp_path):
    radiograph(tmp_path / "a", "MRN-1")
    radiograph(tmp_path / "b", " MRN-1 ")
    radiograph(tmp_path / "c", "MRN-1", IssuerOfPatientID="ELSEWHERE")
    export = look(tmp_path)
    assert export.patients == 2
    other = survey_export(tmp_path, Pseudonyms(b"o" * 32), ExportRules())
    assert not {one.patient for one in export.pictures} & {one.patient for one in other.pictures}
    assert not {one.image for one in export.pictures} & {one.image for one in other.pictures}
    assert look(tmp_path) == export


@given(st.sets(st.text(min_size=1), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_both_sides_have_patients(patients, share):
    away = held_out_patients(patients, KEY, share)
    assert 1 <= len(away) < len(patients)
    assert away <= patients


def test_nobody_changes_sides_when_others_come():
    patients = [f"p{number}" for number in range(400)]
    few, many = held_out_patients(patients[:300], KEY, 0.2), held_out_patients(patients, KEY, 0.2)
    assert few == many & set(patients[:300])
    assert 0.13 < len(many) / 400 < 0.27


def test_a_patients_images_stay_together(tmp_path):
    for number in range(12):
        radiograph(tmp_path / str(number), f"MRN-{number // 3}", number)
    samples = export_dataset(tmp_path, look(tmp_path), KEY, 0.5)
    sides = {
        sample.patient_id: {other.metadata["split"] for other in samples if other.patient_id == sample.patient_id}
        for sample in samples
    }
    assert len(sides) == 4
    assert {len(side) for side in sides.values()} == {1}
    assert set().union(*sides.values()) == {TRAIN, HELD_OUT}


# Masks.


def test_the_lung_is_taken_from_several_organs(tmp_path):
    source = radiograph(tmp_path / "x")
    segmentation(tmp_path / "seg", source, np.stack([OTHER, MASK], -1), (HEART, LUNG))
    assert np.array_equal(only(tmp_path).truth(SIZE), MASK)


def test_both_lungs_are_joined(tmp_path):
    source = radiograph(tmp_path / "x")
    segmentation(tmp_path / "seg", source, np.stack([OTHER, MASK], -1), (LUNG, LUNG))
    assert np.array_equal(only(tmp_path).truth(SIZE), MASK | OTHER)


def test_the_only_segment_is_taken_whatever_it_is_called(tmp_path):
    source = radiograph(tmp_path / "x")
    segmentation(tmp_path / "seg", source, MASK, (HEART,))
    assert np.array_equal(only(tmp_path).truth(SIZE), MASK)


def test_several_organs_without_a_lung_are_unclear(tmp_path):
    source = radiograph(tmp_path / "x")
    segmentation(tmp_path / "seg", source, np.stack([OTHER, MASK], -1), (HEART, HEART))
    assert look(tmp_path).skipped == {Reason.UNCLEAR_MASK: 1}


def test_a_programs_mask_is_not_the_truth_unless_said_so(tmp_path):
    source = radiograph(tmp_path / "x")
    segmentation(tmp_path / "seg", source, MASK, kind="AUTOMATIC")
    export = look(tmp_path)
    assert (export.masks, dict(export.skipped)) == (0, {Reason.AUTOMATIC_MASK: 1})
    assert look(tmp_path, automatic_masks=True).masks == 1


@pytest.mark.parametrize("organ", [LUNG, HEART], ids=["lung", "heart"])
@pytest.mark.parametrize("form", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_every_form_of_segmentation_is_read(tmp_path, form, organ):
    source = radiograph(tmp_path / "x")
    segmentation(tmp_path / "seg", source, MASK if form != "FRACTIONAL" else MASK * 0.4 + 0.3, (organ,), form=form)
    assert np.array_equal(only(tmp_path).truth(SIZE), MASK)


def test_two_masks_of_an_image_and_a_mask_of_none_are_counted(tmp_path):
    source = radiograph(tmp_path / "x")
    for name in ("one", "two"):
        segmentation(tmp_path / name, source, MASK)
    gone = radiograph(tmp_path / "gone", seed=1)
    segmentation(tmp_path / "three", gone, MASK)
    (tmp_path / "gone").unlink()
    export = look(tmp_path)
    assert (export.masks, dict(export.skipped)) == (0, {Reason.UNCLEAR_MASK: 2, Reason.STRANGE_MASK: 1})


@pytest.mark.parametrize("ending", [".truth.png", ".truth.nii.gz"])
@pytest.mark.parametrize("name", ["x.dcm", "IM0001"])
def test_a_mask_may_lie_beside_its_image(tmp_path, ending, name):
    radiograph(tmp_path / name)
    path = tmp_path / (name.removesuffix(".dcm") + ending)
    if ending.endswith("png"):
        Image.fromarray(MASK).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(MASK.T.astype(np.uint8), np.eye(4)), path)
    assert np.array_equal(only(tmp_path).truth(SIZE), MASK)
    assert not look(tmp_path).skipped


def test_a_mask_of_another_size_is_said_without_a_path(tmp_path):
    source = radiograph(tmp_path / "DOE" / "x")
    segmentation(tmp_path / "DOE" / "seg", source, MASK)
    with pytest.raises(MaskMismatch, match=r"^the mask of file 2 .* is 48x40 pixels, its image 9x9") as caught:
        only(tmp_path).truth((9, 9))
    assert "DOE" not in str(caught.value)

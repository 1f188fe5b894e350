"""Nothing that says who a patient is leaves the reader: not in a table, a log, a picture, a file name or the text of an error."""

from __future__ import annotations

import json
import logging
import secrets
import traceback
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from dicom_samples import SECRETS, SIZE, compressed, document, radiograph, segmentation
from hypothesis import given, settings
from hypothesis import strategies as st

from fed_node.cli.data import data
from fed_node.data.export_rules import ExportRules
from fed_node.data.identifiers import Pseudonyms
from fed_node.data.pacs_export import export_dataset, survey_export
from fed_node.data.reading import read_image, read_mask
from fed_node.data.segmentation_write import Algorithm, segmentation_bytes
from fed_node.data.site import SiteData
from fed_node.events import DataRead
from fed_node.log import event_log
from fed_node.student.mask_files import MAKERS, Predicted
from fed_node.student_trainer import StudentTrainer
from fedmentor.errors import DataError
from fedmentor.ids import Digest, SiteId

KEY = Pseudonyms(b"k" * 32)
MASK = np.zeros(SIZE, bool)
MASK[5:30, 6:20] = True
DIGEST = Digest("ab" * 32)
PATIENTS = [f"MRN-{90000 + number}" for number in range(6)]
WORDS = {"Zebrowski", "Quentin", "Okonjo", "Vandermeer", "Quagga", "lighthouse", "Mungo", "MUNGO"}
DAMAGED = b"SECRET99"


def damage(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


@pytest.fixture
def export(tmp_path):
    """Good and bad objects in folders and files that are named after people, and all that must not be seen."""
    folder = tmp_path / "export"
    hidden = {*WORDS, *SECRETS.values(), *PATIENTS, DAMAGED.decode()}
    for number, patient in enumerate(PATIENTS):
        place = folder / f"{patient}_Zebrowski" / f"1.2.826.{number}"
        source = radiograph(place, patient, number)
        segmentation(place.with_name("seg"), source, MASK)
        hidden |= {str(source[name].value) for name in source.dir("InstanceUID", "FrameOfReferenceUID")}
    wrong = folder / "Quentin"
    radiograph(wrong / "date", PATIENTS[0])
    damage(wrong / "date", b"20191104", DAMAGED)
    radiograph(wrong / "uid", PATIENTS[0], StudyInstanceUID="1.2.3.44556677")
    damage(wrong / "uid", b"1.2.3.44556677", DAMAGED + b".12345")
    radiograph(wrong / "window", PATIENTS[1], 7, WindowCenter="1234.678", WindowWidth="100")
    damage(wrong / "window", b"1234.678", DAMAGED)
    radiograph(wrong / "frames", PATIENTS[1], NumberOfFrames="12345678")
    damage(wrong / "frames", b"12345678", DAMAGED)
    radiograph(wrong / "cut", PATIENTS[2], 8)
    (wrong / "cut").write_bytes((wrong / "cut").read_bytes()[:-999])
    radiograph(wrong / "plain", PATIENTS[3], 9)
    compressed(wrong / "plain", wrong / "noise", "JPEGLosslessProcess14_1")
    (wrong / "noise").write_bytes((wrong / "noise").read_bytes()[:-1500] + b"\x5a" * 1500)
    other = segmentation(wrong / "small", radiograph(wrong / "whole", PATIENTS[4], 10), MASK)
    other.Rows, other.Columns = 20, 24
    other.save_as(wrong / "small")
    document(wrong / "report", "SR")
    return folder, hidden


def errors_of(work) -> list[str]:
    """All that an error would say, in a log with tracebacks too."""
    try:
        work()
    except DataError as error:
        return [str(error), repr(error), *traceback.format_exception(error)]
    return []


@pytest.mark.filterwarnings("default")
def test_nothing_that_identifies_leaves_the_reader(export, caplog, capfd):
    folder, hidden = export
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        survey = survey_export(folder, KEY, ExportRules())
        dataset = export_dataset(folder, survey, KEY, 0.5)
        seen += [repr(survey), survey.left_out, repr(list(dataset))]
        broken = 0
        for sample in dataset:
            seen += [sample.id, sample.patient_id, json.dumps(dict(sample.metadata)), str(sample.label)]
            said = errors_of(sample.pixels) + errors_of(lambda sample=sample: sample.truth(SIZE))
            broken += bool(said)
            seen += said
        assert broken >= 3
        trainer = StudentTrainer(SiteData(dataset, survey), SiteId("north"), 1)
        event_log("north")(DataRead(*trainer.images, len(trainer.patients), trainer.left_out))
        for arguments in (["check", str(folder)], ["check", str(folder), "--json"]):
            result = CliRunner().invoke(data, arguments)
            seen += [result.stdout, result.stderr]
        for form in ("png", "nifti"):
            made = MAKERS[form](Predicted(dataset[0].image, MASK, "sm-lite-v1", DIGEST))
            seen.append(made.decode("latin-1"))
    captured = capfd.readouterr()
    assert "left_out" in captured.err
    seen += [captured.out, captured.err, caplog.text, *(str(item.message) for item in warned), *trainer.patients]
    everything = "\n".join(seen)
    assert {word for word in hidden if word in everything} == set()


def test_errors_about_a_single_file_name_the_file_and_quote_nothing(export, tmp_path, capfd):
    folder, hidden = export
    said, count, algorithm = [], 0, Algorithm("sm-lite-v1", DIGEST)
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if not path.is_file():
            continue
        plain = tmp_path / f"scan{number}"
        plain.write_bytes(path.read_bytes())
        for work in (
            lambda plain=plain: read_image(plain),
            lambda plain=plain: read_mask(plain, SIZE, plain),
            lambda plain=plain: segmentation_bytes(plain, MASK, algorithm),
        ):
            found = errors_of(work)
            count += bool(found)
            assert not found or plain.name in found[0]
            said += found
    assert count > 20
    captured = capfd.readouterr()
    everything = "\n".join([*said, captured.out, captured.err])
    assert {word for word in hidden if word in everything} == set()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(132, 1500), st.binary(min_size=1, max_size=6)), min_size=1, max_size=12))
def test_a_mangled_header_says_nothing_either(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("mangled")
    radiograph(folder / "a", "MRN-90000")
    content = bytearray((folder / "a").read_bytes())
    for place, noise in changes:
        content[place : place + len(noise)] = noise
    (folder / "a").write_bytes(content)
    survey = survey_export(folder, KEY, ExportRules())
    said = [repr(survey), survey.left_out, *errors_of(lambda: read_image(folder / "a"))]
    everything = "\n".join(said)
    assert {word for word in {*WORDS, *SECRETS.values(), "MRN-90000"} if word in everything} == set()


def test_a_key_is_not_printed():
    key = secrets.token_bytes(32)
    assert key.hex() not in repr(Pseudonyms(key))
    assert repr(key) not in repr(Pseudonyms(key))


def test_the_reader_reads_what_a_segmentation_for_the_pacs_must_carry(tmp_path):
    """The one exception: the object that goes back to the PACS is about the patient."""
    source = radiograph(tmp_path / "x", "MRN-1")
    (tmp_path / "seg").write_bytes(segmentation_bytes(tmp_path / "x", MASK, Algorithm("sm-lite-v1", DIGEST)))
    assert pydicom.dcmread(tmp_path / "seg").PatientName == source.PatientName

"""A folder with one fault of every kind, and each is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fed_node.cli.data import data
from fed_node.data.check import check_dataset
from fed_node.data.folder import building
from fedmentor.errors import MissingMetadata

COLUMNS = ("id", "patient_id", "age")


@pytest.fixture
def folder(tmp_path):
    """Six good images of three patients."""
    rng = np.random.default_rng(0)
    with building(tmp_path / "d", COLUMNS) as builder:
        for number in range(6):
            image = rng.integers(0, 255, (20, 24), np.uint8)
            builder.add({"id": f"x{number}", "patient_id": f"p{number // 2}", "age": "50"}, image, image > 99)
    return tmp_path / "d"


def found(folder, **options):
    return {(finding.file, finding.code) for finding in check_dataset(folder, **options).findings}


def save(path, values):
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


def test_a_good_folder_has_no_findings(folder):
    report = check_dataset(folder)
    assert report.good
    assert (report.images, report.masks, report.patients) == (6, 6, 3)
    assert "column 'sex' is absent" in report.notes


def test_every_fault_is_named(folder):
    (folder / "images/x0.png").write_bytes(b"no image")
    save(folder / "masks/x1.png", np.zeros((18, 18)))
    save(folder / "masks/x2.png", np.arange(480).reshape(20, 24) % 200)
    save(folder / "masks/x3.png", np.zeros((20, 24)))
    (folder / "images/x4.png").unlink()
    (folder / "masks/x5.png").write_bytes((folder / "masks/x5.png").read_bytes()[:60])
    save(folder / "images/stray.png", np.ones((20, 24)))
    save(folder / "masks/stray.png", np.ones((20, 24)))
    (folder / "images/notes.txt").write_text("x")
    assert found(folder) == {
        ("images/x0.png", "unreadable"),
        ("masks/x1.png", "mask-size"),
        ("masks/x2.png", "mask-not-binary"),
        ("masks/x3.png", "empty-mask"),
        ("images/x4", "missing-image"),
        ("masks/x5.png", "unreadable"),
        ("images/stray.png", "no-row"),
        ("masks/stray.png", "no-row"),
        ("images/notes.txt", "unknown-format"),
    }


def test_the_same_pixels_are_bad_under_two_patients_only(folder):
    (folder / "images/x1.png").write_bytes((folder / "images/x0.png").read_bytes())
    assert check_dataset(folder).good
    (folder / "images/x5.png").write_bytes((folder / "images/x0.png").read_bytes())
    assert ("images/x5.png", "duplicate-pixels") in found(folder)


def test_faults_of_the_table_are_named(folder):
    table = folder / "metadata.csv"
    table.write_text(table.read_text() + "x0,p0,50\n../x,p0,50\n")
    assert found(folder, required=["view"]) == {
        ("metadata.csv", "missing-column"),
        ("metadata.csv", "duplicate-id"),
        ("metadata.csv", "bad-id"),
    }


def test_a_folder_without_usable_images_is_bad(folder):
    (folder / "metadata.csv").write_text("name\nx\n")
    assert {("metadata.csv", "missing-column"), ("metadata.csv", "empty")} <= found(folder)


def test_two_files_of_one_id_are_named(folder):
    save(folder / "images/x0.jpg", np.ones((20, 24)))
    assert ("images/x0", "duplicate-file") in found(folder)


def test_a_missing_mask_is_a_note_not_a_fault(folder):
    (folder / "masks/x0.png").unlink()
    report = check_dataset(folder)
    assert report.good
    assert report.masks == 5
    assert any("distilled from" in note for note in report.notes)


def test_no_table_is_an_error(tmp_path):
    with pytest.raises(MissingMetadata):
        check_dataset(tmp_path)


def test_the_command_prints_each_file_and_leaves_with_3(folder):
    (folder / "images/x0.png").write_bytes(b"no image")
    result = CliRunner().invoke(data, ["check", str(folder)])
    assert result.exit_code == 3
    assert "images/x0.png" in result.stdout
    assert "unreadable" in result.stdout


def test_the_command_speaks_json(folder):
    result = CliRunner().invoke(data, ["check", str(folder), "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["good"] is True
    assert report["images"] == 6

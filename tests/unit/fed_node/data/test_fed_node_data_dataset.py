"""Opening, slicing, naming and copying dataset folders."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from fed_node.data.check import check_dataset
from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, TRAIN, open_dataset
from fed_node.data.export import write_subset
from fed_node.data.folder import MARK_FILE, building
from fed_node.data.table import read_table
from fedmentor.cli import run as run_command
from fedmentor.errors import ConfigError, DataError, EmptyDataset, MaskMismatch, MissingMetadata, UnreadableImage

COLUMNS = ("id", "patient_id", "age")


def make(folder, rows=(("b", "p1", "40"), ("a", "p1", ""), ("c", "", "7"))):
    with building(folder, COLUMNS) as builder:
        for number, row in enumerate(rows):
            image = np.full((20, 24), 10 * number, np.uint8)
            builder.add(dict(zip(COLUMNS, row, strict=True)), image, image > 5)
    return folder


def test_samples_come_sorted_with_their_metadata(tmp_path):
    dataset = open_dataset(make(tmp_path / "d"))
    assert [sample.id for sample in dataset] == ["a", "b", "c"]
    assert dataset.patients == 2
    assert dataset[1].metadata == {"id": "b", "patient_id": "p1", "age": "40"}


def test_an_image_without_a_patient_is_its_own_patient(tmp_path):
    assert open_dataset(make(tmp_path / "d"))[2].patient_id == "c"


def test_pixels_and_truth_are_read_when_asked_for(tmp_path):
    sample = open_dataset(make(tmp_path / "d"))[0]
    assert np.all(sample.pixels() == 10)
    assert np.all(sample.truth((20, 24)))


def test_a_sample_without_a_mask_has_no_truth(tmp_path):
    make(tmp_path / "d")
    (tmp_path / "d/masks/a.png").unlink()
    assert open_dataset(tmp_path / "d")[0].truth((20, 24)) is None


def test_slices_and_subsets_are_datasets(tmp_path):
    dataset = open_dataset(make(tmp_path / "d"))
    assert [sample.id for sample in dataset[1:]] == ["b", "c"]
    assert [sample.id for sample in dataset.subset(["c", "a"])] == ["a", "c"]
    assert [sample.id for sample in dataset.where("age", "7")] == ["c"]


def test_what_is_not_there_is_named(tmp_path):
    dataset = open_dataset(make(tmp_path / "d"))
    with pytest.raises(DataError, match="'nobody'"):
        dataset.subset(["nobody"])
    with pytest.raises(MissingMetadata, match="'view'") as caught:
        dataset.where("view", "PA")
    assert "patient_id" in caught.value.cure
    with pytest.raises(EmptyDataset, match="age = '99'"):
        dataset.where("age", "99")


def test_the_fingerprint_names_the_content_only(tmp_path):
    first = open_dataset(make(tmp_path / "d")).fingerprint()
    moved = (tmp_path / "d").rename(tmp_path / "e")
    Image.open(moved / "images/a.png").save(moved / "images/a.png", compress_level=0)
    assert open_dataset(moved).fingerprint() == first
    Image.fromarray(np.full((20, 24), 11, np.uint8)).save(moved / "images/a.png")
    assert open_dataset(moved).fingerprint() != first


def test_the_fingerprint_covers_masks(tmp_path):
    first = open_dataset(make(tmp_path / "d")).fingerprint()
    (tmp_path / "d/masks/a.png").unlink()
    assert open_dataset(tmp_path / "d").fingerprint() != first


def test_no_folder_no_table_no_rows_no_id(tmp_path):
    with pytest.raises(EmptyDataset, match="not a folder"):
        open_dataset(tmp_path / "none")
    with pytest.raises(MissingMetadata, match=r"metadata\.csv"):
        open_dataset(tmp_path)
    (tmp_path / "metadata.csv").write_text("name\nx\n")
    with pytest.raises(MissingMetadata, match="'id'"):
        open_dataset(tmp_path)
    (tmp_path / "metadata.csv").write_text("id\n")
    with pytest.raises(EmptyDataset, match="no rows"):
        open_dataset(tmp_path)


def test_a_row_without_an_image_and_an_id_with_two_are_named(tmp_path):
    make(tmp_path / "d")
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "d/images/a.jpg")
    with pytest.raises(UnreadableImage, match=r"a\.png and a\.jpg"):
        open_dataset(tmp_path / "d")
    for file in (tmp_path / "d/images").glob("a.*"):
        file.unlink()
    with pytest.raises(UnreadableImage, match="'a'"):
        open_dataset(tmp_path / "d")


def test_an_id_twice_and_an_id_that_is_a_path_are_refused(tmp_path):
    make(tmp_path / "d")
    table = tmp_path / "d/metadata.csv"
    table.write_text("id\na\na\n")
    with pytest.raises(DataError, match="twice"):
        open_dataset(tmp_path / "d")
    table.write_text("id\n../../etc/passwd\n")
    with pytest.raises(DataError, match="not an image id"):
        open_dataset(tmp_path / "d")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"id,id\n1,2\n", b"id,age\n1\n", b"id,age\n1,2,3\n", b'id\n"broken\n'])
def test_a_malformed_table_is_refused(tmp_path, content):
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(MissingMetadata, match=r"metadata\.csv"):
        read_table(tmp_path / "metadata.csv")


def test_a_table_from_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "metadata.csv").write_bytes('\ufeffid,location\r\nx, "Málaga, Spain"\r\n'.replace(", ", ",").encode())
    assert read_table(tmp_path / "metadata.csv").rows == ({"id": "x", "location": "Málaga,Spain"},)


def test_a_failed_build_leaves_the_old_folder_and_no_trace(tmp_path):
    before = open_dataset(make(tmp_path / "d")).fingerprint()
    with pytest.raises(DataError, match="not an image id"):
        make(tmp_path / "d", rows=(("z", "", ""), ("not/a/name", "", "")))
    assert open_dataset(tmp_path / "d").fingerprint() == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_second_build_replaces_the_first(tmp_path):
    make(tmp_path / "d")
    make(tmp_path / "d", rows=(("only", "", ""),))
    assert [sample.id for sample in open_dataset(tmp_path / "d")] == ["only"]
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_with_other_things_in_it_is_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not a dataset folder"):
        make(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_the_working_folder_is_never_moved_away(tmp_path, monkeypatch):
    make(tmp_path / "d")
    monkeypatch.chdir(tmp_path / "d")
    with pytest.raises(ConfigError, match="the working folder"):
        make(tmp_path / "d", rows=(("only", "", ""),))
    assert len(open_dataset(tmp_path / "d")) > 1


def test_an_id_is_written_once(tmp_path):
    with pytest.raises(ConfigError, match="twice"):
        make(tmp_path / "d", rows=(("a", "", ""), ("a", "", "")))


def test_a_subset_is_a_dataset_with_a_split(tmp_path):
    make(tmp_path / "d")
    (tmp_path / "d/masks/c.png").unlink()
    dataset = open_dataset(tmp_path / "d")
    write_subset(dataset, ["a", "c"], tmp_path / "site", held_out=["c"])
    site = open_dataset(tmp_path / "site")
    assert {sample.id: sample.metadata[SPLIT_COLUMN] for sample in site} == {"a": TRAIN, "c": HELD_OUT}
    assert site.columns == (*COLUMNS, SPLIT_COLUMN)
    assert np.array_equal(site[0].pixels(), dataset[0].pixels())


def test_a_subset_of_a_subset_has_one_split_column(tmp_path):
    write_subset(open_dataset(make(tmp_path / "d")), ["a", "b"], tmp_path / "one")
    write_subset(open_dataset(tmp_path / "one"), ["a"], tmp_path / "two", held_out=["a"])
    assert open_dataset(tmp_path / "two").columns.count(SPLIT_COLUMN) == 1


def test_a_dataset_is_not_exported_onto_itself(tmp_path):
    dataset = open_dataset(make(tmp_path / "d"))
    with pytest.raises(ConfigError, match="holds the images"):
        write_subset(dataset, ["a"], tmp_path / "d")
    assert len(open_dataset(tmp_path / "d")) == 3


def test_held_out_ids_must_be_written(tmp_path):
    with pytest.raises(ConfigError, match="among"):
        write_subset(open_dataset(make(tmp_path / "d")), ["a"], tmp_path / "s", held_out=["b"])


def test_a_dataset_that_somebody_else_made_is_not_replaced(tmp_path):
    make(tmp_path / "theirs")
    (tmp_path / "theirs" / MARK_FILE).unlink()
    before = open_dataset(tmp_path / "theirs").fingerprint()
    with pytest.raises(ConfigError, match="did not make"):
        make(tmp_path / "theirs")
    assert run_command(["data", "phantoms", "--out", str(tmp_path / "theirs"), "--count", "1", "--side", "64"]) == 3
    assert open_dataset(tmp_path / "theirs").fingerprint() == before
    assert run_command(["data", "phantoms", "--out", str(tmp_path / "theirs"), "--count", "1", "--side", "64", "--replace"]) == 0
    assert len(open_dataset(tmp_path / "theirs")) == 1


def test_one_mask_an_image_in_any_form(tmp_path):
    make(tmp_path / "d")
    mask = tmp_path / "d" / "masks" / "a.png"
    truth = open_dataset(tmp_path / "d")[0].truth((20, 24))
    nibabel.save(nibabel.Nifti1Image(truth.T.astype(np.uint8), np.eye(4)), mask.with_name("a.nii.gz"))
    with pytest.raises(MaskMismatch, match=r"a\.png and a\.nii\.gz are masks of the same image"):
        open_dataset(tmp_path / "d")
    assert ("masks/a", "duplicate-file") in {(one.file, one.code) for one in check_dataset(tmp_path / "d").findings}
    mask.unlink()
    assert np.array_equal(open_dataset(tmp_path / "d")[0].truth((20, 24)), truth)
    assert {one.file for one in check_dataset(tmp_path / "d").findings} == {"masks/b.png"}  # empty, as it was

"""Importing the two public sources: polygons, rules, and equality with a folder that was made elsewhere."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fed_node.cli.data import data
from fed_node.data.covid_cxr import COLUMNS, NEEDED, Sources, import_covid_cxr, licence_allowed
from fed_node.data.darwin import rasterise, read_annotation
from fed_node.data.dataset import open_dataset
from fedmentor.errors import DataError, EmptyDataset, MissingMetadata

REAL = Path(os.environ.get("FEDMENTOR_DATA", Path(__file__).parents[5] / "shared/data"))
SQUARE = [(10, 10), (49, 10), (49, 49), (10, 49)]
HOLE = [(20, 20), (39, 20), (39, 39), (20, 39)]


def path(points):
    return [{"x": x, "y": y} for x, y in points]


def darwin(*annotations, name="a.png", size=(80, 60)):
    image = {"height": size[0], "width": size[1], "filename": "1.png", "original_filename": name}
    return {"dataset": "made up", "image": image, "annotations": list(annotations)}


def lung(points=SQUARE, name="Lung", **extra):
    return {"name": name, "polygon": {"path": path(points), **extra}}


def read(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_annotation(tmp_path / "a.json", "Lung")


@pytest.fixture
def sources(tmp_path):
    """Two good images; tests change what they are about."""
    folder = tmp_path / "raw"
    for name in ("annotations", "images"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in (1, 2):
        Image.fromarray(rng.integers(0, 255, (80, 60, 3), np.uint8)).save(folder / f"images/a{number}.png")
        (folder / f"annotations/{number}.json").write_text(json.dumps(darwin(lung(), name=f"a{number}.png")))
    write_rows(folder, [row(1), row(2)])
    return Sources(folder / "annotations", folder / "images", folder / "metadata.csv")


def row(number, **changes):
    plain = dict.fromkeys(NEEDED, "")
    known = {
        "patientid": f"{number}",
        "filename": f"a{number}.png",
        "modality": "X-ray",
        "view": "AP Supine",
        "license": "CC BY 4.0",
    }
    return {**plain, **known, **changes}


def write_rows(folder, rows):
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_polygon_is_filled_to_its_rim(tmp_path):
    mask = rasterise(read(tmp_path, darwin(lung())))
    expected = np.zeros((80, 60), np.bool_)
    expected[10:50, 10:50] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "annotation",
    [
        lung(additional_paths=[path(HOLE)]),
        {"name": "Lung", "complex_polygon": {"path": [path(SQUARE), path(HOLE)]}},
        {"name": "Lung", "polygon": {"paths": [path(SQUARE), path(HOLE)]}},
    ],
)
def test_an_outline_inside_an_outline_is_a_hole(tmp_path, annotation):
    mask = rasterise(read(tmp_path, darwin(annotation)))
    assert mask.sum() == 40 * 40 - 20 * 20
    assert not mask[30, 30]


def test_annotations_are_joined_and_other_names_are_left_out(tmp_path):
    far = [(52, 60), (58, 60), (58, 70), (52, 70)]
    mask = rasterise(read(tmp_path, darwin(lung(), lung(HOLE), lung(far), lung(far, name="Ignore"), {"name": "Lung", "tag": {}})))
    assert mask.sum() == 40 * 40 + 7 * 11


def test_a_version_2_file_is_read(tmp_path):
    item = {"name": "b.png", "slots": [{"height": 80, "width": 60, "source_files": [{"file_name": "a.png"}]}]}
    annotation = read(tmp_path, {"version": "2.0", "item": item, "annotations": [lung()]})
    assert (annotation.image_name, annotation.size, len(annotation.shapes)) == ("a.png", (80, 60), 1)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"image": {}, "annotations": []},
        darwin({"name": "Lung", "polygon": {"path": "x"}}),
        darwin(lung([(0, 0), (1, 1)])),
        darwin(lung([(0, 0), (1, 1), (1e300, 5)])),
        darwin(lung([(0, 0), (1, 1), (float("nan"), 5)])),
        darwin(lung(), size=(90_000, 90_000)),
    ],
)
def test_a_malformed_annotation_is_refused_by_name(tmp_path, content):
    with pytest.raises(DataError, match=r"a\.json"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("CC BY", True),
        ("CC BY 4.0", True),
        ("cc by-nc-sa 4.0", True),
        ("listed as authorized for everyone", True),
        ("CC BY-NC-ND 4.0", False),
        ("CC BY-NC", False),
        ("", False),
    ],
)
def test_licences_are_families_of_versions(licence, allowed):
    assert licence_allowed(licence, ("CC BY", "CC BY-NC-SA", "listed as authorized for everyone")) is allowed


def test_an_import_makes_a_dataset(sources, tmp_path):
    report = import_covid_cxr(sources, tmp_path / "out", side=64)
    dataset = open_dataset(tmp_path / "out")
    assert (report.written, report.skipped) == (2, ())
    assert dataset.columns == COLUMNS
    assert dataset[0].metadata["view"] == "AP_Supine"
    assert (dataset[0].metadata["source_width"], dataset[0].metadata["source_height"]) == ("60", "80")
    assert dataset[0].pixels().shape == (64, 64)
    assert dataset[0].truth((64, 64)).mean() == pytest.approx(40 * 40 / (80 * 60), abs=0.02)


def test_a_second_import_gives_the_same(sources, tmp_path):
    import_covid_cxr(sources, tmp_path / "out", side=64)
    first = open_dataset(tmp_path / "out").fingerprint()
    import_covid_cxr(sources, tmp_path / "out", side=64)
    assert open_dataset(tmp_path / "out").fingerprint() == first
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "raw"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"view": "L"}, "not a frontal view"),
        ({"modality": "CT"}, "not an X-ray"),
        ({"license": "CC BY-NC-ND"}, "licence"),
        ({"filename": "other.png"}, "no row"),
    ],
)
def test_what_the_table_rules_out_is_skipped_with_the_reason(sources, tmp_path, changes, reason):
    write_rows(sources.metadata.parent, [row(1), row(2, **changes)])
    report = import_covid_cxr(sources, tmp_path / "out")
    assert report.written == 1
    assert [(item.file, reason in item.reason) for item in report.skipped] == [("2.json", True)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (darwin(name="a2.png"), "no 'Lung' outline"),
        (darwin(lung(), name="a2.png", size=(80, 61)), "was drawn on 61x80"),
        (darwin(lung([(200, 200), (300, 200), (300, 300)]), name="a2.png"), "enclose nothing"),
        (darwin(lung(), name="../a2.png"), "no row"),
    ],
)
def test_what_the_annotation_rules_out_is_skipped_with_the_reason(sources, tmp_path, content, reason):
    (sources.annotations / "2.json").write_text(json.dumps(content))
    report = import_covid_cxr(sources, tmp_path / "out")
    assert [(item.file, reason in item.reason) for item in report.skipped] == [("2.json", True)]


def test_a_name_that_leaves_the_folder_is_not_followed(sources, tmp_path):
    write_rows(sources.metadata.parent, [row(1), row(2, filename="../images/a2.png")])
    (sources.annotations / "2.json").write_text(json.dumps(darwin(lung(), name="../images/a2.png")))
    report = import_covid_cxr(sources, tmp_path / "out")
    assert "not a plain file name" in report.skipped[0].reason


def test_a_broken_image_is_skipped(sources, tmp_path):
    (sources.images / "a2.png").write_bytes(b"broken")
    report = import_covid_cxr(sources, tmp_path / "out")
    assert "a2.png is not a PNG or JPEG image" in report.skipped[0].reason


def test_nothing_to_import_leaves_what_was_there(sources, tmp_path):
    import_covid_cxr(sources, tmp_path / "out")
    with pytest.raises(EmptyDataset, match="none of 2"):
        import_covid_cxr(sources, tmp_path / "out", licences=["CC0"])
    assert len(open_dataset(tmp_path / "out")) == 2


def test_a_table_without_a_column_is_refused(sources, tmp_path):
    sources.metadata.write_text("patientid,filename\n1,a1.png\n")
    with pytest.raises(MissingMetadata, match="'age'"):
        import_covid_cxr(sources, tmp_path / "out")


def test_the_command_names_what_it_skips(sources, tmp_path):
    write_rows(sources.metadata.parent, [row(1), row(2, view="L")])
    arguments = ["--annotations", sources.annotations, "--images", sources.images, "--metadata", sources.metadata]
    result = CliRunner().invoke(data, ["import", "covid-cxr", *map(str, arguments), "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["written"] == 1
    assert report["skipped"][0]["file"] == "2.json"


@pytest.mark.skipif(not (REAL / "covid-cxr-raw").is_dir(), reason="needs covid-cxr-raw and covid-cxr under FEDMENTOR_DATA")
def test_the_real_sample_becomes_the_real_dataset_pixel_for_pixel(tmp_path):
    raw = REAL / "covid-cxr-raw"
    report = import_covid_cxr(Sources(raw / "annotations", raw / "images", raw / "metadata.csv"), tmp_path / "out")
    made = open_dataset(tmp_path / "out")
    known = open_dataset(REAL / "covid-cxr").subset([sample.id for sample in made])
    assert (report.written, report.skipped) == (6, ())
    assert made.fingerprint() == known.fingerprint()
    assert [sample.metadata for sample in made] == [sample.metadata for sample in known]

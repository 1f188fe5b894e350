"""``fedmentor distil`` and ``fedmentor predict`` on small folders, as a person calls them."""

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fed_node.cli.distil import distil
from fed_node.cli.predict import ENDINGS, _stem, predict
from fed_node.data.reading import read_mask
from fed_node.student.distil import DistilConfig
from fed_node.student.mask_files import MAKERS
from fed_node.student.picture import mask_png
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.errors import ConfigError, ModelError, TeacherUnreachable, WrongArchitecture
from fedmentor.models import ModelRecord, digest_of, load_model, save_model
from fedmentor.teacher.cache import default_cache


@pytest.fixture
def dataset(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in range(3):
        Image.fromarray(random.integers(0, 256, (60, 70), np.uint8)).save(folder / "images" / f"x{number}.png")
    (folder / "metadata.csv").write_text("id\nx0\nx1\nx2\n")
    return folder


@pytest.fixture
def analytic_teacher(monkeypatch):
    """What a teacher service would register at installation."""
    found = EntryPoints([EntryPoint("local", "fedmentor.testing.teacher:AnalyticTeacher", "fedmentor.teachers")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_names: found)


@pytest.fixture
def model(tmp_path):
    tensors = student_tensors(new_student(0))
    save_model(tmp_path / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors)))
    return tmp_path / "model"


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def quick(dataset, tmp_path, *more):
    options = ("--out", tmp_path / "student", "--cache", tmp_path / "cache", "--epochs", 1, "--local-teacher", *more)
    return run(distil, dataset, *options)


@pytest.mark.usefixtures("analytic_teacher")
def test_distil_writes_a_model_and_the_second_run_asks_nobody(dataset, tmp_path):
    first = quick(dataset, tmp_path)
    assert first.exit_code == 0
    assert "3 asked for, 0 from the cache" in first.stdout
    assert "labels: 3 of 3" in first.stderr
    _, record = load_model(tmp_path / "student")
    second = quick(dataset, tmp_path, "--json")
    assert json.loads(second.stdout) == record.model_dump(mode="json")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 3


@pytest.mark.usefixtures("analytic_teacher")
@pytest.mark.parametrize("option", [("--alpha", "1.5"), ("--temperature", "0"), ("--epochs", "0"), ("--failure-limit", "2")])
def test_an_option_out_of_range_is_named(dataset, tmp_path, option):
    with pytest.raises(ConfigError, match=option[0]):
        quick(dataset, tmp_path, *option)


@pytest.mark.usefixtures("analytic_teacher")
@pytest.mark.parametrize("more", [("--teacher-url", "http://127.0.0.1:9"), ("--state", "teacher.json")])
def test_two_teachers_are_a_usage_error(dataset, tmp_path, more):
    assert quick(dataset, tmp_path, *more).exit_code == 2


@pytest.mark.usefixtures("analytic_teacher")
def test_a_certificate_without_a_url_is_a_usage_error(dataset, tmp_path):
    (tmp_path / "ca.pem").touch()
    result = quick(dataset, tmp_path, "--ca-file", tmp_path / "ca.pem")
    assert result.exit_code == 2
    assert "--ca-file is for" in result.stderr


def test_without_a_running_teacher_nothing_is_written(dataset, tmp_path):
    with pytest.raises(TeacherUnreachable):
        run(distil, dataset, "--out", tmp_path / "student", "--state", tmp_path / "teacher.json")
    assert not (tmp_path / "student").exists()


def test_without_an_installed_teacher_the_cure_is_named(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_names: EntryPoints())
    with pytest.raises(ConfigError, match="installed"):
        quick(dataset, tmp_path)


def test_the_cache_lies_where_caches_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "fedmentor" / "soft-labels"


def test_predict_writes_a_mask_of_the_images_size_and_an_enlarged_overlay(dataset, model, tmp_path):
    images = [dataset / "images" / f"x{number}.png" for number in range(2)]
    result = run(predict, model, *images, "--out", tmp_path / "out", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(image) for image in images]
    for line in lines:
        with Image.open(line["mask"]) as mask, Image.open(line["overlay"]) as overlay:
            assert (mask.mode, mask.size, overlay.mode, overlay.size) == ("L", (70, 60), "RGB", (490, 420))
            assert line["foreground"] == pytest.approx(np.mean(np.asarray(mask) == 255), abs=1e-4)
        assert 0.5 <= line["confidence"] <= 1


def test_predict_refuses_two_images_of_one_name(dataset, model, tmp_path):
    image = dataset / "images" / "x0.png"
    with pytest.raises(ConfigError, match="x0"):
        run(predict, model, image, image, "--out", tmp_path / "out")


def predict_all(*arguments):
    """Exit code, lines on standard output and on standard error, as the whole program gives them."""
    code = "import sys; from fedmentor.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_predict_goes_on_after_a_bad_image_and_says_so_at_the_end(dataset, model, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = [dataset / "images" / "x0.png", tmp_path / "bad.png", dataset / "images" / "x1.png"]
    code, said, errors = predict_all(model, *images, "--out", tmp_path / "out", "--json")
    assert code == 3
    assert [sorted(json.loads(line)) for line in said] == [
        ["confidence", "foreground", "image", "mask", "overlay"],
        ["cure", "error", "image"],
        ["confidence", "foreground", "image", "mask", "overlay"],
    ]
    assert "bad.png is not a PNG or JPEG image" in json.loads(said[1])["error"]
    assert errors[-3] == "1 of 3 images could not be used"
    assert errors[-2].startswith(f"error: {tmp_path / 'bad.png'} is not a PNG or JPEG image")
    assert errors[-1].startswith("  try: ")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.{kind}.png" for name in ("x0", "x1") for kind in ("mask", "overlay")
    ]


def test_predict_writes_nifti_with_the_geometry_of_a_nifti_image(model, tmp_path):
    affine = np.diag([0.2, 0.3, 1.0, 1.0])
    image = nibabel.Nifti1Image(np.random.default_rng(0).integers(0, 255, (70, 60, 1)).astype(np.int16), affine)
    nibabel.save(image, tmp_path / "a.nii")
    written = []
    for name in ("one", "two"):
        result = run(predict, model, tmp_path / "a.nii", "--out", tmp_path / name, "--format", "nifti", "--json")
        written.append(Path(json.loads(result.stdout)["mask"]))
    assert written[0].name == "a.mask.nii.gz"
    assert written[0].read_bytes() == written[1].read_bytes()
    mask = nibabel.load(written[0])
    assert (mask.shape, np.allclose(mask.affine, affine), mask.get_data_dtype()) == ((70, 60, 1), True, np.uint8)
    assert read_mask(written[0], (60, 70)).mean() == pytest.approx(json.loads(result.stdout)["foreground"], abs=1e-4)


def test_predict_refuses_a_segmentation_of_what_is_not_dicom(dataset, model, tmp_path):
    result = run(predict, model, dataset / "images" / "x0.png", "--out", tmp_path / "out", "--format", "seg")
    assert "is not DICOM" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_names_of_files_keep_all_of_a_uid():
    assert [_stem(Path(name)) for name in ("1.2.840.7", "1.2.840.8", "a.nii.gz", "b.JPG", "c.v2.dcm", ".png")] == [
        *("1.2.840.7", "1.2.840.8", "a", "b", "c.v2", ".png"),
    ]


def test_every_form_has_an_ending():
    assert list(ENDINGS) == list(MAKERS)


def test_predict_refuses_another_architecture_and_no_model(dataset, tmp_path):
    image = dataset / "images" / "x0.png"
    other = {"weight": np.zeros(3, np.float32)}
    save_model(tmp_path / "other", other, ModelRecord(architecture="other-v1", digest=digest_of(other)))
    with pytest.raises(WrongArchitecture, match="other-v1"):
        run(predict, tmp_path / "other", image, "--out", tmp_path / "out")
    with pytest.raises(ModelError):
        run(predict, dataset, image, "--out", tmp_path / "out")


def test_a_mask_picture_reads_back_as_the_mask(tmp_path):
    mask = np.zeros((20, 24), bool)
    mask[1:5, 1:6] = True
    (tmp_path / "mask.png").write_bytes(mask_png(mask))
    assert np.array_equal(read_mask(tmp_path / "mask.png", (20, 24)), mask)


@pytest.mark.parametrize("module", ["distil", "predict"])
def test_help_loads_no_torch(module):
    code = f"import sys; import fed_node.cli.{module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_defaults_in_the_help_are_those_of_the_config():
    for option in distil.params:
        said = re.search(r"\[default: ([\w.]+)\]", getattr(option, "help", None) or "")
        if said and option.name in DistilConfig.model_fields:
            value = DistilConfig.model_fields[option.name].default
            expected = (
                {True: "use"}.get(value, value) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
            )
            assert said[1] == str(expected), option.name

"""The main job as a person runs it: real TorchServe, real gRPC over mutual TLS, four node processes, small phantoms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest

from study.report.values import Report, load_report

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--phantoms", "28", "--rounds", "1", "--epochs", "2")


def demo(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedmentor", "demo", "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)


def below(folder: Path) -> list[str]:
    """Command lines of the processes that work in ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    done = demo(folder / "demo", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "random" in done.stdout
    assert "FM-instructed" in done.stdout
    return folder


@pytest.fixture
def report(first: Path) -> Report:
    return load_report(first / "demo" / "report.json")


def test_the_report_follows_its_schema_and_covers_both_starts(first, report):
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.validate(json.loads((first / "demo" / "report.json").read_text()), schema)
    assert [run.init for run in report.runs] == ["random", "fm-instructed"]
    for run in report.runs:
        assert [entry.round for entry in run.rounds] == [0, 1]
        assert set(run.rounds[0].sites) == {"site-1", "site-2", "site-3", "site-4"}
        assert run.rounds[1].bytes_up > 0
        assert all(0 <= entry.dice <= 1 for entry in run.rounds)
    assert report.runs[0].rounds[0].model_digest != report.runs[1].rounds[0].model_digest
    assert report.runs[1].rounds[0].model_digest == report.distil.model_digest
    assert report.distil.masks_used == 0


def test_the_page_shows_pictures_of_every_site(first, report):
    page = (first / "demo" / "report.html").read_text()
    assert {example.site for example in report.examples} == {"site-1", "site-2", "site-3", "site-4"}
    assert page.count("data:image/jpeg;base64") == sum(len(example.pictures) for example in report.examples)


def test_a_second_run_replaces_the_first_asks_the_teacher_nothing_new_and_ends_at_the_same_models(first, report):
    done = demo(first / "demo", *SMALL, "--json")
    assert done.returncode == 0, done.stderr
    again = Report.model_validate_json(done.stdout)
    assert again.distil.cache_hits == report.distil.images
    assert [run.final_model_digest for run in again.runs] == [run.final_model_digest for run in report.runs]
    assert not below(first)


def test_ctrl_c_stops_everything_that_was_started(tmp_path):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "fedmentor", "demo", "--out", str(out), *SMALL]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    # Wait until TorchServe answers, so that there is something to stop.
    while not (out / "teacher" / "teacher.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert not below(tmp_path)


def test_a_folder_that_no_study_wrote_is_left_alone(tmp_path):
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    done = demo(tmp_path, *SMALL)
    assert done.returncode == 3
    assert done.stderr.splitlines()[0].startswith("error: ")
    assert precious.read_text() == "years of work"


def test_a_dataset_with_a_corrupt_image_is_refused_by_name_before_anything_starts(tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "fedmentor", "data", "phantoms", "--out", str(tmp_path / "data"), "--count", "16", "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    victim = min((tmp_path / "data" / "images").iterdir())
    victim.write_bytes(victim.read_bytes()[:200])
    done = demo(tmp_path / "demo", "--data", str(tmp_path / "data"))
    assert done.returncode == 3
    assert victim.name in done.stderr
    assert "fedmentor data check" in done.stderr

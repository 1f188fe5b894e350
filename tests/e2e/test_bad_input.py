"""Bad input through the real command line: one clear line, a documented exit code, nothing lost, nothing half-written.

The folder is compared byte for byte before and after every refused command.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from federation_processes import FEDMENTOR
from PIL import Image

from fed_node.data.phantom import write_phantoms
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.errors import EXIT_BUG, EXIT_CONFIG, EXIT_INTERRUPTED, EXIT_PEER, EXIT_USAGE
from fedmentor.models import RECORD_FILE, ModelRecord, digest_of, save_model
from fedmentor.teacher.endpoint import STATE_FILE

pytestmark = pytest.mark.e2e

SITES = ("--site", "site-1", "--site", "site-2", "--site", "site-3")
COORDINATOR = ("--model", "model", "--state", "new", "--certificates", "new")
BOX = ("--box", "1,1,60,60")
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder, with a space and a letter that ASCII lacks in its name, full of things to trip over."""
    place = tmp_path_factory.mktemp("a röntgen archive")
    write_phantoms(place / "data", count=16, seed=0, side=64)
    first = min((place / "data" / "images").iterdir())
    (place / "a.png").write_bytes(first.read_bytes())
    (place / "cut.png").write_bytes(first.read_bytes()[:500])
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(place / "one.png")
    (place / "text.png").write_text("text")
    (place / "junk").write_bytes(np.random.default_rng(0).bytes(3000))
    (place / "key.json").write_text(json.dumps({"inference": {"key": "wrong"}}))
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter-1").write_text("years of work")
    os.mkfifo(place / "pipe.png")
    tensors = student_tensors(new_student(0))
    save_model(place / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors)))
    save_model(place / "other", tensors, ModelRecord(architecture="unet-9000", digest=digest_of(tensors)))
    save_model(place / "damaged", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors)))
    record = json.loads((place / "damaged" / RECORD_FILE).read_text())
    (place / "damaged" / RECORD_FILE).write_text(json.dumps(record | {"digest": "0" * 64}))
    done = fedmentor(place, "coordinator", "manifest", "--model", "model", *SITES, "--rounds", "1", "--out", "manifest.json")
    assert done.returncode == 0, done.stderr
    return place


def fedmentor(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command in ``place``."""
    env = {**os.environ, **environment}
    return subprocess.run(
        [*FEDMENTOR, *arguments], cwd=place, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def content(place: Path) -> dict[str, str]:
    """Every path below a folder, with the digest of what it holds."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(place.rglob("*"))
    }


def refused(done: subprocess.CompletedProcess[str], code: int, sentence: str) -> None:
    """One error line, at most one line with a cure after it, nothing on standard output."""
    lines = done.stderr.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert sentence in lines[errors[0]]
    assert [line[:7] for line in lines[errors[0] + 1 :]] in ([], ["  try: "]), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.returncode == code


REFUSALS = {
    "unknown command": (["nonsense"], EXIT_USAGE, "No such command"),
    "unknown option": (["data", "check", "data", "--nonsense"], EXIT_USAGE, "No such option"),
    "missing option": (["federation", "certificates", "--out", "new"], EXIT_USAGE, "Missing option '--site'"),
    "folder that is a file": (["data", "check", "a.png"], EXIT_USAGE, "is a file"),
    "check nowhere": (["data", "check", "nowhere", "--json"], EXIT_CONFIG, "nowhere is not a folder"),
    "check without a table": (["data", "check", "thesis"], EXIT_CONFIG, "metadata.csv is missing"),
    "phantoms below a file": (["data", "phantoms", "--out", "a.png/x", "--count", "1"], EXIT_CONFIG, "a.png"),
    "phantoms over a thesis": (["data", "phantoms", "--out", "thesis", "--count", "1"], EXIT_CONFIG, "not a dataset folder"),
    "phantoms over the working folder": (["data", "phantoms", "--out", ".", "--count", "1"], EXIT_CONFIG, "the working folder"),
    "no phantoms": (["data", "phantoms", "--out", "new", "--count", "0"], EXIT_CONFIG, "0 phantoms"),
    "a seed beyond all integers": (["data", "phantoms", "--out", "new", "--seed", "9" * 30], EXIT_USAGE, "is not in the range"),
    "site outside the folder": (["federation", "certificates", "--out", "new", "--site", "../x"], EXIT_CONFIG, "not a site name"),
    "certificates below a file": (["federation", "certificates", "--out", "a.png/x", "--site", "x"], EXIT_CONFIG, "a.png/x"),
    "split by an unknown column": (["study", "split", "data", "--out", "new", "--by", "ward"], EXIT_CONFIG, "'ward'"),
    "split with a share that is no number": (["study", "split", "data", "--out", "new", "--proxy", "nan"], EXIT_CONFIG, "--proxy"),
    "more sites than patients": (["study", "split", "data", "--out", "new", "--sites", "999"], EXIT_CONFIG, "cannot be parted"),
    "report that is none": (["study", "show", "junk", "--json"], EXIT_CONFIG, "junk is not a report"),
    "manifest for a model that is none": (
        ["coordinator", "manifest", "--model", "thesis", *SITES, "--rounds", "1", "--out", "new"],
        EXIT_CONFIG,
        "model.json cannot be read",
    ),
    "manifest that never ends": (
        ["coordinator", "manifest", "--model", "model", *SITES, "--rounds", "1", "--out", "new", "--collect-seconds", "inf"],
        EXIT_CONFIG,
        "collect_seconds",
    ),
    "coordinator on a port that does not exist": (
        ["coordinator", "run", *COORDINATOR, "--manifest", "manifest.json", "--listen", "x:99999"],
        EXIT_CONFIG,
        "expected HOST:PORT",
    ),
    "coordinator with a manifest that is none": (
        ["coordinator", "run", *COORDINATOR, "--manifest", "junk"],
        EXIT_CONFIG,
        "junk: the run manifest is wrong",
    ),
    "status of nothing": (["coordinator", "status", "--state", "thesis", "--json"], EXIT_CONFIG, "does not exist"),
    "node without certificates": (
        ["node", "run", "--site", "a", "--coordinator", "x:1", "--certificates", "thesis", "--data", "data", "--state", "new"],
        EXIT_CONFIG,
        "cannot be read",
    ),
    "node with settings that are none": (["node", "run", "--config", "junk"], EXIT_CONFIG, "TOML"),
    "query without a teacher": (["teacher", "query", "a.png", *BOX, "--json"], EXIT_PEER, "no teacher is running"),
    "query of no picture": (["teacher", "query", "text.png", *BOX], EXIT_CONFIG, "not a PNG or JPEG"),
    "query of half a picture": (["teacher", "query", "cut.png", *BOX], EXIT_CONFIG, "truncated or corrupt"),
    "query of one pixel": (["teacher", "query", "one.png", *BOX], EXIT_CONFIG, "too small"),
    "point that is no number": (["teacher", "query", "a.png", "--point", "1,2,nan"], EXIT_CONFIG, "is not a prompt"),
    "overlay over the image": (["teacher", "query", "a.png", *BOX, "--overlay", "a.png"], EXIT_CONFIG, "is the image itself"),
    "overlay below a file": (["teacher", "query", "a.png", *BOX, "--overlay", "junk/x.png"], EXIT_CONFIG, "junk"),
    "URL that is none": (
        ["teacher", "query", "a.png", *BOX, "--url", "nonsense", "--key-file", "key.json"],
        EXIT_PEER,
        "is not a teacher's URL",
    ),
    "stop of nothing": (["teacher", "stop", "--run-dir", "thesis"], EXIT_PEER, "no teacher is running"),
    "checkpoint that is none": (["teacher", "convert", "junk", "--out", "new"], EXIT_CONFIG, "junk cannot be read"),
    "student of another architecture": (["predict", "other", "a.png", "--out", "new"], EXIT_CONFIG, "'unet-9000'"),
    "student with other weights": (["predict", "damaged", "a.png", "--out", "new"], EXIT_CONFIG, "are not those"),
    "prediction over its image": (["predict", "model", "a.png", "a.mask.png", "--out", "."], EXIT_CONFIG, "one of the images"),
    "student below a file": (["distil", "data", "--out", "a.png/x", "--local-teacher"], EXIT_CONFIG, "a.png"),
    "demo over its own data": (["demo", "--data", "data", "--out", ".", "--sites", "2"], EXIT_CONFIG, "which is to be replaced"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(place, name):
    arguments, code, sentence = REFUSALS[name]
    before = content(place)
    refused(fedmentor(place, *arguments), code, sentence)
    assert content(place) == before


@pytest.mark.parametrize(("image", "sentence"), {"pipe.png": "not a file", "cut.png": "truncated"}.items())
def test_an_image_that_cannot_be_read_is_named_and_no_picture_is_written(place, tmp_path, image, sentence):
    done = fedmentor(place, "predict", "model", image, "--out", str(tmp_path))
    refused(done, EXIT_CONFIG, sentence)
    assert image in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_table_from_a_spreadsheet(tmp_path, separator):
    """A byte-order mark and CRLF are fine; semicolons are named."""
    write_phantoms(tmp_path / "data", count=4, seed=0, side=64)
    table = tmp_path / "data" / "metadata.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n").replace(b",", separator.encode()))
    done = fedmentor(tmp_path, "data", "check", "data", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["good"]) == ((0, True) if separator == "," else (EXIT_CONFIG, False))
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_json_is_json_whatever_the_terminal_can_show(place, tmp_path, encoding):
    write_phantoms(tmp_path / "data", count=1, seed=0, side=64)
    strange = "肺 ü.png"
    (tmp_path / "data" / "images" / strange).write_bytes((place / "a.png").read_bytes())
    for options in (["--json"], []):
        done = subprocess.run(
            [*FEDMENTOR, "data", "check", "data", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == EXIT_CONFIG, done.stderr
        if options:
            assert f"images/{strange}" in {finding["file"] for finding in json.loads(done.stdout.decode(encoding))["findings"]}


def test_nobody_reads_the_output(place):
    with subprocess.Popen(
        [*FEDMENTOR, "data", "check", "data", "--json"], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert b"rror" not in errors


def test_the_output_does_not_fit_on_the_disk():
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*FEDMENTOR, "coordinator", "status", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    done.stdout = ""
    refused(done, EXIT_BUG, "No space left on device")


def test_settings_of_the_machine_do_not_matter(place, tmp_path):
    """No home folder, no locale, a proxy that answers nothing, another working folder."""
    proxy = "http://127.0.0.1:1"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "LANG", "LC_ALL", "TERM")}
    done = subprocess.run(
        [*FEDMENTOR, "predict", str(place / "model"), str(place / "a.png"), "--out", "out", "--json"],
        cwd=tmp_path,
        env={**environment, "LC_ALL": "C", "http_proxy": proxy, "https_proxy": proxy},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / json.loads(done.stdout)["mask"]).is_file()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_leaves_the_old_dataset(tmp_path, number):
    write_phantoms(tmp_path / "data", count=2, seed=0, side=64)
    before = content(tmp_path)
    command = [*FEDMENTOR, "data", "phantoms", "--out", "data", "--count", "99999", "--side", "64"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any(tmp_path.glob(".data.*/new/images/*.png")), process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == EXIT_INTERRUPTED
    assert output == ""
    assert errors.splitlines()[-1].startswith("interrupted")
    assert content(tmp_path) == before


def test_a_port_in_use_is_found_out_before_the_coordinator_says_that_it_listens(place, tmp_path):
    assert fedmentor(place, "federation", "certificates", "--out", str(tmp_path / "c"), *SITES).returncode == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--state", str(tmp_path / "s"), "--certificates", str(tmp_path / "c"), "--listen", listen]
        done = fedmentor(place, "coordinator", "run", "--manifest", "manifest.json", "--model", "model", *options)
    refused(done, EXIT_CONFIG, f"{listen} is in use")


def test_a_teacher_that_is_killed_while_a_student_asks_it(place, tmp_path):
    """Wrong token; then its keeper dies between two answers: what was answered is kept, and no process or token is left."""
    serve = [*FEDMENTOR, "teacher", "serve", "--run-dir", "the teacher"]
    process = subprocess.Popen(serve, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    state_file = tmp_path / "the teacher" / STATE_FILE
    wait_until(state_file.exists, process)
    state = json.loads(state_file.read_bytes())
    keeper = psutil.Process(state["keeper_pid"])
    family = [keeper, *keeper.children(recursive=True)]

    away = ["--teacher-url", state["url"], "--key-file", str(place / "key.json")]
    data = str(place / "data")
    refused(fedmentor(tmp_path, "distil", data, "--out", "s", "--cache", "cache", *away), EXIT_PEER, "refuses the token")

    asks = [*FEDMENTOR, "distil", data, "--out", "s", "--cache", "cache", "--state", str(state_file)]
    student = subprocess.Popen(asks, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: any((tmp_path / "cache").glob("*/*")), student)
    keeper.kill()
    output, errors = student.communicate(timeout=PATIENCE_S)
    refused(subprocess.CompletedProcess(asks, student.returncode, output, errors), EXIT_PEER, "teacher")
    assert any((tmp_path / "cache").glob("*/*"))
    assert not (tmp_path / "s").exists()

    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == EXIT_PEER
    assert "error: the teacher ended by itself" in errors.splitlines()
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert alive == []


def wait_until(happened, process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)

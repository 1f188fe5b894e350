"""What goes wrong in a hospital, through the real command line: clock, data folder, port, disk. One line, an exit code, no harm."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import pytest
from federation_processes import FEDMENTOR

from coordinator.manifests import make_manifest
from fed_node.data.phantom import write_phantoms
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.errors import EXIT_BUG, EXIT_CONFIG, EXIT_INTERRUPTED, EXIT_OK, EXIT_PEER
from fedmentor.identity.authority import throwaway
from fedmentor.identity.door import Addresses, open_door
from fedmentor.identity.registrar import Doors
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.registrar import RegistrarTown

pytestmark = pytest.mark.e2e

SITES = [SiteId(name) for name in ("east", "north", "south")]
PATIENCE_S = 120.0
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
"""Before a command that is to meet file modes as everybody does who is not root."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, a model and a manifest."""
    place = tmp_path_factory.mktemp("place")
    throwaway(place / "certificates", "fed.example", SITES, ["localhost"])
    tensors = student_tensors(new_student(0))
    save_model(place / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors)))
    (place / "run.json").write_bytes(make_manifest(place / "model", "run", SITES, {"rounds": 1}).to_bytes())
    return place


def fedmentor(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run one command."""
    return subprocess.run([*before, *FEDMENTOR, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """One error line with these words, one with the cure, and the exit code."""
    error, cure = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert cure.startswith("  try: ")
    for word in words:
        assert word in error + cure
    assert (done.returncode, done.stdout) == (code, "")


def node(place: Path, command: str, data: Path | None, state: Path, *more: str) -> list[str]:
    """Arguments of a node's command for north, with nobody at the coordinator's address; without ``data`` a file names it."""
    settings = {"site": "north", "coordinator": "localhost:1", "certificates": place / "certificates", "data": data, "state": state}
    given = (part for name, value in settings.items() if value is not None for part in (f"--{name}", str(value)))
    return ["node", command, *given, *more]


def faults(done: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    """The faults that a check found, each with a cure."""
    found = [finding for finding in json.loads(done.stdout)["findings"] if finding["level"] == "fault"]
    assert all(finding["cure"] for finding in found)
    return found


def unusable(folder: Path, kind: str) -> Path:
    """A data folder that is empty, or that may not be read, or whose images may not."""
    if kind == "empty":
        folder.mkdir()
        return folder
    write_phantoms(folder, count=4, seed=0, side=64)
    (folder if kind == "closed" else folder / "images").chmod(0)
    return folder


@pytest.mark.skipif(bool(POWERLESS) and shutil.which("setpriv") is None, reason="root may read everything, and there is no setpriv")
@pytest.mark.parametrize("kind", ["empty", "closed", "closed images"])
def test_a_data_folder_that_is_empty_or_cannot_be_read(place, tmp_path, kind):
    data = unusable(tmp_path / "data", kind)
    try:
        (tmp_path / "node.toml").write_text(f'data = "{data}"\n')
        config = ("--config", str(tmp_path / "node.toml"))
        checked = fedmentor(*node(place, "check", None, tmp_path / "state", *config, "--no-network", "--json"), before=POWERLESS)
        ran = fedmentor(*node(place, "run", None, tmp_path / "state", *config), before=POWERLESS)
    finally:
        for folder in (data, data / "images"):
            if folder.exists():
                folder.chmod(0o700)
    assert (checked.returncode, [finding["check"] for finding in faults(checked)]) == (EXIT_CONFIG, ["data"]), checked.stdout
    assert ran.returncode == EXIT_CONFIG
    (error,) = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert str(data) in error
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""


@pytest.mark.parametrize(
    ("days", "code", "words"),
    [(1, EXIT_PEER, "is not valid yet by this machine's clock"), (-1, EXIT_CONFIG, "this machine's clock is 1 days ahead")],
)
def test_a_clock_that_is_a_day_off_shows_when_a_site_enrols(tmp_path, days, code, words):
    """It is the registrar's clock that is moved: seen from here that is the same."""
    clock = ManualClock(SystemClock().now())
    town = RegistrarTown(tmp_path, clock)
    town.enrol(town.peer(None))
    file, site = tmp_path / "invite", ("--site", "north", "--certificates", str(tmp_path / "n"))
    arguments = ("node", "enrol", *site, "--invite", str(file))
    clock.set_now(SystemClock().now() + timedelta(days=days))
    with open_door(town.registrar, Addresses("localhost:0", None), clock, lambda _event: None) as door:
        file.write_bytes(town.registrar.invite(town.peer("north"), 100, Doors(door.enrolment, None)).to_bytes())
        refused(fedmentor(*arguments), code, words, "set", "clock")
        assert not any((tmp_path / "n").rglob("certificate.pem"))
        assert not (tmp_path / "n" / "ca.pem").exists()
    clock.set_now(SystemClock().now())
    with open_door(town.registrar, Addresses(door.enrolment, None), clock, lambda _event: None):
        assert fedmentor(*arguments).returncode == EXIT_OK


@pytest.mark.parametrize("days", [1, -8])
def test_a_clock_that_is_off_shows_before_a_node_runs(tmp_path, days):
    """Certificates that begin tomorrow, or that ended yesterday by the clock here."""
    clock = ManualClock(SystemClock().now() + timedelta(days=days))
    town = RegistrarTown(tmp_path, clock)
    for peer in (town.peer(None), town.peer("north")):
        town.enrol(peer)
    (tmp_path / "north").rename(tmp_path / "certificates")
    write_phantoms(tmp_path / "data", count=4, seed=0, side=64)
    checked = fedmentor(*node(tmp_path, "check", tmp_path / "data", tmp_path / "state", "--no-network", "--no-pixels", "--json"))
    assert checked.returncode == EXIT_CONFIG
    assert any("clock" in finding["what"] + finding["cure"] for finding in faults(checked))
    refused(fedmentor(*node(tmp_path, "run", tmp_path / "data", tmp_path / "state")), EXIT_CONFIG, "check this machine's clock")
    assert not (tmp_path / "state").exists()


def test_a_port_that_is_taken(tmp_path, capsys):
    town = RegistrarTown(tmp_path, SystemClock())
    town.enrol(town.peer(None))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for option in ("--listen", "--listen-renewals"):
            assert run(["federation", "serve", "--registrar", str(tmp_path / "registrar"), option, address]) == EXIT_CONFIG
            assert f"error: {address} is in use" in capsys.readouterr().err


ON_A_SMALL_DISK = """
set -u
disk=$1
errors=$2
shift 2
mount -t tmpfs -o size=1m tmpfs "$disk" || exit 1
"$@" >/dev/null 2>"$errors"
echo "exit $?"
find "$disk" -type f
echo remounted
mount -o remount,size=32m "$disk" || exit 1
exec "$@"
"""
"""A command on a disk of 1 MB, on which a model of 1.3 MB has no place; what it leaves; and once more with room enough."""


def own_mounts() -> tuple[str, ...]:
    """How to start a command that may mount, seen by nobody else; empty where that is not possible."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        try:
            done = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
        except OSError:
            break
        if done.returncode == 0:
            return command
    return ()


@pytest.mark.skipif(not own_mounts(), reason="needs a mount namespace")
def test_a_disk_that_is_full_while_a_model_is_written(place, tmp_path):
    disk, errors, ready = tmp_path / "disk", tmp_path / "errors", tmp_path / "ready"
    disk.mkdir()
    coordinator = ["coordinator", "run", "--manifest", place / "run.json", "--model", place / "model", "--state", disk / "state"]
    coordinator += ["--certificates", place / "certificates", "--listen", "localhost:0", "--ready-file", ready]
    script = [*own_mounts(), "sh", "-c", ON_A_SMALL_DISK, "sh", disk, errors, *FEDMENTOR, *coordinator]
    with subprocess.Popen([str(part) for part in script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = list(iter(lambda: process.stdout.readline().strip(), "remounted"))
        first, *more = errors.read_text().splitlines()
        assert said[0] == f"exit {EXIT_BUG}"
        assert (first[:7], "No space left on device" in first) == ("error: ", True), first
        assert [line[:7] for line in more] == ["  try: "]
        assert not [path for path in said[1:] if "safetensors" in path], said
        deadline = time.monotonic() + PATIENCE_S
        while not ready.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == EXIT_INTERRUPTED


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_a_file_that_may_not_grow_is_a_disk_that_refuses(place, tmp_path):
    """What a limit on the size of files does to whoever writes a mask: a line, and nothing of it is left."""
    write_phantoms(tmp_path / "data", count=1, seed=0, side=64)
    (image,) = (tmp_path / "data" / "images").iterdir()
    done = fedmentor("predict", str(place / "model"), str(image), "--out", str(tmp_path / "out"), before=("prlimit", "--fsize=20"))
    refused(done, EXIT_BUG, "the disk failed", "File too large", "free some space")
    assert not any((tmp_path / "out").rglob("*"))

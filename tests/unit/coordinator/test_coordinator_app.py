"""The coordinator as a process: begins, is killed, goes on, ends."""

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from datetime import datetime, timezone

import pytest
from click.testing import CliRunner
from coordinator_process import PROGRAM, SITES, TIMEOUT_S, Process, Site, arguments_of, health_of

from coordinator.store.lock import state_lock
from fedmentor.cli.federation import federation
from fedmentor.identity.credentials import site_credentials
from fedmentor.models import load_model


def test_a_run_survives_a_kill_and_ends(place):
    go = threading.Event()
    coordinator = Process(place)
    sites = [Site(name, place, go) for name in SITES]
    assert sites[2].reached.wait(TIMEOUT_S)
    code, output = coordinator.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert output.splitlines()[0].startswith("run begun, listening on 127.0.0.1:")
    assert output.splitlines()[1].startswith("round 0/2  3 sites  Dice 0.5000  worst 0.5000 (a)")

    standing = json.loads(
        subprocess.run([*PROGRAM, "status", "--state", place / "state", "--json"], check=True, capture_output=True).stdout
    )
    assert (standing["round"], standing["outcome"]) == (1, None)

    coordinator = Process(place, "--json")
    go.set()
    code, output = coordinator.end()
    for site in sites:
        site.join(TIMEOUT_S)
    assert [site.finished.outcome.value for site in sites] == ["completed"] * 3
    assert code == 0
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events] == ["listening", "round", "round", "finished"]
    assert events[0]["resumed"] is True
    assert not (place / "ready").exists()

    report = json.loads((place / "state" / "report.json").read_text())
    assert report["model"] == events[-1]["model"]
    _, record = load_model(place / "state" / "models" / report["model"])
    assert record.round == 2
    log = (place / "events.log").read_text()
    assert "event=update_accepted site=a run=toy-run round=0" in log
    assert "level=warning" not in log

    again = subprocess.run([*PROGRAM, *arguments_of(place)], check=True, capture_output=True, text=True)
    assert "run toy-run is finished: completed" in again.stdout
    text = subprocess.run([*PROGRAM, "status", "--state", place / "state"], check=True, capture_output=True, text=True).stdout
    assert text.splitlines()[0] == "run toy-run: completed"


def test_a_coordinator_that_stays_serves_after_the_run(place):
    go = threading.Event()
    go.set()
    assert health_of(place)[0] == 5
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    staying = ["--stay", "--linger", "0", "--metrics", str(port), "--metrics-host", "localhost", "--dashboard", "0"]
    coordinator = Process(place, *staying)
    code, standing = health_of(place)
    assert (code, standing.split(":")[0]) == (0, "run toy-run")
    for site in [Site(name, place, go) for name in SITES]:
        site.join(TIMEOUT_S)
        assert site.finished.outcome.value == "completed"
    assert health_of(place) == (0, "run toy-run: completed, round 2/2\n")
    code, output = coordinator.end(signal.SIGTERM)
    assert code == 0
    assert "run toy-run is finished: completed" in output
    assert output.splitlines()[1].startswith("dashboard at http://127.0.0.1:")

    coordinator = Process(place, *staying)
    late = Site("a", place, go)
    late.join(TIMEOUT_S)
    assert late.finished.outcome.value == "completed"
    with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=TIMEOUT_S) as metrics:
        assert b"fedmentor_dice 0.5" in metrics.read()
    assert coordinator.end(signal.SIGTERM)[0] == 0
    assert health_of(place)[0] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_without_loss(place, number):
    coordinator = Process(place)
    site = Site("a", place, threading.Event())
    assert coordinator.end(number)[0] == 130
    assert not (place / "ready").exists()
    site.finished = "stop"
    with state_lock(place / "state"):
        pass
    coordinator = Process(place)
    assert coordinator.end(number)[0] == 130


def test_a_disk_that_fails_stops_it_and_the_run_goes_on_after_the_repair(place):
    coordinator = Process(place)
    obstacle = place / "state" / "spool" / "a"
    obstacle.write_bytes(b"a file where a folder belongs")
    go = threading.Event()
    go.set()
    sites = [Site(name, place, go) for name in SITES]
    assert coordinator.end()[0] == 70
    obstacle.unlink()
    coordinator = Process(place)
    assert coordinator.end()[0] == 0
    for site in sites:
        site.join(TIMEOUT_S)
    assert [site.finished.outcome.value for site in sites] == ["completed"] * 3


def test_a_run_without_a_quorum_ends_with_the_policy_code(place):
    process = subprocess.run(
        [*PROGRAM, *arguments_of(place), "--gather", "0.05", "--straggler-grace", "0", "--linger", "0"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 4
    assert "round 0 failed 3 times" in process.stderr
    assert "Traceback" not in process.stderr
    with socket.create_server(("127.0.0.1", 0)) as listening:
        (place / "ready").write_text(f"127.0.0.1:{listening.getsockname()[1]}\n")
        code, said = health_of(place)
    assert code == 4
    assert "run toy-run failed: round 0 failed 3 times" in said


# --- imports ---


def test_the_coordinator_never_imports_torch():
    names = "coordinator.app, coordinator.cli, coordinator.servicer, coordinator.testing"
    check = f"import sys, {names}; print(sorted({{'torch', 'monai', 'opacus', 'torchvision'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_the_command_line_imports_no_grpc_before_it_is_needed():
    check = "import sys, coordinator.cli; print(sorted({'grpc', 'numpy', 'sqlite3', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_certificates_command(tmp_path):
    arguments = ["certificates", "--out", str(tmp_path / "x"), "--site", "a", "--site", "b", "--host", "localhost"]
    result = CliRunner().invoke(federation, arguments)
    assert result.exit_code == 0
    assert "2 sites, valid 7 days" in result.output
    site_credentials(tmp_path / "x", "a", datetime.now(timezone.utc))

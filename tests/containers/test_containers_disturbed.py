"""``make up`` while things break: the watcher is interrupted, a site and the coordinator are killed, a site's network goes away."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from dataclasses import dataclass

import pytest
from containers_engine import PATIENCE_S, ROUNDS, SITES, TAG, Containers, end, free_ports, ran, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

AWAY_S = 10.0
QUORUM = 3


@dataclass
class Endured:
    """What was left of it."""

    interrupted: int
    said: str
    open_rounds: dict[str, int]
    restarts: dict[str, int]
    up_again: object
    report: dict
    stopped: dict[str, tuple[int, float]]
    restored: dict
    unasked: str
    left: list[str]


@pytest.fixture(scope="module", params=["plain", "secagg"])
def endured(request: pytest.FixtureRequest, images: str, tmp_path_factory: pytest.TempPathFactory) -> Endured:
    """With and without secure aggregation: in it a site that was killed sits the attempt out, for its secrets went with it."""
    assert images
    results = tmp_path_factory.mktemp("disturbed")
    containers = Containers("fedmentor-test-b", results, *free_ports(), request.param)
    containers.do("down")
    up = containers.begin("up")
    try:
        open_rounds = _disturb(containers, up)
        said, _ = up.communicate(timeout=PATIENCE_S)
        again = containers.do("up")
        restarts = {service: containers.inspect(service)["RestartCount"] for service in ("site-1", "coordinator")}
        stopped = {service: _stop(containers, service) for service in ("coordinator", "teacher")}
        restored = _restored(containers)
        unasked = containers.container("prometheus")
    finally:
        end(up)
        containers.do("down")
    report = json.loads((results / "report.json").read_bytes())
    return Endured(up.returncode, said, open_rounds, restarts, again, report, stopped, restored, unasked, containers.leftovers())


def _disturb(containers: Containers, up: subprocess.Popen) -> dict[str, int]:
    """Kill a site, interrupt the watcher, kill the coordinator, take a site's network away; gives the round open each time.

    A round waits for a site that is gone for longer than all of this takes, so every fault hits the round after the last one's at
    the latest.
    """
    until(lambda: up.poll() is not None or "phase=collect" in containers.log("coordinator"), "the first round is open")
    opened = {"site-1": _open_round(containers)}
    containers.crash("site-1")
    up.send_signal(signal.SIGINT)
    until(lambda: containers.running("site-1"), "site 1 is back")
    opened["coordinator"] = _open_round(containers)
    before = _connections(containers, "site-3")
    containers.crash("coordinator")
    until(lambda: _connections(containers, "site-3") > before, "site 3 has found the coordinator again")
    opened["network"] = _open_round(containers)
    _lose_network(containers, "site-3")
    return opened


def _open_round(containers: Containers) -> int:
    standing = containers.standing()
    assert standing["outcome"] is None
    return standing["round"]


def _connections(containers: Containers, site: str) -> int:
    return containers.log("coordinator").count(f"event=site_connected site={site}")


def _lose_network(containers: Containers, site: str) -> None:
    network = f"{containers.project}_{site}"
    container = containers.container(site)
    assert ran(["docker", "network", "disconnect", network, container]).returncode == 0
    time.sleep(AWAY_S)
    assert ran(["docker", "network", "connect", network, container]).returncode == 0


def _stop(containers: Containers, service: str) -> tuple[int, float]:
    """Exit code and seconds of a stop by SIGTERM."""
    started = time.monotonic()
    ran(["docker", "stop", "--time", "60", containers.container(service)])
    return containers.inspect(service)["State"]["ExitCode"], time.monotonic() - started


def _restored(containers: Containers) -> dict:
    """What a coordinator says that was started on a backup, after its state was lost; the commands are those of docs/deploy.md."""
    state = ["--rm", "-i", "--network", "none", "-v", f"{containers.project}_state-coordinator:/state", "--entrypoint"]
    image = f"fedmentor/coordinator:{TAG}"
    backup = subprocess.run(
        ["docker", "run", *state, "tar", image, "-C", "/state", "-cf", "-", "."], capture_output=True, check=True
    )
    clear_and_unpack = "find /state -mindepth 1 -delete && tar -C /state -xpf -"
    subprocess.run(["docker", "run", *state, "sh", image, "-c", clear_and_unpack], input=backup.stdout, check=True)
    container = containers.container("coordinator")
    assert ran(["docker", "start", container]).returncode == 0
    until(lambda: containers.inspect("coordinator")["State"]["Health"]["Status"] == "healthy", "the coordinator is healthy", 180)
    return json.loads(
        ran(["docker", "exec", container, "fedmentor", "coordinator", "status", "--state", "/state", "--json"]).stdout
    )


def test_a_restored_backup_is_the_coordinator_that_was(endured: Endured):
    assert endured.restored["outcome"] == "completed"
    assert endured.restored["model"] == endured.report["model"]
    assert endured.restored["rounds"] == endured.report["rounds"]


def test_an_interrupted_watcher_leaves_the_federation_running(endured: Endured):
    assert endured.interrupted == 130
    assert "make up watches it again" in endured.said


def test_every_fault_hit_a_round_in_progress(endured: Endured):
    assert all(0 <= number < ROUNDS for number in endured.open_rounds.values()), endured.open_rounds


def test_what_was_killed_came_back_by_itself(endured: Endured):
    assert all(count >= 1 for count in endured.restarts.values()), endured.restarts


def test_the_run_ends_with_all_rounds(endured: Endured):
    assert endured.up_again.returncode == 0, endured.up_again.stderr
    assert endured.report["outcome"] == "completed"
    assert [entry["round"] for entry in endured.report["rounds"]] == list(range(ROUNDS + 1))
    assert all(len(entry["accepted"]) >= QUORUM for entry in endured.report["rounds"][:ROUNDS])


@pytest.mark.parametrize("endured", ["plain"], indirect=True)
def test_the_model_is_that_of_the_undisturbed_run(endured: Endured, on_host: dict):
    assert [entry["model"] for entry in endured.report["rounds"]] == [entry["model"] for entry in on_host["rounds"]]
    assert all(sorted(entry["accepted"]) == list(SITES) for entry in endured.report["rounds"][:ROUNDS])


def test_there_is_no_prometheus_where_nobody_asked_for_one(endured: Endured):
    assert endured.unasked == ""


def test_sigterm_ends_services_in_order(endured: Endured):
    for service, (code, seconds) in endured.stopped.items():
        assert code in (0, 130), service
        assert seconds < 45, service


def test_nothing_is_left(endured: Endured):
    assert endured.left == []

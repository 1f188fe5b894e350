"""``make up`` in the usual way, where nothing fails: what comes out, who can reach whom, what is locked, what is left."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from containers_engine import (
    PATIENCE_S,
    ROUNDS,
    SERVICES,
    SITES,
    Containers,
    end,
    free_ports,
    ran,
    tried_in_usual_container,
    until,
    volumes,
)

from fed_node.data.phantom import write_phantoms
from fedmentor.models import load_model

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

LISTENER = 9999
OUTSIDE = ("1.1.1.1", 443)
UNKNOWN_CERTIFICATE = 60
"""curl's exit code."""

DOORS = {
    "coordinator": ("coordinator", 8443),
    "metrics": ("coordinator", 9464),
    "outside": OUTSIDE,
    "teacher by name": ("teacher", 8080),
    "site 2 by name": ("site-2", LISTENER),
}
LOCKED = """
import os
def can_write(path):
    try:
        open(os.path.join(path, "probe"), "w").close()
        return True
    except OSError:
        return False
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
places = {path: can_write(path) for path in ("/", "/opt/fedmentor", "/data", "/certificates", "/plan", "/model", "/state", "/tmp")}
print(__import__("json").dumps({
    "uid": os.getuid(), "gid": os.getgid(), "capabilities": status["CapEff"].strip(), "bounding": status["CapBnd"].strip(),
    "no_new_privileges": status["NoNewPrivs"].strip(), "writable": sorted(path for path, yes in places.items() if yes),
}))
"""


@dataclass
class Seen:
    """What was found while the federation was up."""

    containers: Containers
    first_up: object
    second_up: object
    report: dict
    connections: dict[str, str]
    locks: dict[str, dict]
    inspected: dict[str, dict]
    answer: dict
    refused: int
    stranger: int
    metrics: str
    dashboard: dict
    prometheus: dict
    down: object
    left: list[str]


@pytest.fixture(scope="module")
def seen(images: str, prometheus: str, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Bring it up, look at everything, bring it up again, take it down."""
    assert images
    assert prometheus
    results = tmp_path_factory.mktemp("undisturbed")
    before = volumes()
    teacher_port, metrics_port, prometheus_port = free_ports(3)
    containers = Containers("fedmentor-test-a", results, teacher_port, metrics_port, "auto", prometheus_port)
    containers.do("down")
    up = containers.begin("up")
    try:
        until(lambda: up.poll() is not None or all(containers.running(site) for site in SITES), "four sites run")
        locks, connections = _looked(containers)
        inspected = {name: containers.inspect(name) for name in (*SERVICES, "prometheus")}
        output, _ = up.communicate(timeout=PATIENCE_S)
        assert up.returncode == 0, output
        report = json.loads((results / "report.json").read_bytes())
        answer, refused, stranger = _asked(containers, results)
        metrics = _get(f"http://127.0.0.1:{containers.metrics_port}/metrics")
        dashboard = json.loads(_get(f"http://127.0.0.1:{containers.metrics_port}/status.json"))
        watched = _watched(containers)
        again = containers.do("up")
    finally:
        end(up)
        down = containers.do("down")
    left = containers.leftovers() + sorted(volumes() - before)
    return Seen(
        containers,
        output,
        again,
        report,
        connections,
        locks,
        inspected,
        answer,
        refused,
        stranger,
        metrics,
        dashboard,
        watched,
        down,
        left,
    )


def _looked(containers: Containers) -> tuple[dict[str, dict], dict[str, str]]:
    """Locks of each service, and what a site reaches, beside controls that show that a listener was there to be reached.

    All at once, because sites end with the run.
    """
    serve = f"import http.server as h; h.HTTPServer(('', {LISTENER}), h.SimpleHTTPRequestHandler).serve_forever()"
    containers.python("site-2", serve, detach=True)
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        locks = dict(zip(SERVICES, pool.map(lambda name: _locks(containers, name), SERVICES), strict=True))
    until(lambda: containers.tried("site-2", {"": ("127.0.0.1", LISTENER)}) == {"": "open"}, "a listener at site 2", 60)
    teacher = containers.address("teacher"), 8080
    addresses = {
        "teacher by address": teacher,
        "site 2 by address": (containers.address("site-2"), LISTENER),
        "prometheus by address": (containers.address("prometheus"), 9090),
    }
    doors = {
        "site-1": {**DOORS, **addresses},
        "teacher": {"teacher itself": ("127.0.0.1", 8080), "outside from the teacher": OUTSIDE},
        "coordinator": {
            "metrics themselves": ("coordinator-metrics", 9464),
            "teacher from the coordinator": teacher,
            "prometheus itself": addresses["prometheus by address"],
            "outside from the coordinator": OUTSIDE,
        },
    }
    with ThreadPoolExecutor(len(doors)) as pool:
        found = pool.map(containers.tried, doors, doors.values())
    usual = tried_in_usual_container({"outside from a usual container": OUTSIDE})
    return locks, {name: answer for part in (*found, usual) for name, answer in part.items()}


def _locks(containers: Containers, service: str) -> dict:
    return json.loads(containers.python(service, LOCKED).stdout)


def _asked(containers: Containers, folder: Path) -> tuple[dict, int, int]:
    """The answer to curl with token and certificate, the status without the token, curl's exit code without the certificate."""
    (image,) = write_phantoms(folder / "question", 1, seed=5)
    token = containers.do("token").stdout.strip()
    trusted = folder / "teacher.pem"
    trusted.write_text(containers.do("certificate").stdout)
    url = f"https://127.0.0.1:{containers.teacher_port}/predictions/teacher"
    form = ["-F", f"image=@{folder / 'question' / 'images' / f'{image}.png'}"]
    form += ["-F", 'prompt={"boxes": [[20, 20, 235, 235]], "answer": "json"}']
    curl = ["curl", "--silent", "--max-time", "120"]
    known, allowed = ["--cacert", str(trusted)], ["-H", f"Authorization: Bearer {token}"]
    answer = ran([*curl, *known, *allowed, url, *form])
    refused = ran([*curl, *known, "-o", str(folder / "body"), "-w", "%{http_code}", url, *form])
    stranger = ran([*curl, *allowed, url, *form])
    return json.loads(answer.stdout), int(refused.stdout), stranger.returncode


def _watched(containers: Containers) -> dict:
    """What Prometheus says of the coordinator: whether it answers, the round, the alerts that there are and those that fire."""

    def ask(path: str) -> dict:
        return json.loads(_get(f"http://127.0.0.1:{containers.prometheus_port}/api/v1/{path}"))["data"]

    def sample(name: str) -> str:
        found = ask(f"query?query={name}")["result"]
        return found[0]["value"][1] if found else ""

    until(lambda: sample("fedmentor_run_over") == "1", "Prometheus has seen the end of the run", 120)
    rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
    names = ("up", "fedmentor_round", "fedmentor_run_failed")
    return {
        **{name: sample(name) for name in names},
        "health": {rule["health"] for rule in rules},
        "alerts": {rule["name"] for rule in rules},
        "firing": [alert["labels"]["alertname"] for alert in ask("alerts")["alerts"] if alert["state"] == "firing"],
    }


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - our own URL
        return response.read().decode()


def test_all_rounds_finish(seen: Seen):
    assert seen.report["outcome"] == "completed"
    assert [entry["round"] for entry in seen.report["rounds"]] == list(range(ROUNDS + 1))
    assert all(sorted(entry["accepted"]) == list(SITES) for entry in seen.report["rounds"][:ROUNDS])


def test_the_model_is_that_of_the_same_run_without_containers(seen: Seen, on_host: dict):
    assert [entry["model"] for entry in seen.report["rounds"]] == [entry["model"] for entry in on_host["rounds"]]
    assert seen.report["model"] == on_host["model"]


def test_the_copied_model_is_the_reports(seen: Seen):
    _, record = load_model(seen.containers.results / "model")
    assert record.digest == seen.report["model"]


def test_up_tells_what_happens_and_where_things_are(seen: Seen):
    told = [
        "certificates",
        "data dealt",
        "teacher is ready",
        "student distilled",
        "coordinator is ready",
        f"round {ROUNDS}/{ROUNDS}",
    ]
    places = [str(seen.containers.results / "model"), f"127.0.0.1:{seen.containers.teacher_port}", "make down"]
    for words in told + places:
        assert words in seen.first_up


def test_up_again_finds_the_finished_run(seen: Seen):
    assert seen.second_up.returncode == 0, seen.second_up.stderr
    assert "the run is complete" in seen.second_up.stdout


def test_a_site_reaches_its_coordinator_and_nothing_else(seen: Seen):
    assert seen.connections["coordinator"] == "open"
    for name in (
        "metrics",
        "outside",
        "teacher by name",
        "teacher by address",
        "site 2 by name",
        "site 2 by address",
        "prometheus by address",
    ):
        assert seen.connections[name] != "open", name
    # The same doors are open for those who may use them.
    for name in ("teacher itself", "metrics themselves", "prometheus itself"):
        assert seen.connections[name] == "open", name


def test_the_coordinator_does_not_reach_the_teacher(seen: Seen):
    assert seen.connections["teacher from the coordinator"] != "open"


def test_nobody_has_a_way_out(seen: Seen):
    found = {name: seen.connections[name] for name in ("outside", "outside from the teacher", "outside from the coordinator")}
    assert "open" not in found.values(), found
    if seen.connections["outside from a usual container"] != "open":
        pytest.skip("this machine has no way out either, so that nothing is shown by it")


@pytest.mark.parametrize("service", SERVICES)
def test_nobody_is_root_and_nothing_can_be_gained(seen: Seen, service: str):
    lock = seen.locks[service]
    assert lock["uid"] == lock["gid"] == 10001
    assert int(lock["capabilities"], 16) == int(lock["bounding"], 16) == 0
    assert lock["no_new_privileges"] == "1"


@pytest.mark.parametrize("service", SERVICES)
def test_only_state_and_temporary_files_can_be_written(seen: Seen, service: str):
    kept = [] if service == "teacher" else ["/state"]
    assert seen.locks[service]["writable"] == [*kept, "/tmp"]  # noqa: S108 - the container's


@pytest.mark.parametrize("service", [*SERVICES, "prometheus"])
def test_resources_are_limited_and_ports_are_on_loopback_only(seen: Seen, service: str):
    host = seen.inspected[service]["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] > 0
    bound = [binding["HostIp"] for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
    assert set(bound) == ({"127.0.0.1"} if service in ("teacher", "coordinator", "prometheus") else set())


@pytest.mark.parametrize("site", SITES)
def test_a_site_holds_its_own_secrets_and_data_only(seen: Seen, site: str):
    mounts = {mount["Name"].removeprefix(f"{seen.containers.project}_"): mount["RW"] for mount in seen.inspected[site]["Mounts"]}
    assert mounts == {f"certificates-{site}": False, f"data-{site}": False, f"state-{site}": True}


def test_the_teacher_answers_the_host_with_token_and_certificate_only(seen: Seen):
    assert seen.answer["status"] == 200
    assert seen.answer["objects"]
    assert seen.refused >= 400
    assert seen.stranger == UNKNOWN_CERTIFICATE


def test_metrics_are_served_after_the_run(seen: Seen):
    assert f"fedmentor_round {float(ROUNDS)}" in seen.metrics


def test_the_dashboard_shows_the_run_and_its_witnesses(seen: Seen):
    assert seen.dashboard["progress"]["outcome"] == "completed"
    assert [entry["dice"] for entry in seen.dashboard["rounds"]] == [entry["dice"] for entry in seen.report["rounds"]]
    assert seen.dashboard["audit"]["countersigned"] == list(SITES)
    assert f"http://127.0.0.1:{seen.containers.metrics_port}/" in seen.first_up


def test_prometheus_watches_and_no_alert_fires(seen: Seen):
    assert seen.prometheus["up"] == "1"
    assert seen.prometheus["fedmentor_round"] == str(ROUNDS)
    assert seen.prometheus["fedmentor_run_failed"] == "0"
    assert len(seen.prometheus["alerts"]) > 5
    assert seen.prometheus["health"] == {"ok"}
    assert seen.prometheus["firing"] == []


def test_prometheus_is_locked_down_as_the_others_are(seen: Seen):
    found = seen.inspected["prometheus"]
    assert found["Config"]["User"] == "65534:65534"
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert {mount["Destination"]: mount["RW"] for mount in found["Mounts"]} == {"/etc/fedmentor": False, "/prometheus": True}


def test_down_leaves_nothing(seen: Seen):
    assert seen.down.returncode == 0, seen.down.stderr
    assert seen.left == []

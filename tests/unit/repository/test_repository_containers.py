"""What can be said of the containers without an engine: the script's refusals, the Compose file's rules."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
SITES = ("site-1", "site-2", "site-3", "site-4")


def script(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run deploy/containers.py where ``folder`` is all that the PATH has."""
    command = [sys.executable, str(ROOT / "deploy" / "containers.py"), *arguments]
    return subprocess.run(command, env={"PATH": str(folder), **environment}, capture_output=True, text=True, check=False)


def program(path: Path, text: str) -> None:
    """An executable shell script."""
    path.write_text(f"#!{shutil.which('sh')}\n{text}\n")
    path.chmod(0o755)


def test_without_an_engine_one_line_says_what_to_install(tmp_path):
    done = script(tmp_path, "up")
    assert done.returncode == 3
    assert done.stderr.splitlines()[0] == "error: there is no container engine here"
    assert "make demo" in done.stderr.splitlines()[1]
    assert len(done.stderr.splitlines()) == 2


def test_an_engine_that_does_not_answer(tmp_path):
    program(tmp_path / "docker", "echo 'cannot connect' >&2; exit 1")
    done = script(tmp_path, "up")
    assert done.returncode == 3
    assert done.stderr.startswith("error: the container engine does not answer: cannot connect\n")


def test_an_engine_without_compose(tmp_path):
    program(tmp_path / "docker", 'test "$1" = version')
    done = script(tmp_path, "down")
    assert done.returncode == 3
    assert done.stderr.startswith("error: the container engine has no Compose\n")


def test_a_data_folder_that_is_none(tmp_path):
    program(tmp_path / "docker", "exit 0")
    done = script(tmp_path, "up", DATA=str(tmp_path))
    assert done.returncode == 3
    assert "is not a dataset folder" in done.stderr


def test_other_words_are_usage(tmp_path):
    assert script(tmp_path).returncode == script(tmp_path, "build").returncode == 2


def test_a_build_that_fails_is_told(tmp_path):
    program(tmp_path / "docker", "if [ $1 = build ]; then echo no space left; exit 1; fi")
    done = script(tmp_path, "up", FEDMENTOR_RESULTS=str(tmp_path / "results"))
    assert done.returncode == 3
    assert done.stderr.splitlines()[:2] == ["no space left", "error: the image fedmentor/coordinator:latest was not built"]


def test_monitoring_is_started_where_it_is_asked_for_and_always_taken_down(containers):
    plain = containers.Federation(("docker", "compose"), "p", "", ROOT)
    asked = containers.Federation(("docker", "compose"), "p", "", ROOT, monitoring=True)
    assert "--profile" not in plain.command("up", "--detach")
    assert asked.command("up", "--detach")[-4:] == ["--profile", "monitoring", "up", "--detach"]
    assert plain.command("down")[-3:] == ["--profile", "monitoring", "down"]


def test_a_prometheus_that_cannot_be_had_is_named(tmp_path):
    answers = '"image --format"|version*) echo amd64;; image*|pull*) echo no route >&2; exit 1;;'
    program(tmp_path / "docker", f'case "$1 $3" in {answers} esac')
    settings = {"FEDMENTOR_TAG": "x", "FEDMENTOR_RESULTS": str(tmp_path / "results"), "FEDMENTOR_PROMETHEUS_IMAGE": "mine:1"}
    done = script(tmp_path, "up", MONITORING="1", **settings)
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "error: docker pull failed: no route",
        "error: the image mine:1 is not here and cannot be fetched",
        "  try: docker load it, or name one that is here with FEDMENTOR_PROMETHEUS_IMAGE",
    ]


def test_images_that_are_not_here_or_of_another_machine_are_named(tmp_path):
    settings = {"FEDMENTOR_TAG": "x", "FEDMENTOR_RESULTS": str(tmp_path / "results")}
    program(tmp_path / "docker", 'case "$1" in image) exit 1;; esac')
    assert "there is no image fedmentor/coordinator:x here" in script(tmp_path, "up", **settings).stderr
    program(tmp_path / "docker", 'case "$1" in image) echo arm64;; version) echo amd64;; esac')
    done = script(tmp_path, "up", **settings)
    assert done.returncode == 3
    assert "fedmentor/coordinator:x was built for arm64, and this engine is amd64" in done.stderr


@pytest.fixture
def containers(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(ROOT / "deploy")
    yield importlib.import_module("containers")
    for name in ("containers", "images", "engine"):
        sys.modules.pop(name, None)


def test_what_is_told_of_the_services(containers):
    states = {
        "registrar": ("exited", "Exited (0) 3 seconds ago"),
        "data": ("exited", "Exited (3) 1 second ago"),
        "teacher": ("running", "Up 5 seconds (healthy)"),
        "coordinator": ("running", "Up 2 minutes (unhealthy)"),
        "site-1": ("restarting", "Restarting (4) 1 second ago"),
        "site-2": ("running", "Up 1 second (health: starting)"),
    }
    lines = containers.news(states)
    assert lines[:2] == ["certificates", "teacher is ready"]
    assert [line.partition(" ")[0] for line in lines[2:]] == ["coordinator", "site-1"]
    assert containers.news({}) == []


@pytest.mark.parametrize(
    "said",
    [
        "Error starting userland proxy: listen tcp4 127.0.0.1:8085: bind: address already in use",
        "Bind for 127.0.0.1:8085 failed: port is already allocated",
    ],
)
def test_a_port_that_is_taken_is_named(containers, said):
    with pytest.raises(containers.Fault, match="port 8085 on"):
        containers.refuse_taken_port(f"Creating ...\nERROR: {said}\nEncountered errors")
    containers.refuse_taken_port("Creating 127.0.0.1:8085 ... done")


def test_a_line_a_round_and_the_last_model_at_the_end(containers):
    scored = {"dice": 0.5, "worst_dice": 0.25, "worst_site": "site-1"}
    rounds = [{"round": 0, "published": "a", **scored}, {"round": 1, "published": None, **scored}]
    report = {"total_rounds": 1, "outcome": None, "rounds": rounds}
    first = "round 0/1  Dice 0.5000  worst 0.2500 at site-1"
    assert containers.round_lines(report) == [first]
    assert containers.round_lines(report | {"outcome": "completed"}) == [first, first.replace("round 0", "round 1")]
    unscored = {"round": 1, "published": None, "dice": None}
    assert containers.round_lines(report | {"outcome": "completed", "rounds": [rounds[0], unscored]}) == [first]


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_every_service_is_locked_down(service):
    rules = COMPOSE["services"][service]
    assert rules["read_only"] is True
    assert rules["cap_drop"] == ["ALL"]
    assert rules["security_opt"] == ["no-new-privileges:true"]
    assert rules["mem_limit"]
    assert rules["cpus"]
    assert rules["pids_limit"]
    assert all(port.startswith("127.0.0.1:") for port in rules.get("ports", []))


def test_a_site_shares_a_network_with_the_coordinator_only():
    members: dict[str, set[str]] = {}
    for name, rules in COMPOSE["services"].items():
        for network in rules.get("networks", []):
            members.setdefault(network, set()).add(name)
    for site in SITES:
        assert members[site] == {site, "coordinator"}
        assert COMPOSE["networks"][site] == {"internal": True}
        assert COMPOSE["services"][site]["networks"] == [site]
    assert members["mentor"] == {"teacher", "distil"}
    assert members["operator"] == {"coordinator", "prometheus"}


def test_steps_without_need_of_a_network_have_none():
    for name in ("registrar", "data", "plan"):
        assert COMPOSE["services"][name]["network_mode"] == "none"


def test_no_secret_is_mounted_where_it_does_not_belong():
    for name, rules in COMPOSE["services"].items():
        certificates = {volume for volume in volumes_of(rules) if volume.startswith("certificates-")}
        allowed = {"plan": {"certificates-public"}, "coordinator": {"certificates-coordinator"}}
        expected = allowed.get(name, {f"certificates-{name}"} if name in SITES else set())
        assert name == "registrar" or certificates == expected


def test_all_volumes_are_declared_and_used():
    used = {volume for rules in COMPOSE["services"].values() for volume in volumes_of(rules)}
    assert used == set(COMPOSE["volumes"])


def volumes_of(rules: dict) -> list[str]:
    """Names of the volumes that a service mounts, in the short or the long form."""
    long = [volume for volume in rules["volumes"] if isinstance(volume, dict)]
    short = [volume.partition(":")[0] for volume in rules["volumes"] if isinstance(volume, str)]
    return short + [volume["source"] for volume in long if volume["type"] == "volume"]


def test_the_four_sites_differ_in_their_names_only():
    ones = [yaml.safe_dump(COMPOSE["services"][site]).replace(site, "SITE") for site in SITES]
    assert len(set(ones)) == 1


def test_the_dockerfile_needs_nothing_that_the_classic_builder_lacks():
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert not re.search(r"--mount|<<|^# syntax|--link|--chmod", text, re.MULTILINE)
    assert set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)) >= {"coordinator", "node", "teacher", "steps"}
    assert not re.search(r"^(ENTRYPOINT|CMD|\s+CMD) [^\[]", text, re.MULTILINE)


def test_what_a_build_sees_is_there():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert all((ROOT / line[1:]).exists() for line in lines if line.startswith("!"))


def test_requirement_files_follow_the_project(tmp_path):
    command = [sys.executable, str(ROOT / "deploy" / "requirements.py"), str(ROOT / "pyproject.toml"), str(tmp_path)]
    if sys.version_info >= (3, 11):  # it runs inside the image
        subprocess.run(command, check=True)
        assert "grpcio\n" in (tmp_path / "core.txt").read_text()
        assert not re.search("^torch", (tmp_path / "core.txt").read_text(), re.MULTILINE)
        assert "monai\n" in (tmp_path / "node.txt").read_text()
        assert "torchserve\n" in (tmp_path / "teacher.txt").read_text()

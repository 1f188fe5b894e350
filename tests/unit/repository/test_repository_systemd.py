"""The units and settings that are installed on servers fit the program, and the units give nothing away that they need not have."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from coordinator.cli import run as coordinator_run
from coordinator.config import CoordinatorSettings, settings_of
from fed_node.cli.node import run as node_run
from fed_node.config import DicomConfig, NodeConfig, node_config
from fedmentor.errors import EXIT_BUG, EXIT_CONFIG, EXIT_INTERRUPTED, EXIT_PEER, EXIT_POLICY, EXIT_USAGE

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
NODE, COORDINATOR = FOLDER / "node.toml", FOLDER / "coordinator.toml"

EXPOSURE = 20
"""Tenths of systemd's 0 to 10; it calls up to 2.0 'OK' with its best smile but one."""

COMMANDS: dict[str, tuple[click.Command, str]] = {
    "node": (node_run, "10"),
    "coordinator": (coordinator_run, "30"),
}
"""What each unit runs, and how many seconds it has to stop."""


def service_of(name: str) -> dict[str, list[str]]:
    """Settings of the section [Service], each with its words."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep capitals
    parser.read(FOLDER / f"fedmentor-{name}.service")
    return {setting: value.split() for setting, value in parser["Service"].items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_unit_starts_a_command_that_exists(name):
    program, *words = service_of(name)["ExecStart"]
    assert Path(program).name == "fedmentor"
    assert words[:2] == [name, "run"]
    options = {option for parameter in COMMANDS[name][0].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert words[-1] == f"/etc/fedmentor/{name}.toml"


@pytest.mark.parametrize("name", COMMANDS)
def test_exit_codes_mean_to_systemd_what_they_mean_to_people(name):
    service = service_of(name)
    never_again = {int(code) for code in service["RestartPreventExitStatus"]}
    assert never_again == {EXIT_USAGE, EXIT_CONFIG, EXIT_POLICY}
    assert not never_again & {EXIT_PEER, EXIT_BUG}
    assert service["SuccessExitStatus"] == [str(EXIT_INTERRUPTED)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stop_is_graceful_and_bounded(name):
    service = service_of(name)
    assert service["TimeoutStopSec"] == [COMMANDS[name][1]]
    assert service["Type"] == ["notify"]


def test_a_coordinator_has_time_for_the_calls_under_way():
    assert CoordinatorSettings.model_fields["stop_grace_seconds"].default < int(COMMANDS["coordinator"][1])


def systemd_version() -> int:
    """Of the tool that judges units; 0 where there is none."""
    if shutil.which("systemd-analyze") is None:
        return 0
    said = subprocess.run(["systemd-analyze", "--version"], check=True, capture_output=True, text=True).stdout
    return int(said.split()[1])


@pytest.mark.skipif(systemd_version() < 250, reason="systemd-analyze judges files since version 250")
@pytest.mark.parametrize("name", COMMANDS)
def test_systemd_finds_little_exposed(name):
    unit = FOLDER / f"fedmentor-{name}.service"
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", unit]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-500:] + said.stderr


def test_the_sample_settings_are_settings():
    assert node_config(NODE, {}).state == Path("/var/lib/fedmentor/state")
    assert settings_of(COORDINATOR, {}).state == Path("/var/lib/fedmentor-coordinator/state")


def switched_on(sample: Path, folder: Path) -> Path:
    """The sample with everything that is commented out."""
    file = folder / sample.name
    file.write_text(re.sub(r"^# (?=\[|[a-z_]+ = )", "", sample.read_text(), flags=re.MULTILINE))
    return file


def test_what_the_nodes_sample_leaves_out_is_the_default(tmp_path):
    config = node_config(switched_on(NODE, tmp_path), {})
    assert set(config.model_fields_set) == set(NodeConfig.model_fields)
    assert set(config.dicom.model_fields_set) == set(DicomConfig.model_fields)
    fixed = {"site", "coordinator", "certificates", "state", "data", "proxy", "registrar", "ledger_anchor"}
    for name in set(NodeConfig.model_fields) - fixed:
        assert getattr(config, name) == NodeConfig.model_fields[name].default, name


def test_what_the_coordinators_sample_leaves_out_is_the_default(tmp_path):
    settings = settings_of(switched_on(COORDINATOR, tmp_path), {})
    assert settings.model_fields_set == set(CoordinatorSettings.model_fields)
    chosen = {"manifest", "model", "state", "certificates", "listen", "registrar", "dashboard_port", "metrics_port"}
    chosen |= {"ready_file", "log_file"}
    for name in set(CoordinatorSettings.model_fields) - chosen:
        assert getattr(settings, name) == CoordinatorSettings.model_fields[name].default, name

"""The unit and the settings that a hospital installs fit the program, and the unit gives nothing away that it need not have."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fed_node.cli.node import run
from fed_node.config import DicomConfig, NodeConfig, node_config
from fedmentor.errors import EXIT_BUG, EXIT_CONFIG, EXIT_INTERRUPTED, EXIT_PEER, EXIT_POLICY, EXIT_USAGE

FOLDER = Path(__file__).resolve().parents[3] / "deploy" / "systemd"
UNIT = FOLDER / "fedmentor-node.service"
SETTINGS = FOLDER / "node.toml"

EXPOSURE = 20
"""Tenths of systemd's 0 to 10; it calls up to 2.0 'OK' with its best smile but one."""


@pytest.fixture(scope="module")
def service() -> dict[str, list[str]]:
    """Settings of the section [Service], each with its words."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep capitals
    parser.read(UNIT)
    return {name: value.split() for name, value in parser["Service"].items()}


def test_the_unit_starts_a_command_that_exists(service):
    program, *words = service["ExecStart"]
    assert Path(program).name == "fedmentor"
    assert words[:2] == ["node", "run"]
    options = {name for option in run.params for name in option.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_exit_codes_mean_to_systemd_what_they_mean_to_people(service):
    never_again = {int(code) for code in service["RestartPreventExitStatus"]}
    assert never_again == {EXIT_USAGE, EXIT_CONFIG, EXIT_POLICY}
    assert not never_again & {EXIT_PEER, EXIT_BUG}
    assert service["SuccessExitStatus"] == [str(EXIT_INTERRUPTED)]


def test_a_stop_is_graceful_within_ten_seconds(service):
    assert service["TimeoutStopSec"] == ["10"]
    assert service["Type"] == ["notify"]


def systemd_version() -> int:
    """Of the tool that judges units; 0 where there is none."""
    if shutil.which("systemd-analyze") is None:
        return 0
    said = subprocess.run(["systemd-analyze", "--version"], check=True, capture_output=True, text=True).stdout
    return int(said.split()[1])


@pytest.mark.skipif(systemd_version() < 250, reason="systemd-analyze judges files since version 250")
def test_systemd_finds_little_exposed():
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", UNIT]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout[-500:] + said.stderr


def test_the_sample_settings_are_settings():
    config = node_config(SETTINGS, {})
    assert config.state == Path("/var/lib/fedmentor/state")


def test_what_the_sample_leaves_out_is_the_default(tmp_path):
    """Everything that is commented out can be switched on, and says the default."""
    text = re.sub(r"^# (?=\[|[a-z_]+ = )", "", SETTINGS.read_text(), flags=re.MULTILINE)
    (tmp_path / "node.toml").write_text(text)
    config = node_config(tmp_path / "node.toml", {})
    assert set(config.model_fields_set) == set(NodeConfig.model_fields)
    assert set(config.dicom.model_fields_set) == set(DicomConfig.model_fields)
    fixed = {"site", "coordinator", "certificates", "state", "data", "proxy", "registrar", "ledger_anchor"}
    for name in set(NodeConfig.model_fields) - fixed:
        assert getattr(config, name) == NodeConfig.model_fields[name].default, name

"""The alerts as Prometheus' own tool sees them: the files are well-formed, and cases wake the operator, or do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from containers_engine import ROOT, ran

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

MONITORING = ROOT / "deploy" / "monitoring"


def promtool(image: str, folder: Path, *arguments: str):
    """Run Prometheus' tool on a folder."""
    command = ["docker", "run", "--rm", "--network", "none", "-v", f"{folder}:/rules:ro", "--workdir", "/rules"]
    return ran([*command, "--entrypoint", "promtool", image, *arguments])


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Alerts and cases in one folder that every user can read."""
    folder = tmp_path / "rules"
    shutil.copytree(MONITORING, folder)
    shutil.copy(Path(__file__).with_name("alerts_cases.yml"), folder)
    return folder


def test_configuration_and_alerts_are_well_formed(prometheus: str, rules: Path):
    done = promtool(prometheus, rules, "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should_and_only_then(prometheus: str, rules: Path):
    done = promtool(prometheus, rules, "test", "rules", "alerts_cases.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_case_that_does_not_hold_is_found(prometheus: str, rules: Path):
    cases = rules / "alerts_cases.yml"
    cases.write_text(cases.read_text().replace('alertname="RunFailed"', 'alertname="RunCompleted"'))
    assert promtool(prometheus, rules, "test", "rules", "alerts_cases.yml").returncode != 0

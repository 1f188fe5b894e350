"""The kit's files have one source, travel with the package, and lock a site down as the demonstration does."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest
import yaml

from fedmentor.kit.contents import SETTINGS_FILE, UNIT_FILE
from fedmentor.kit.make import README_TEMPLATE
from fedmentor.kit.program import COMPOSE_TEMPLATE
from fedmentor.settings import read_toml

ROOT = Path(__file__).resolve().parents[3]
KIT = ROOT / "fedmentor" / "kit"
DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize("name", [UNIT_FILE, SETTINGS_FILE])
def test_what_deploy_shows_is_what_a_kit_holds(name):
    shown = DEPLOY / "systemd" / name
    assert shown.is_symlink()
    assert shown.resolve() == KIT / name


@pytest.mark.parametrize("name", [UNIT_FILE, SETTINGS_FILE, COMPOSE_TEMPLATE, README_TEMPLATE])
def test_the_packages_data_has_every_file_of_a_kit(name):
    (patterns,) = read_toml(ROOT / "pyproject.toml")["tool"]["setuptools"]["package-data"].values()
    assert (KIT / name).is_file()
    assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def test_a_hospitals_container_is_locked_down_as_the_demonstrations_sites_are():
    demo = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["site-1"]
    text = re.sub(r"{{ software }}", "${FEDMENTOR_TAG:-latest}", (KIT / COMPOSE_TEMPLATE).read_text())
    node = yaml.safe_load(re.sub(r"{{[^}]*}}", "x", text))["services"]["node"]
    of_its_own = {"command", "depends_on", "networks", "volumes", "image", "user"}
    assert {name: rule for name, rule in node.items() if name not in of_its_own} == {
        name: rule for name, rule in demo.items() if name not in of_its_own
    }
    assert node["image"] == "${FEDMENTOR_IMAGE:-" + demo["image"] + "}"
    assert demo["command"][:2] == node["command"][:2] == ["node", "run"]
    assert f"ARG UID={node['user'].partition(':')[0]}\n" in (DEPLOY / "Dockerfile").read_text()

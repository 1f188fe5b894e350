"""The images themselves: sizes, users, what is in them and what is not, what they do at a signal."""

from __future__ import annotations

import json
import os
import re
import sys

import pytest
from containers_engine import PATIENCE_S, ROOT, TAG, ran

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

TARGETS = ("coordinator", "node", "teacher", "steps")
BUILD_ARGUMENTS = ("BASE_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
OWN_MB = {"coordinator": 200, "node": 1600, "teacher": 1600, "steps": 1600}


def python(target: str, program: str, tag: str = TAG):
    """Run a Python program in a fresh container of an image, locked as in the Compose file."""
    locked = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none"]  # noqa: S108 - the container's
    return ran(["docker", "run", "--rm", *locked, "--entrypoint", "python", f"fedmentor/{target}:{tag}", "-c", program])


@pytest.mark.parametrize("target", TARGETS)
def test_sizes_are_printed_and_within_bounds(images: str, target: str):
    line = next(line for line in images.splitlines() if line.startswith(f"fedmentor/{target}:{TAG} ") and line.endswith("MB"))
    total, own = (int(number) for number in re.findall(r"(\d+) MB", line))
    assert 0 < own <= OWN_MB[target]
    assert own < total


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is_and_is_nobodys_root(images: str, target: str):
    assert images
    config = json.loads(ran(["docker", "image", "inspect", f"fedmentor/{target}:{TAG}"]).stdout)[0]["Config"]
    assert config["User"] == "fedmentor"
    assert config["Entrypoint"][0] == "fedmentor"
    assert config["Volumes"] in (None, {})
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert labels["title"].startswith("FedMentor ")
    assert re.fullmatch(r"\d+\.\d+\.\d+", labels["version"])
    environment = " ".join(config["Env"])
    assert "INDEX_URL" not in environment
    assert config["Healthcheck"]["Test"][0] == ("NONE" if target == "steps" else "CMD")


def test_the_coordinator_has_no_torch(images: str):
    assert images
    done = python("coordinator", "import importlib.util as u; print([n for n in ('torch', 'opacus', 'monai') if u.find_spec(n)])")
    assert done.stdout.strip() == "[]"


def test_the_versions_are_the_pinned_ones(images: str):
    assert images
    program = "import torch, numpy, grpc; print(torch.__version__.split('+')[0], numpy.__version__, grpc.__version__)"
    inside = {target: python(target, program).stdout.split() for target in ("node", "teacher")}
    here = ran([sys.executable, "-c", program]).stdout.split()
    assert inside["node"] == inside["teacher"] == here


def test_no_package_is_missing_what_it_needs(images: str):
    assert images
    program = (
        "from importlib.metadata import distributions\n"
        "from packaging.requirements import Requirement\n"
        "found = {d.metadata['Name'].lower().replace('_', '-').replace('.', '-') for d in distributions()}\n"
        "for d in distributions():\n"
        "    for line in d.requires or ():\n"
        "        need = Requirement(line)\n"
        "        if need.marker is None or need.marker.evaluate({'extra': ''}):\n"
        "            name = need.name.lower().replace('_', '-').replace('.', '-')\n"
        "            if name not in found: print(d.metadata['Name'], 'needs', name)\n"
    )
    for target in ("node", "teacher"):
        done = python(target, program)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "", target


def test_buildkit_builds_the_same_image(images: str, builder: list[str]):
    assert images
    name = f"fedmentor/coordinator:{TAG}-buildkit"
    command = [*builder, "--file", str(ROOT / "deploy" / "Dockerfile"), "--target", "coordinator", "--tag", name]
    passed = [part for setting in BUILD_ARGUMENTS if os.environ.get(setting) for part in ("--build-arg", setting)]
    done = ran([*command, *passed, str(ROOT)], timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    usual, other = (
        json.loads(ran(["docker", "image", "inspect", one]).stdout)[0]["Config"] for one in (f"fedmentor/coordinator:{TAG}", name)
    )
    for key in ("User", "Entrypoint", "Cmd", "Healthcheck", "ExposedPorts", "WorkingDir", "Env"):
        assert other[key] == usual[key]
    assert set(other["Labels"]) == set(usual["Labels"])
    listed = "from importlib.metadata import distributions as d; print(sorted((x.name, x.version) for x in d()))"
    assert python("coordinator", listed).stdout == python("coordinator", listed, f"{TAG}-buildkit").stdout != ""


@pytest.mark.parametrize("target", ["coordinator", "node", "teacher"])
def test_a_container_without_its_volumes_says_what_is_missing(images: str, target: str):
    assert images
    done = ran(["docker", "run", "--rm", "--read-only", "--network", "none", f"fedmentor/{target}:{TAG}"])
    assert done.returncode in (2, 3, 70)
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(("error: ", "Usage: "))

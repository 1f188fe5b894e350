"""What the container tests share: the images, and one run of the same federation without containers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from containers_engine import PATIENCE_S, PROMETHEUS, ROOT, SCRIPT, TAG, engine_or_skip, ran
from containers_host import run_on_host


@pytest.fixture(scope="session")
def images() -> str:
    """What building the images printed."""
    engine_or_skip()
    done = ran([sys.executable, str(SCRIPT), "images"], env={**os.environ, "FEDMENTOR_TAG": TAG}, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def prometheus(images: str) -> str:
    """Name of an image with Debian's Prometheus, in which things lie where the official one has them."""
    assert images
    base = ["--build-arg", f"BASE_IMAGE={os.environ['BASE_IMAGE']}"] if os.environ.get("BASE_IMAGE") else []
    dockerfile = (ROOT / "tests" / "containers" / "prometheus.dockerfile").read_text()
    done = ran(["docker", "build", "--tag", PROMETHEUS, *base, "-"], input=dockerfile, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return PROMETHEUS


@pytest.fixture(scope="session")
def builder() -> list[str]:
    """A client of the engine that builds with BuildKit, and its environment's part; skips where there is none."""
    engine_or_skip()
    said = ["no client"]
    for folder in os.get_exec_path():
        client = shutil.which("docker", path=folder)
        if client is None:
            continue
        command = ["env", "DOCKER_BUILDKIT=1", client, "build"]
        done = ran([*command, "--tag", f"fedmentor/nothing:{TAG}", "-"], input="FROM scratch\nLABEL nothing=here\n")
        if done.returncode == 0:
            return command
        said = done.stderr.strip().splitlines() or said
    pytest.skip(f"no client here builds with BuildKit: {said[-1]}")


@pytest.fixture(scope="session")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Report of the run without containers."""
    engine_or_skip()
    folder: Path = tmp_path_factory.mktemp("host")
    return run_on_host(folder)

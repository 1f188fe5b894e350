"""The CI script: when it runs the container tests, and what counts as a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


class Checkout:
    """A folder in which the script's ``make`` and ``docker`` only note that they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = folder / "said"
        self.programs = folder / "bin"
        self.engine = folder / "shared" / "docker" / "engine.sh"
        (folder / "project" / ".ci").mkdir(parents=True)
        self.programs.mkdir()
        self.engine.parent.mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "run", folder / "project" / ".ci" / "run")
        self.make(0)
        self.program("docker", "exit 1")

    def program(self, name: str, text: str) -> None:
        """A shell script on the PATH."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def make(self, containers: int) -> None:
        """Every target is well, but ``test-containers`` ends with that code."""
        self.program("make", f'echo "make $*" >> {self.said}; test "$1" != test-containers || exit {containers}')

    def bring_up(self, code: int) -> None:
        """An engine script whose ``up`` ends with that code."""
        self.engine.write_text(f'echo "engine $1" >> {self.said}\ntest "$1" != up || exit {code}\n')

    def run(self) -> tuple[int, str, list[str]]:
        """Exit code, output, and what was called."""
        command = ["bash", str(self.folder / "project" / ".ci" / "run")]
        environment = {"PATH": f"{self.programs}{os.pathsep}{os.defpath}"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout, self.said.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Without an engine, and without real images."""
    return Checkout(tmp_path)


def test_without_an_engine_the_rest_counts_and_one_line_says_so(checkout: Checkout):
    code, output, called = checkout.run()
    assert (code, called) == (0, ["make lint", "make test"])
    assert output == (
        "container tests were not run: no container engine answers here, and there is no ../shared/docker/engine.sh\n"
    )


def test_an_engine_that_does_not_come_up_is_told_and_is_no_failure(checkout: Checkout):
    checkout.bring_up(1)
    code, output, called = checkout.run()
    assert (code, called) == (0, ["make lint", "make test", "engine up"])
    assert "container tests were not run: ../shared/docker/engine.sh brought no container engine up" in output


@pytest.mark.parametrize("containers", [0, 1])
def test_container_tests_count_and_the_engine_that_was_brought_up_is_stopped(checkout: Checkout, containers: int):
    checkout.bring_up(0)
    checkout.make(containers)
    code, _, called = checkout.run()
    assert called == ["make lint", "make test", "engine up", "make test-containers", "engine down"]
    assert (code != 0) == bool(containers)


def test_an_engine_that_answers_is_used_and_stays(checkout: Checkout):
    checkout.program("docker", "exit 0")
    checkout.bring_up(1)
    assert checkout.run()[2] == ["make lint", "make test", "make test-containers"]


def test_the_main_job_runs_where_real_images_are(checkout: Checkout):
    (checkout.folder / "shared" / "data" / "covid-cxr").mkdir(parents=True)
    assert "make demo DATA=../shared/data/covid-cxr ROUNDS=2" in checkout.run()[2]

"""What make would run, where a machine is not as tidy as the author's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def planned(*arguments: str) -> str:
    """The commands that make would run, without running them."""
    kept = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
    return done.stdout


def test_a_data_folder_may_have_spaces_in_its_name():
    assert '--data "my X-rays"' in planned("demo", "DATA=my X-rays")
    assert f'--data "{os.environ["HOME"]}/x"' in planned("demo", "DATA=~/x")
    assert planned("up", "DATA=my X-rays").startswith('DATA="my X-rays" ROUNDS="" ')


def test_an_environment_that_was_left_without_pip_is_completed():
    commands = planned("--always-make", "install").splitlines()
    (making,) = (line for line in commands if "-m venv" in line)
    assert making.startswith(".venv/bin/python -m pip --version")

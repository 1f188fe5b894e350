"""kill -9 of the coordinator and of sites at every step that they persist: plain, secure, and secure in groups; see kill_driver.py.

In the normal gate every place is come to with several kills a run. FEDMENTOR_KILL_RUNS is a number of runs with random kills, and
asks for a run of its own for every place besides. The counts are printed with -s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

RUNS = int(os.environ.get("FEDMENTOR_KILL_RUNS", "0"))
DRIVER = Path(__file__).with_name("kill_driver.py")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
MODES = ("plain", "secure", "grouped")
SEED = 20241115


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where an fsync costs nothing; what survives the kill of a process is the same there."""
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as place:
        yield Path(place)


def campaign(folder: Path, mode: str, size: str, *bug: str) -> dict[str, Any]:
    """Run the driver in a process of its own: it forks, which a process with threads should not."""
    command = [sys.executable, str(DRIVER), str(folder), mode, size, str(SEED), *bug]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def told(found: dict[str, Any]) -> str:
    """One line."""
    counts = ", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in ("kills", "runs", "places", "lost_groups"))
    return f"kill -9, {found['mode']}: {counts}, {len(found['failures'])} failures"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
def test_a_kill_at_any_step_loses_and_doubles_nothing(folder: Path, mode: str):
    found = campaign(folder, mode, "each" if RUNS else "chained")
    print(told(found))  # noqa: T201 - the campaign's result
    assert found["failures"] == []
    assert found["missed"] == []
    assert found["kills"] >= found["places"] > 60
    assert (found["lost_groups"] > 0) == (mode == "grouped")


@pytest.mark.timeout(7200)
@pytest.mark.skipif(not RUNS, reason="the long campaign sets FEDMENTOR_KILL_RUNS")
@pytest.mark.parametrize("mode", MODES)
def test_nor_do_kills_at_random_of_several_processes_and_of_what_recovers(folder: Path, mode: str):
    found = campaign(folder, mode, str(RUNS))
    print(told(found))  # noqa: T201 - the campaign's result
    assert found["failures"] == []
    assert found["kills"] > RUNS
    assert (found["lost_groups"] > 0) == (mode == "grouped")


@pytest.mark.parametrize(
    ("mode", "bug"), [("plain", "outbox-in-memory"), ("plain", "spool-in-memory"), ("secure", "marks-in-memory")]
)
def test_a_program_that_forgets_is_found_out(folder: Path, mode: str, bug: str):
    assert campaign(folder, mode, "chained", bug)["failures"]

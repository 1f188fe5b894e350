"""kill -9 around reserve, commit and release: the ledger never counts less than what left the site.

FEDMENTOR_LEDGER_KILLS is the number of kills: 200 in the normal gate, 1000 in the long campaign. The counts are printed with -s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("FEDMENTOR_LEDGER_KILLS", "200"))
DRIVER = Path(__file__).with_name("ledger_kill_driver.py")
SEED = 20231115


def campaign(folder: Path, kills: int, *bug: str) -> dict[str, Any]:
    """Run the driver in a process of its own: it forks, which a process with threads should not."""
    command = [sys.executable, str(DRIVER), str(folder), str(kills), str(SEED), *bug]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def test_the_ledger_never_counts_less_than_what_left(tmp_path: Path):
    found = campaign(tmp_path, KILLS)
    print(json.dumps(found, indent=2))  # noqa: T201 - the campaign's result
    assert found["kills"] == KILLS
    assert found["undercounted"] == 0
    assert found["left"] > 0, "something left, or nothing was tested"
    assert found["refused"] > 0, "budgets were used up on the way"
    for doing in ("open", "reserve", "commit", "release"):
        places = [place for place in found["places"] if place.startswith(doing)]
        assert {f"{doing}: before commit", f"{doing}: after commit", f"{doing}: before anchor"} <= {*places}


@pytest.mark.parametrize("bug", ["send-first", "forget"])
def test_a_ledger_that_does_is_found_out(tmp_path: Path, bug: str):
    assert campaign(tmp_path, 15, bug)["undercounted"] > 0

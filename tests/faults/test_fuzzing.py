"""Mutated inputs for everything that reads bytes; fuzz_driver.py says what counts as failure.

FEDMENTOR_FUZZ_EXECUTIONS is the number of inputs, the valid ones aside: a few in the normal gate, 1,000,000 in the long campaign.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXECUTIONS = int(os.environ.get("FEDMENTOR_FUZZ_EXECUTIONS", "60000"))
DRIVER = Path(__file__).with_name("fuzz_driver.py")
SEED = 20241124
FEWEST_TARGETS = 50


def campaign(executions: int, seed: int, *only: str) -> dict[str, Any]:
    """Run the driver in a process of its own, whose memory is that of the readers alone."""
    command = [sys.executable, str(DRIVER), str(executions), str(seed), *only]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.timeout(7200)
def test_whatever_is_read_is_read_or_refused():
    found = campaign(EXECUTIONS, SEED)
    print(  # noqa: T201 - the campaign's result
        f"fuzzing: {found['executions']} executions on {found['targets']} targets, {found['refused']} refused, "
        f"slowest {found['slowest_s']:.2f} s, memory +{found['growth_mb']:.0f} MB, {len(found['failures'])} failures"
    )
    assert found["failures"] == []
    assert found["targets"] >= FEWEST_TARGETS
    assert found["executions"] >= 0.99 * EXECUTIONS
    assert 0.3 < found["refused"] / found["executions"] < 0.95, "inputs are neither all good nor all nonsense"


def test_the_same_seed_makes_the_same_inputs():
    once, again = (campaign(500, SEED, "secagg") for _ in range(2))
    assert once["refused"] == again["refused"] > 0

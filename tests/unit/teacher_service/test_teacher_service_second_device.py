"""The teachers on a device that is not the processor: nothing is left behind on either side, and half precision casts as meant."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("second_device.py")
HALF = "bfloat16"


def told(*arguments):
    """What the program printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, PROGRAM, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return json.loads(finished.stdout)


@pytest.mark.parametrize("name", ["lite-medsam", "sam-med2d"])
def test_a_teacher_answers_there_as_here(name):
    answers = told(name, "float32", HALF)
    for precision, facts in answers.items():
        assert facts["device"] == "beside:0"
        assert facts["dtype"] == "torch.float32"
        assert facts["encoded_in_the_batch"]
        assert facts["found_on_the_disk"]
        assert facts["same_after_the_disk"]
        assert facts["preprocessing"].endswith(HALF) == (precision == HALF)
    assert answers["float32"]["apart"] < 5e-4  # float16 logits on either side
    assert answers["float32"]["embedding_apart"] < 1e-4
    assert 1e-3 < answers[HALF]["embedding_apart"] < 0.3


def test_sam_at_full_size_answers_there_as_here():
    answers = told("sam-vit-b", "float32", "float16")
    assert {(facts["device"], facts["dtype"]) for facts in answers.values()} == {("beside:0", "torch.float32")}
    assert answers["float32"]["apart"] < 1e-5
    assert answers["float32"]["embedding_apart"] < 1e-4
    assert 1e-5 < answers["float16"]["embedding_apart"] < 0.1


def test_the_wall_between_the_devices_holds():
    """Else everything above would pass for nothing."""
    lines = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import second_device",
        "kept = second_device.set_up()",
        "with second_device.Present(): torch.ones(2, device='beside:0') + torch.ones(2)",
    )
    command = [sys.executable, "-c", "\n".join(lines), str(PROGRAM.parent)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 1
    assert "expected all tensors to be on the same device, found beside and cpu" in finished.stderr

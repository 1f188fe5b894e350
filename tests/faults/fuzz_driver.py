"""Feeds mutated inputs to everything that reads bytes; prints what it found as JSON.

    python fuzz_driver.py EXECUTIONS SEED [TARGET]

What counts as failure: an exception that is no refusal, an input that takes more than HANG_SECONDS of the processor or does not
end in PATIENCE_SECONDS, or memory that grows by more than it may while a target is fed. Failures hold the input in hexadecimal; the
same seed makes the same inputs again.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import signal
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz_target import REFUSALS, Target
from fuzz_targets import all_targets

HANG_SECONDS = 1.0
PATIENCE_SECONDS = 30
MAX_FAILURES = 5
"""Of one target; more of them say the same."""

MAX_SHOWN_BYTES = 400
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile


@dataclass
class Found:
    """Counts over all targets.

    Attributes:
        refused: inputs that were refused; the others were read.
        slowest_s: the most of the processor that an input took.
        growth_mb: the most that memory grew while a target was fed.
        rates: executions a second of each target.
    """

    executions: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    growth_mb: float = 0.0
    targets: int = 0
    rates: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def megabytes(name: str) -> float:
    """A line of /proc/self/status, which is in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def feed(name: str, target: Target, executions: int, seed: int, found: Found) -> None:
    """Feed one target; its inputs depend on the seed and its name alone."""
    dice, failed = random.Random(f"{seed} {name}"), 0
    for known in (*target.corpus, *target.found):
        run(name, target, known, found)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before_mb, start_s = megabytes("VmRSS"), time.perf_counter()
    for _ in range(executions):
        failed += not run(name, target, target.mutate(dice.choice(target.corpus), target.corpus, dice), found)
        if failed >= MAX_FAILURES:
            break
    signal.alarm(0)
    found.rates[name] = round(executions / (time.perf_counter() - start_s))
    growth_mb = megabytes("VmHWM") - before_mb
    found.growth_mb = max(found.growth_mb, growth_mb)
    if growth_mb > target.growth_mb:
        found.failures.append(f"{name}: memory grew by {growth_mb:.0f} MB")


def run(name: str, target: Target, data: bytes, found: Found) -> bool:
    """One execution; whether it ended as it may."""
    found.executions += 1
    start_s, fault = time.process_time(), ""
    signal.alarm(PATIENCE_SECONDS)
    try:
        target.read(data)
    except REFUSALS:
        found.refused += 1
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        fault = f"{type(error).__name__}: {str(error)[:200]}"
    took_s = time.process_time() - start_s
    found.slowest_s = max(found.slowest_s, took_s)
    if took_s > HANG_SECONDS:
        fault = fault or f"took {took_s:.1f} s"
    if fault:
        found.failures.append(f"{name}: {fault}; {len(data)} bytes: {data[:MAX_SHOWN_BYTES].hex()}")
    return not fault


def give_up(_number: int, _frame: object) -> None:
    """An input that does not end: an exception like any other."""
    raise TimeoutError(f"not over after {PATIENCE_SECONDS} s")


def main(executions: int, seed: int, only: str = "") -> Found:
    """Feed every target its share."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, give_up)
    found, start_s = Found(), time.perf_counter()
    with TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        targets = all_targets(Path(folder))
        chosen = {name: target for name, target in targets.items() if only in name}
        whole = sum(target.share for target in chosen.values())
        for name, target in chosen.items():
            feed(name, target, max(1, round(executions * target.share / whole)), seed, found)
        found.targets = len(chosen)
    found.seconds = round(time.perf_counter() - start_s, 1)
    return found


if __name__ == "__main__":
    result = main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:4])
    sys.stdout.write(json.dumps(vars(result)) + "\n")

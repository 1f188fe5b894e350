"""What the scripts of this folder share: running docker, telling people, failing with an exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXIT_USAGE, EXIT_CONFIG, EXIT_POLICY, EXIT_PEER, EXIT_INTERRUPTED = 2, 3, 4, 5, 130


class Fault(Exception):
    """What to tell, and the exit code."""

    def __init__(self, text: str, code: int = EXIT_CONFIG) -> None:
        super().__init__(text)
        self.code = code


def docker(*arguments: str) -> str:
    """Run docker and give what it prints.

    Raises:
        Fault: it failed.
    """
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Fault(f"error: docker {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def say(line: str) -> None:
    """One line for people, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

"""Makes constraints.txt: the one set of pinned versions, for Python 3.10 to 3.12.

Usage (Python 3.11 or newer): python deploy/constraints.py PYTHON3.10 PYTHON3.11 PYTHON3.12 > constraints.txt

Each interpreter resolves pyproject.toml's dependencies with ``pip install --dry-run``; a package whose version differs between
interpreters gets one line each, with a marker. Nothing is installed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import tomllib

TORCH = "torch==2.13.0"
ROOT = Path(__file__).resolve().parent.parent
# A CUDA build of torch pins these itself; a CPU build has none of them.
FOLLOW_TORCH = re.compile(r"nvidia-|cuda-|triton")

HEADER = """\
# Every version that an installation of FedMentor uses, for Python 3.10 to 3.12; made by deploy/constraints.py.
# PyTorch: pip takes a CPU build where one is offered; the version is the same either way.
"""


def requirements() -> list[str]:
    """Dependencies and all extras of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return sorted({*project["dependencies"], *extras} - {"torch"})


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """The interpreter's minor version and the versions that pip would install there."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--only-binary", ":all:"]
        subprocess.run([*command, "--report", str(report), TORCH, *requirements()], check=True, stdout=sys.stderr)
        found = json.loads(report.read_text())
    versions = {entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"] for entry in found["install"]}
    return found["environment"]["python_version"], {
        name: version.split("+")[0] for name, version in versions.items() if not FOLLOW_TORCH.match(name)
    }


def merge(resolved: dict[str, dict[str, str]]) -> list[str]:
    """One line a package where all interpreters agree, else one a version with a marker."""
    lines = []
    for name in sorted({name for versions in resolved.values() for name in versions}):
        pythons = defaultdict(list)
        for python, versions in sorted(resolved.items()):
            if name in versions:
                pythons[versions[name]].append(python)
        for version, where in pythons.items():
            everywhere = len(pythons) == 1
            marker = "" if everywhere else "; " + " or ".join(f"python_version == '{python}'" for python in where)
            lines.append(f"{name}=={version}{marker}")
    return lines


if __name__ == "__main__":
    sys.stdout.write(HEADER + "\n".join(merge(dict(resolve(python) for python in sys.argv[1:]))) + "\n")

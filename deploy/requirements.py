"""Writes pyproject.toml's dependencies as pip's requirement files, one for each layer of the images.

Usage: python deploy/requirements.py PYPROJECT FOLDER

Files of their own, because a layer is built again when its input changes, and pyproject.toml changes for many reasons.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib

TORCH = "torch"


def main(pyproject: Path, folder: Path) -> None:
    """Write core.txt, torch.txt, node.txt and teacher.txt."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    layers = {"core": project["dependencies"], "torch": [TORCH], "node": extras["node"], "teacher": extras["teacher"]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in layers.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Makes one folder from which FedMentor is installed on a machine without a network.

Usage: python deploy/bundle.py FOLDER

The wheels are for the interpreter that runs this, and for its platform. The container images are in it where an engine answers.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from containers import find_federation
from engine import EXIT_CONFIG, EXIT_USAGE, ROOT, Fault, say
from images import TARGETS, build, image_name, version

EXTRAS = "node,teacher,study"
BUNDLED = (
    "LICENSE",
    "deploy/compose.yaml",
    "deploy/compose.data.yaml",
    "deploy/containers.py",
    "deploy/engine.py",
    "deploy/images.py",
    "deploy/monitoring/alerts.yml",
    "deploy/monitoring/prometheus.yml",
    "deploy/prometheus.yml",
    "deploy/systemd/fedmentor-node.service",
)
PACKAGES = ("fedmentor", "teacher_service", "fed_node", "coordinator", "study")
SUMS_FILE = "SHA256SUMS"
BLOCK_BYTES = 1 << 20


def main(folder: Path) -> int:
    """Make the bundle and give the exit code."""
    if folder.exists() and any(folder.iterdir()) and not (folder / SUMS_FILE).exists():
        sys.stderr.write(f"error: {folder} is not empty and is no bundle\n  try: another folder\n")
        return EXIT_CONFIG
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        collect_wheels(folder / "wheels")
        build_teacher(folder / "teacher.mar")
        save_images(folder)
    except Fault as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.code
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"error: {' '.join(map(str, error.cmd[:4]))} … ended with exit code {error.returncode}\n")
        return EXIT_CONFIG
    copy_files(folder)
    write_sums(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{folder}: {size / 1e9:.2f} GB; on the other machine: sh install.sh FOLDER")
    return 0


def collect_wheels(folder: Path) -> None:
    """FedMentor and everything that it needs, as wheels in the pinned versions."""
    say("wheels ...")
    index = ["--extra-index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check", *index]
    pinned = ["--constraint", str(ROOT / "constraints.txt"), "--wheel-dir", str(folder)]
    with tempfile.TemporaryDirectory() as sources:  # setuptools would take along what an earlier build left in the checkout
        for name in PACKAGES:
            shutil.copytree(ROOT / name, Path(sources, name), ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, sources)
        subprocess.run([*command, *pinned, f"{sources}[{EXTRAS}]"], check=True)


def build_teacher(archive: Path) -> None:
    """The teacher that is served where no other one is named."""
    say("teacher ...")
    subprocess.run([sys.executable, "-m", "fedmentor", "teacher", "build", "--out", str(archive)], check=True, stdout=sys.stderr)


def save_images(folder: Path) -> None:
    """The container images; without an engine, a line that says so."""
    try:
        federation = find_federation()
    except Fault as fault:
        say(f"no container images in this bundle: {str(fault).splitlines()[0].removeprefix('error: ')}")
        return
    say("images ...")
    tag = os.environ.get("FEDMENTOR_TAG") or version()
    os.environ["FEDMENTOR_TAG"] = tag
    build(federation.results)
    names = [image_name(target) for target in TARGETS]
    subprocess.run(["docker", "save", "--output", str(folder / "images.tar"), *names], check=True)
    (folder / "images.tar").chmod(0o644)  # docker writes it for its owner only
    (folder / "TAG").write_text(f"{tag}\n")


def copy_files(folder: Path) -> None:
    """Installer, explanation, and what brings containers up."""
    for name in ("install.sh", "README.txt"):
        shutil.copy(ROOT / "deploy" / "bundle" / name, folder / name)
    for name in BUNDLED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    made_for = f"{sys.version_info[0]}.{sys.version_info[1]} {sys.platform} {platform.machine()}"
    (folder / "PYTHON").write_text(f"{made_for}\n")


def write_sums(folder: Path) -> None:
    """SHA-256 of every file, as sha256sum writes and checks it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    (folder / SUMS_FILE).write_text("".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files))


def sha256(path: Path) -> str:
    """Digest of a file of any size, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python deploy/bundle.py FOLDER\n")
        sys.exit(EXIT_USAGE)
    sys.exit(main(Path(sys.argv[1])))

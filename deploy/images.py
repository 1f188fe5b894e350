"""The container images: building them, their sizes, and whether those that were asked for are here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from engine import ROOT, Fault, docker, say

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TARGETS = ("coordinator", "node", "teacher", "steps")
BUILD_ARGUMENTS = ("BASE_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "TORCH_INDEX")
"""Settings of the builder's that reach the Dockerfile where the environment has them."""


def build(logs: Path) -> None:
    """Build what is not built yet; one line an image, and what the builder says in a file of ``logs``.

    Raises:
        Fault: a build failed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    labels = ["--build-arg", f"VERSION={version()}", "--build-arg", f"REVISION={revision()}"]
    passed = [part for name in BUILD_ARGUMENTS if os.environ.get(name) for part in ("--build-arg", name)]
    for target in TARGETS:
        started, log = time.monotonic(), logs / f"build-{target}.log"
        command = ["docker", "build", "--file", str(DOCKERFILE), "--target", target, "--tag", image_name(target), *passed, *labels]
        with log.open("wb") as output:
            done = subprocess.run([*command, str(ROOT)], stdout=output, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise Fault(f"{last}\nerror: the image {image_name(target)} was not built\n  try: read {log}")
        say(f"image {image_name(target)}: {time.monotonic() - started:.0f} s")


def provide(logs: Path) -> None:
    """Build the images; or, where FEDMENTOR_TAG names some, see that they are here.

    Raises:
        Fault: a build failed, or an image is missing.
    """
    if not os.environ.get("FEDMENTOR_TAG"):
        build(logs)
        return
    engine = docker("version", "--format", "{{.Server.Arch}}")
    for target in TARGETS:
        command = ["docker", "image", "inspect", "--format", "{{.Architecture}}", image_name(target)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode != 0:
            raise Fault(f"error: there is no image {image_name(target)} here\n  try: make images, or docker load")
        if found.stdout.strip() != engine:
            built_for = f"error: the image {image_name(target)} was built for {found.stdout.strip()}, and this engine is {engine}"
            raise Fault(f"{built_for}\n  try: make images on this machine")


def provide_prometheus() -> None:
    """See that the image of the profile ``monitoring`` is here, or have it fetched.

    Raises:
        Fault: it cannot be had.
    """
    compose = ROOT / "deploy" / "compose.yaml"
    image = os.environ.get("FEDMENTOR_PROMETHEUS_IMAGE") or _first(r"FEDMENTOR_PROMETHEUS_IMAGE:-([^}]+)}", compose)
    if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0:
        return
    try:
        docker("pull", image)
    except Fault as fault:
        cure = "docker load it, or name one that is here with FEDMENTOR_PROMETHEUS_IMAGE"
        raise Fault(f"{fault}\nerror: the image {image} is not here and cannot be fetched\n  try: {cure}") from fault


def print_sizes() -> None:
    """A table of the images' sizes, with and without their base."""
    base = image_bytes(os.environ.get("BASE_IMAGE") or base_image())
    say(f"{'image':32}{'total':>10}{'own layers':>12}")
    for target in TARGETS:
        total = image_bytes(image_name(target))
        say(f"{image_name(target):32}{total / 1e6:>7.0f} MB{(total - base) / 1e6:>9.0f} MB")
    say(f"own layers: beside the base image of {base / 1e6:.0f} MB; node, teacher and steps share most of theirs")


def image_name(target: str) -> str:
    """Name and tag of an image."""
    return f"fedmentor/{target}:{os.environ.get('FEDMENTOR_TAG') or 'latest'}"


def base_image() -> str:
    """The Dockerfile's own choice."""
    return _first(r"(?m)^ARG BASE_IMAGE=(\S+)$", DOCKERFILE)


def image_bytes(name: str) -> int:
    """Size of an image with everything below it."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", name))


def version() -> str:
    """FedMentor's version."""
    return _first(r'__version__ = "([^"]+)"', ROOT / "fedmentor" / "__init__.py")


def revision() -> str:
    """The commit, where this is a checkout."""
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _first(pattern: str, file: Path) -> str:
    found = re.search(pattern, file.read_text())
    if found is None:
        raise Fault(f"error: {file} has no line like {pattern}")
    return found[1]

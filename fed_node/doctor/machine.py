"""The machine: disk, memory, processors, installed libraries. Pure but for ``machine_facts``."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fed_node.doctor.finding import Finding, fault, good, note, warning
from fedmentor.disk import check_writable

DISK_FAULT_BYTES = 100 << 20
"""A few updates and models of 1.3 MB with SQLite's log; less stops a round half-way."""

DISK_WARNING_BYTES = 1 << 30

MEMORY_FAULT_BYTES = 1 << 30
"""Torch and a batch; measured 0.7 GB for SM-lite with a few hundred images."""

MEMORY_WARNING_BYTES = 2 << 30

LIBRARIES = ("torch", "monai", "opacus", "pydicom", "nibabel", "gdcm", "highdicom", "scipy")
"""What the extra ``node`` installs."""


@dataclass(frozen=True)
class MachineFacts:
    """What a machine has.

    Attributes:
        cores: that this process may use.
        memory_bytes: available without swapping, a container's limit included; None where unknown.
        gpu: a GPU's driver is loaded.
        missing: libraries of the extra ``node`` that are not installed.
    """

    cores: int
    memory_bytes: int | None
    gpu: bool
    missing: tuple[str, ...]


@dataclass(frozen=True)
class FolderFacts:
    """A folder that the node writes to.

    Attributes:
        path: the folder.
        exists: whether it is there already.
        problem: why it cannot be written; empty where it can.
        free_bytes: on its disk; None where unknown.
        mode: its permission bits, where it exists.
    """

    path: Path
    exists: bool
    problem: str
    free_bytes: int | None
    mode: int | None


def libraries(missing: Sequence[str]) -> Finding:
    """Whether the extra ``node`` is complete."""
    if missing:
        return fault("libraries", f"not installed: {', '.join(missing)}", "install fedmentor with its extra 'node'")
    return good("libraries", "everything that training and reading need is installed")


def threads(configured: int, cores: int) -> Finding:
    """Whether the threads fit the processors: two pools on the same cores are several times slower than one thread each."""
    if configured > cores:
        return warning("threads", f"{configured} threads are configured on {cores} usable cores", f"set threads to {cores} or less")
    return good("threads", f"{configured} of {cores} usable cores")


def gpu(present: bool) -> Finding:  # noqa: FBT001 - the one fact there is
    """A GPU is not needed."""
    return note("gpu", "there is one; training does not use it" if present else "none, and none is needed: training uses the CPU")


def memory(available_bytes: int | None) -> Finding:
    """Whether training fits the memory."""
    if available_bytes is None:
        return note("memory", "unknown on this system")
    what = f"{available_bytes / 1e9:.1f} GB available"
    if available_bytes < MEMORY_FAULT_BYTES:
        return fault("memory", what, "free memory or raise the container's limit to 2 GB or more")
    if available_bytes < MEMORY_WARNING_BYTES:
        return warning("memory", what, "2 GB are better with more than a few hundred images")
    return good("memory", what)


def folder(check: str, facts: FolderFacts) -> list[Finding]:
    """Whether a folder can be written, has space, and is closed to others."""
    if facts.problem:
        return [fault(check, f"{facts.path} cannot be written: {facts.problem}", "give the node's user a folder that it owns")]
    what = f"{facts.path}: " + ("writable" if facts.exists else "is not there yet and can be made")
    findings = [_space(check, what, facts.free_bytes)]
    if facts.mode is not None and facts.mode & 0o077:
        findings.append(warning(check, f"{facts.path} is open to others (mode {facts.mode:04o})", f"chmod 700 {facts.path}"))
    return findings


def parse_memory(meminfo: str, limit: str, usage: str) -> int | None:
    """Available bytes from /proc/meminfo and a control group's limit and usage; texts may be empty.

    Args:
        meminfo: lines like ``MemAvailable:   123 kB``.
        limit: ``max`` or bytes.
        usage: bytes.
    """
    free = [int(line.split()[1]) * 1024 for line in meminfo.splitlines() if line.startswith("MemAvailable:")]
    if limit.strip().isdigit() and usage.strip().isdigit():
        free.append(max(0, int(limit) - int(usage)))
    return min(free, default=None)


def parse_quota(cpu_max: str) -> float | None:
    """Processors that a control group grants, from ``cpu.max`` (``QUOTA PERIOD`` or ``max PERIOD``); None for no limit."""
    parts = cpu_max.split()
    return int(parts[0]) / int(parts[1]) if len(parts) == 2 and all(part.isdigit() for part in parts) else None


def machine_facts() -> MachineFacts:
    """Look at this machine."""
    group = Path("/sys/fs/cgroup")
    texts = [_text(path) for path in (Path("/proc/meminfo"), group / "memory.max", group / "memory.current", group / "cpu.max")]
    quota = parse_quota(texts[3])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return MachineFacts(
        cores=cores if quota is None else max(1, min(cores, int(quota))),
        memory_bytes=parse_memory(texts[0], texts[1], texts[2]),
        gpu=Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists(),
        missing=tuple(name for name in LIBRARIES if importlib.util.find_spec(name) is None),
    )


def folder_facts(path: Path) -> FolderFacts:
    """Look at a folder that may not exist yet; makes nothing."""
    try:
        check_writable(path)
        problem = ""
    except OSError as error:
        problem = error.strerror or type(error).__name__
    place = path.absolute()
    while not place.exists():
        place = place.parent
    exists = path.is_dir()
    return FolderFacts(path, exists, problem, shutil.disk_usage(place).free, path.stat().st_mode & 0o777 if exists else None)


def _space(check: str, what: str, free_bytes: int | None) -> Finding:
    if free_bytes is None:
        return note(check, what)
    said = f"{what}, {free_bytes / 1e9:.1f} GB free"
    if free_bytes < DISK_FAULT_BYTES:
        return fault(check, said, "free some space")
    return warning(check, said, "free some space") if free_bytes < DISK_WARNING_BYTES else good(check, said)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""

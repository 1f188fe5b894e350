"""The model archive (.mar) that TorchServe loads: the converted weights, their digest, and the handler.

The archive is stored, not compressed: weights do not shrink, and packing a gigabyte then takes seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from fedmentor.errors import ConfigError, ModelError
from teacher_service.settings import MODEL_NAME
from teacher_service.weights import file_sha256, weights_facts

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "teacher.json"
HANDLER_FILE = "handler.py"
MODEL_CONFIG_FILE = "model-config.yaml"
BATCH_IMAGES = 4
"""Requests handed to the worker together. Small, because a request waits for its whole batch."""

BATCH_DELAY_MS = 5
"""How long TorchServe waits for a batch to fill; a lone request always waits that long."""

RESPONSE_SECONDS = 120
"""After that TorchServe kills the worker: a full batch of SAM-Med2D on one busy core stays below it."""

STARTUP_SECONDS = 180
"""Loading a gigabyte of weights on a busy machine."""


_BUILD = "build one with 'fedmentor teacher build'"


def build_archive(weights: Path, target: Path) -> Path:
    """Pack converted weights.

    Args:
        weights: what ``fedmentor teacher convert`` wrote.
        target: the .mar file to write; an older one is replaced.

    Returns:
        ``target``.

    Raises:
        ModelError: not a converted file.
        ConfigError: the archiver failed.
    """
    facts = weights_facts(weights)
    target = target.absolute()  # the archiver works in another folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".archive-", dir=target.parent) as temporary:
        folder = Path(temporary)
        _stage(folder, weights, facts)
        _run_archiver(folder)
        (folder / f"{MODEL_NAME}.mar").replace(target)
    return target


def check_archive(path: Path) -> None:
    """Refuse what ``build_archive`` did not write, before a server is started that would try to load it for minutes.

    Raises:
        ModelError: not such an archive, or a truncated one.
    """
    try:
        with ZipFile(path) as archive:
            missing = {WEIGHTS_FILE, CONFIG_FILE, HANDLER_FILE} - set(archive.namelist())
    except (OSError, BadZipFile) as error:
        raise ModelError(f"{path} cannot be read as a model archive", cure=_BUILD) from error
    if missing:
        raise ModelError(f"{path} is not a teacher's archive: it lacks {', '.join(sorted(missing))}", cure=_BUILD)


def _stage(folder: Path, weights: Path, facts: Mapping[str, str]) -> None:
    (folder / WEIGHTS_FILE).symlink_to(weights.resolve())
    (folder / CONFIG_FILE).write_text(json.dumps({**facts, "weights_sha256": file_sha256(weights)}, indent=1))
    (folder / HANDLER_FILE).symlink_to(Path(__file__).with_name(HANDLER_FILE))
    (folder / MODEL_CONFIG_FILE).write_text(model_config())


def _run_archiver(folder: Path) -> None:
    """Run torch-model-archiver as a process of its own: it builds in a folder of a fixed name below TMPDIR."""
    options = {
        "--model-name": MODEL_NAME,
        "--version": "1.0",
        "--handler": HANDLER_FILE,
        "--extra-files": f"{WEIGHTS_FILE},{CONFIG_FILE}",
        "--config-file": MODEL_CONFIG_FILE,
        "--archive-format": "zip-store",
        "--export-path": str(folder),
    }
    command = [sys.executable, "-m", "model_archiver.model_packaging", *(part for pair in options.items() for part in pair)]
    done = subprocess.run(  # noqa: S603  # fixed program, own arguments
        command, cwd=folder, env={**os.environ, "TMPDIR": str(folder)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError(f"torch-model-archiver failed: {last_line[:200]}", cure="check that the disk has room for the archive")


def model_config() -> str:
    """model-config.yaml: one worker, because its embedding cache is its own and requests are not sticky."""
    return (
        "minWorkers: 1\n"
        "maxWorkers: 1\n"
        f"batchSize: {BATCH_IMAGES}\n"
        f"maxBatchDelay: {BATCH_DELAY_MS}\n"
        f"responseTimeout: {RESPONSE_SECONDS}\n"
        f"startupTimeout: {STARTUP_SECONDS}\n"
    )

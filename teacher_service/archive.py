"""The model archive (.mar) that TorchServe loads: the converted weights, their digest, and the handler.

The archive is stored, not compressed: weights do not shrink, and packing a gigabyte then takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile, ZipInfo

from fedmentor.errors import ConfigError, DigestMismatch, ModelError
from fedmentor.teacher.pace import Pace, pace_of
from teacher_service.compute import MAX_IMAGES_AT_ONCE
from teacher_service.models.registry import ARCHITECTURES, architecture
from teacher_service.settings import MODEL_NAME
from teacher_service.weights import file_sha256, weights_facts

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "teacher.json"
HANDLER_FILE = "handler.py"
MODEL_CONFIG_FILE = "model-config.yaml"
BATCH_DELAY_MS = 5
"""How long TorchServe waits for a batch to fill; a lone request always waits that long."""

_MANIFEST = "MAR-INF/MANIFEST.json"
_MEMBERS = {WEIGHTS_FILE, CONFIG_FILE, HANDLER_FILE, MODEL_CONFIG_FILE, _MANIFEST}
_MAX_SMALL_BYTES = 1 << 20
_READ_BYTES = 1 << 20

_BUILD = "build one with 'fedmentor teacher build'"


def build_archive(weights: Path, target: Path, batch_images: int | None = None) -> Path:
    """Pack converted weights.

    Args:
        weights: what ``fedmentor teacher convert`` wrote.
        target: the .mar file to write; an older one is replaced.
        batch_images: requests handed to the worker together, 1 to MAX_IMAGES_AT_ONCE; a GPU encodes them together. None for as
            many as suit the architecture on a CPU.

    Returns:
        ``target``.

    Raises:
        ModelError: not a converted file.
        ConfigError: the archiver failed, or ``batch_images`` is out of range.
    """
    if batch_images is not None and not 1 <= batch_images <= MAX_IMAGES_AT_ONCE:
        raise ConfigError(f"batches of {batch_images} images are out of range", cure=f"give 1 to {MAX_IMAGES_AT_ONCE}")
    facts = weights_facts(weights)
    target = target.absolute()  # the archiver works in another folder
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".archive-", dir=target.parent) as temporary:
        folder = Path(temporary)
        _stage(folder, weights, facts, batch_images)
        _run_archiver(folder)
        (folder / f"{MODEL_NAME}.mar").replace(target)
    return target


def check_archive(path: Path, *, named: Path | None = None) -> Pace:
    """Refuse what ``build_archive`` of this version did not write, before a server is started that would run it.

    An archive carries code. This lets none run but our own: it holds our files and no others, the handler and its settings are this
    version's to the byte, and the weights are those that were packed.

    Args:
        path: the .mar file.
        named: what errors call it, where it is a copy.

    Returns:
        How long its worker may take, and how much it gets at a time.

    Raises:
        ModelError: not such an archive, or a truncated one.
        DigestMismatch: other weights than were packed.
    """
    name = path if named is None else named
    try:
        with ZipFile(path) as archive:
            _check_members(name, archive)
            config = json.loads(archive.read(CONFIG_FILE))
            pace = _pace_in(archive, config)
            state = hashlib.sha256()
            with archive.open(WEIGHTS_FILE) as weights:
                while block := weights.read(_READ_BYTES):
                    state.update(block)
    except (OSError, BadZipFile, ValueError, NotImplementedError) as error:
        raise ModelError(f"{name} cannot be read as a model archive", cure=_BUILD) from error
    if not isinstance(config, dict) or state.hexdigest() != config.get("weights_sha256"):
        raise DigestMismatch(f"the weights in {name.name} are not those that were packed", cure=_BUILD)
    if pace is None:
        raise _other_code(name)
    return pace


def _pace_in(archive: ZipFile, config: object) -> Pace | None:
    """The pace whose model-config.yaml the archive holds, to the byte; None for any other settings."""
    known = ARCHITECTURES.get(str(config.get("architecture"))) if isinstance(config, dict) else None
    held = archive.read(MODEL_CONFIG_FILE)
    paces = () if known is None else (pace_of(known.image_seconds, images) for images in range(1, MAX_IMAGES_AT_ONCE + 1))
    return next((pace for pace in paces if model_config(pace).encode() == held), None)


def _other_code(path: Path) -> ModelError:
    return ModelError(f"{path} holds other code or settings than this version's", cure=_BUILD)


def _check_members(path: Path, archive: ZipFile) -> None:
    names = archive.namelist()
    if missing := _MEMBERS - set(names):
        raise ModelError(f"{path} is not a teacher's archive: it lacks {', '.join(sorted(missing))}", cure=_BUILD)
    if foreign := sorted(set(names) - _MEMBERS):
        raise ModelError(f"{path} holds {foreign[0][:80]!r}, which no teacher's archive does", cure=_BUILD)
    if len(names) != len(_MEMBERS) or any(entry.file_size > _MAX_SMALL_BYTES for entry in archive.infolist() if _is_small(entry)):
        raise ModelError(f"{path} is not a teacher's archive: a file is there twice, or too large", cure=_BUILD)
    manifest = json.loads(archive.read(_MANIFEST))
    model = {**manifest["model"]} if isinstance(manifest, dict) and isinstance(manifest.get("model"), dict) else {}
    ours = {"handler": HANDLER_FILE, "modelName": MODEL_NAME, "configFile": MODEL_CONFIG_FILE, "modelVersion": "1.0"}
    if model != ours or archive.read(HANDLER_FILE) != _handler_source():
        raise _other_code(path)


def _is_small(entry: ZipInfo) -> bool:
    return entry.filename != WEIGHTS_FILE


def _handler_source() -> bytes:
    return Path(__file__).with_name(HANDLER_FILE).read_bytes()


def _stage(folder: Path, weights: Path, facts: Mapping[str, str], batch_images: int | None) -> None:
    (folder / WEIGHTS_FILE).symlink_to(weights.resolve())
    (folder / CONFIG_FILE).write_text(json.dumps({**facts, "weights_sha256": file_sha256(weights)}, indent=1))
    (folder / HANDLER_FILE).symlink_to(Path(__file__).with_name(HANDLER_FILE))
    pace = pace_of(architecture(facts["architecture"]).image_seconds, batch_images)
    (folder / MODEL_CONFIG_FILE).write_text(model_config(pace))


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


def model_config(pace: Pace) -> str:
    """model-config.yaml: one worker, because its embedding cache is its own and requests are not sticky."""
    return (
        "minWorkers: 1\n"
        "maxWorkers: 1\n"
        f"batchSize: {pace.batch_images}\n"
        f"maxBatchDelay: {BATCH_DELAY_MS}\n"
        f"responseTimeout: {pace.response_s}\n"
        f"startupTimeout: {pace.startup_s:.0f}\n"
    )

"""The run folder before a start, and the server's own copy of the archive in it.

An archive is code. What the keeper's server runs is a copy that nobody else writes, checked after it was made, and checked again
before every start: a file that is changed in place afterwards, here or where it came from, is found out before the next start.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from fedmentor.disk import disk_failed
from fedmentor.errors import ConfigError, DigestMismatch, ModelError
from fedmentor.ids import Digest
from fedmentor.teacher.endpoint import STATE_FILE
from fedmentor.teacher.pace import Pace
from teacher_service import settings
from teacher_service.archive import build_archive, check_archive
from teacher_service.convert import convert_bundled
from teacher_service.weights import file_sha256

_READABLE_FOR_ITS_OWNER = 0o400


def lay_out(run_folder: Path) -> None:
    """Make the run folder what a fresh server expects, whatever an earlier one left; its archive stays."""
    for name in (STATE_FILE, settings.KEY_FILE, settings.REFUSAL_FILE, settings.STOPPING_FILE):
        (run_folder / name).unlink(missing_ok=True)
    shutil.rmtree(run_folder / settings.TEMPORARY_FOLDER, ignore_errors=True)
    for name in (settings.TEMPORARY_FOLDER, settings.STORE_FOLDER, settings.LOG_FOLDER):
        (run_folder / name).mkdir(exist_ok=True)
    for left in (run_folder / settings.STORE_FOLDER).iterdir():
        if left != packed_archive(run_folder):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def packed_archive(run_folder: Path) -> Path:
    """The only archive that the server of a run folder finds."""
    return run_folder / settings.STORE_FOLDER / f"{settings.MODEL_NAME}.mar"


@dataclass(frozen=True)
class Packed:
    """The server's own copy of an archive.

    Attributes:
        path: in the run folder's store.
        sha256: of the file when it was checked.
        pace: what its worker is allowed.
    """

    path: Path
    sha256: Digest
    pace: Pace


def provide_archive(run_folder: Path, archive: Path | None, pinned: Digest | None, batch_images: int | None) -> Packed:
    """Put the archive where the server finds it, and check what was put there.

    Args:
        run_folder: as ``lay_out`` left it.
        archive: what ``build_archive`` wrote; None for LiteMedSAM as installed.
        pinned: its SHA-256 as ``fedmentor teacher build`` printed it, from a place that whoever replaces archives cannot write;
            None for any.
        batch_images: of LiteMedSAM as installed; see build_archive.

    Raises:
        ModelError, DigestMismatch: see check_archive; or the archive was changed while it was copied.
        ConfigError: there is no room for a copy.
    """
    packed = packed_archive(run_folder)
    if archive is None:
        weights = run_folder / settings.TEMPORARY_FOLDER / "weights.safetensors"
        convert_bundled(weights)
        build_archive(weights, packed, batch_images)
        weights.unlink()
        sha256 = file_sha256(packed)
    else:
        sha256 = file_sha256(archive)
        if pinned not in (None, sha256):
            raise DigestMismatch(
                f"{archive} is not the archive that was pinned", cure="serve the one that was built, or pin this one"
            )
        if not _is_copy(packed, sha256):
            _copy(archive, packed, sha256)
    try:
        pace = check_archive(packed, named=archive)
    except ModelError:
        packed.unlink()
        raise
    packed.chmod(_READABLE_FOR_ITS_OWNER)
    return Packed(packed, sha256, pace)


def _is_copy(packed: Path, sha256: Digest) -> bool:
    """Whether an earlier start left the same; a link is none, because the file could be changed through its other name."""
    return packed.is_file() and not packed.is_symlink() and packed.stat().st_nlink == 1 and file_sha256(packed) == sha256


def _copy(archive: Path, packed: Path, sha256: Digest) -> None:
    packed.unlink(missing_ok=True)  # first, so that the disk never has to hold two
    try:
        shutil.copyfile(archive, packed)
    except OSError as error:
        packed.unlink(missing_ok=True)
        if not disk_failed(error):
            raise
        need = f"{archive.stat().st_size / 1e6:.0f} MB"
        raise ConfigError(f"there is no room for a copy of {archive}", cure=f"free {need}, or use another --run-dir") from error
    if file_sha256(packed) != sha256:
        packed.unlink()
        raise DigestMismatch(f"{archive} was changed while it was copied", cure="find out who writes there, then start again")

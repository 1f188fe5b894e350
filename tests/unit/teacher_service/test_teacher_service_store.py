"""The server's own copy of an archive: its pace, that it is a copy, and what happens when something else than it was turns up."""

import errno
import json
import os
import shutil
from zipfile import ZipFile

import pytest
import torch
from safetensors.torch import load_file

from fedmentor.errors import ConfigError, DigestMismatch, ModelError
from fedmentor.ids import Digest
from fedmentor.teacher.pace import Pace
from teacher_service.archive import CONFIG_FILE, HANDLER_FILE, MODEL_CONFIG_FILE, build_archive, check_archive
from teacher_service.models.registry import ARCHITECTURES
from teacher_service.server import ServerConfig, start
from teacher_service.settings import STORE_FOLDER
from teacher_service.store import lay_out, packed_archive, provide_archive
from teacher_service.weights import file_sha256, weights_bytes, write_weights


def archive_of(folder, architecture="lite-medsam", batch_images=None):
    """An archive as small as can be; nothing looks at its tensors before a worker does."""
    weights = folder / f"{architecture}.safetensors"
    write_weights(weights, weights_bytes({"x": torch.zeros(1)}, architecture, Digest("0" * 64)))
    assert load_file(weights).keys() == {"x"}
    return build_archive(weights, folder / f"{architecture}.mar", batch_images)


@pytest.fixture
def run_folder(tmp_path):
    """As a start finds it."""
    folder = tmp_path / "run"
    folder.mkdir()
    lay_out(folder)
    return folder


def settings_in(archive):
    with ZipFile(archive) as opened:
        lines = opened.read(MODEL_CONFIG_FILE).decode().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batch_images", [None, 1, 4, 64])
def test_what_torchserve_is_told_is_what_everybody_else_reads(tmp_path, architecture, batch_images):
    archive = archive_of(tmp_path, architecture, batch_images)
    pace, told = check_archive(archive), settings_in(archive)
    assert (told["responseTimeout"], told["batchSize"]) == (pace.response_s, pace.batch_images)
    assert told["startupTimeout"] == pace.startup_s
    assert told["maxWorkers"] == 1
    assert told["responseTimeout"] < pace.unhealthy_s < pace.answer_s
    assert batch_images in (None, pace.batch_images)


def test_the_heavy_ones_get_one_image_and_time_for_it(tmp_path):
    paces = {name: check_archive(archive_of(tmp_path, name)) for name in ARCHITECTURES}
    assert paces["lite-medsam"] == paces["sam-med2d"] == Pace(120, 4)  # their faults are noticed no later for it
    assert {name: pace.batch_images for name, pace in paces.items() if name.startswith("sam-vit")} == {
        "sam-vit-b": 1,
        "sam-vit-l": 1,
        "sam-vit-h": 1,
    }
    assert paces["sam-vit-l"].response_s > 2 * 92  # what one took where others wanted the processor


def test_a_pace_that_is_not_the_architectures_is_refused(tmp_path):
    archive = archive_of(tmp_path, "sam-vit-h")
    with ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    for name, old, new in ((MODEL_CONFIG_FILE, b"800", b"801"), (CONFIG_FILE, b"sam-vit-h", b"sam-vit-b")):
        with ZipFile(tmp_path / "other.mar", "w") as packed:
            for member, content in members.items():
                packed.writestr(member, content.replace(old, new) if member == name else content)
        with pytest.raises(ModelError, match="other code or settings"):
            check_archive(tmp_path / "other.mar")


JAVA = """#!/bin/sh
test "$1" = -version && { echo 'openjdk version "21"' >&2; exit 0; }
cp launch.json launch-seen.json; exit 1
"""


def test_the_keepers_patience_comes_from_the_archive(tmp_path, monkeypatch):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(JAVA)
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="ended while it started"):
        start(ServerConfig(tmp_path / "run", archive=archive_of(tmp_path, "sam-vit-h")))
    plan = json.loads((tmp_path / "run" / "launch-seen.json").read_text())
    assert plan["unhealthy_s"] == 1600
    assert plan["archive_sha256"] == file_sha256(tmp_path / "sam-vit-h.mar")
    assert plan["archive"] == str(packed_archive(tmp_path / "run"))


def test_what_is_served_is_a_copy_that_the_archive_no_longer_reaches(tmp_path, run_folder):
    archive = archive_of(tmp_path)
    before = archive.read_bytes()
    packed = provide_archive(run_folder, archive, file_sha256(archive), None)
    with archive.open("r+b") as file:  # in place, as through a hard link
        file.write(b"something else")
    assert packed.path.read_bytes() == before
    assert packed.sha256 == file_sha256(packed.path)
    assert packed.path.stat().st_nlink == 1
    assert packed.path.stat().st_mode & 0o222 == 0


def test_a_copy_that_is_there_is_not_made_again(tmp_path, run_folder):
    archive = archive_of(tmp_path)
    made = provide_archive(run_folder, archive, None, None).path.stat()
    lay_out(run_folder)
    kept = provide_archive(run_folder, archive, None, None).path.stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    other = archive_of(tmp_path, batch_images=2)
    lay_out(run_folder)
    assert provide_archive(run_folder, other, None, None).path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_that_lies_there_is_replaced_by_a_copy(tmp_path, run_folder, link):
    archive = archive_of(tmp_path)
    link(archive, packed_archive(run_folder))
    packed = provide_archive(run_folder, archive, None, None).path
    assert not packed.is_symlink()
    assert not packed.samefile(archive)


def test_an_archive_behind_a_relative_symlink_is_taken(tmp_path, run_folder):
    archive = archive_of(tmp_path)
    (tmp_path / "named.mar").symlink_to(archive.name)
    packed = provide_archive(run_folder, tmp_path / "named.mar", None, None).path
    assert packed.read_bytes() == archive.read_bytes()
    assert not packed.is_symlink()


def test_the_copy_is_what_is_checked(tmp_path, run_folder, monkeypatch):
    archive = archive_of(tmp_path)

    def changed_on_the_way(_source, target):
        target.write_bytes(archive.read_bytes() + b"x")

    monkeypatch.setattr(shutil, "copyfile", changed_on_the_way)
    with pytest.raises(DigestMismatch, match="was changed while it was copied"):
        provide_archive(run_folder, archive, None, None)
    assert list((run_folder / STORE_FOLDER).iterdir()) == []


def test_another_archive_than_the_pinned_one_is_not_even_copied(tmp_path, run_folder):
    with pytest.raises(DigestMismatch, match="pinned"):
        provide_archive(run_folder, archive_of(tmp_path), Digest("0" * 64), None)
    assert list((run_folder / STORE_FOLDER).iterdir()) == []


def test_foreign_code_is_refused_under_the_name_that_was_given_and_does_not_stay(tmp_path, run_folder):
    archive = archive_of(tmp_path)
    with ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    with ZipFile(tmp_path / "foreign.mar", "w") as packed:
        for name, content in members.items():
            packed.writestr(name, b"import os\n" if name == HANDLER_FILE else content)
    with pytest.raises(ModelError, match=r"foreign\.mar holds other code"):
        provide_archive(run_folder, tmp_path / "foreign.mar", None, None)
    assert list((run_folder / STORE_FOLDER).iterdir()) == []


def test_a_full_disk_is_told_and_nothing_half_copied_stays(tmp_path, run_folder, monkeypatch):
    def full(_source, target):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ConfigError, match="no room for a copy"):
        provide_archive(run_folder, archive_of(tmp_path), None, None)
    assert list((run_folder / STORE_FOLDER).iterdir()) == []


def test_what_else_lies_in_the_store_goes(run_folder):
    (run_folder / STORE_FOLDER / "other.mar").write_bytes(b"")
    (run_folder / STORE_FOLDER / "folder").mkdir()
    (run_folder / STORE_FOLDER / "link").symlink_to(run_folder)
    packed_archive(run_folder).write_bytes(b"stays")
    lay_out(run_folder)
    assert list((run_folder / STORE_FOLDER).iterdir()) == [packed_archive(run_folder)]

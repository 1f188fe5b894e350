"""Whether results could be written is known before the work."""

from __future__ import annotations

import errno
import os

import pytest

from fedmentor.disk import check_writable, disk_failed


def test_a_folder_that_is_there_and_one_that_could_be_made_will_do(tmp_path):
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "folder")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_in_the_way_is_named(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as caught:
        check_writable(tmp_path / path)
    assert caught.value.filename == str(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_named(tmp_path):
    (tmp_path / "theirs").mkdir(mode=0o555)
    with pytest.raises(PermissionError) as caught:
        check_writable(tmp_path / "theirs" / "new")
    assert caught.value.filename == str(tmp_path / "theirs")


def test_only_a_full_or_broken_disk_is_the_disks_fault():
    assert disk_failed(OSError(errno.ENOSPC, ""))
    assert disk_failed(OSError(errno.EIO, ""))
    assert not disk_failed(PermissionError(errno.EACCES, ""))
    assert not disk_failed(OSError())

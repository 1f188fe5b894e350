"""What only a disk can promise the privacy ledger: backups, copies, edits and lost files are found out."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from ledger_bench import Bench, spend, take

from fed_node.ledger.sqlite import DATABASE_FILE, KEY_FILE, FileAnchor, SqliteStore, site_key
from fedmentor.errors import BrokenStore, ConfigError, DataError, PolicyRefusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def disk(folder: Path) -> Bench:
    return Bench(lambda: SqliteStore(folder))


def test_yesterdays_ledger_is_refused_by_its_anchor(disk: Bench, folder: Path, tmp_path: Path):
    disk.anchor = FileAnchor(tmp_path / "elsewhere" / "anchor.json")
    ledger = disk.open()
    take(ledger, spend(0))
    ledger.close()
    shutil.copytree(folder, tmp_path / "backup")
    ledger = disk.open()
    take(ledger, spend(1))
    ledger.close()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    with pytest.raises(PolicyRefusal, match="the chain ends after"):
        disk.open()


def test_a_lost_ledger_is_refused_by_its_anchor(disk: Bench, folder: Path, tmp_path: Path):
    disk.anchor = FileAnchor(tmp_path / "anchor.json")
    disk.open().close()
    shutil.rmtree(folder)
    with pytest.raises(PolicyRefusal, match="the chain ends after 0 records"):
        disk.open()


def test_of_two_copies_of_a_node_only_one_goes_on(disk: Bench, folder: Path, tmp_path: Path):
    anchor = FileAnchor(tmp_path / "anchor.json")
    disk.anchor = anchor
    disk.open().close()
    shutil.copytree(folder, tmp_path / "clone")
    ledger = disk.open()
    take(ledger, spend(0))
    ledger.close()
    clone = Bench(lambda: SqliteStore(tmp_path / "clone"))
    clone.anchor = anchor
    with pytest.raises(PolicyRefusal, match="last seen"):
        clone.open()


def test_a_deleted_log_of_writes_is_noticed(disk: Bench, folder: Path, tmp_path: Path):
    disk.anchor = FileAnchor(tmp_path / "anchor.json")
    ledger = disk.open()
    take(ledger, spend(0))
    shutil.copytree(folder, tmp_path / "crashed")  # as it lies there while the node runs: entries are in the -wal file
    ledger.close()
    (tmp_path / "crashed" / f"{DATABASE_FILE}-wal").unlink()
    crashed = Bench(lambda: SqliteStore(tmp_path / "crashed"))
    crashed.anchor = disk.anchor
    with pytest.raises((PolicyRefusal, BrokenStore)):
        crashed.open()


def test_a_damaged_anchor_is_not_taken_for_none(tmp_path: Path):
    (tmp_path / "anchor.json").write_text("{}")
    with pytest.raises(BrokenStore, match="cannot be read"):
        FileAnchor(tmp_path / "anchor.json").read()
    assert FileAnchor(tmp_path / "none.json").read() is None


def test_one_writer_and_any_reader(disk: Bench, folder: Path):
    ledger = disk.open()
    with pytest.raises(ConfigError, match="another node"):
        SqliteStore(folder)
    reader = SqliteStore(folder, read_only=True)
    assert len(reader.load().records) == ledger.head.records
    with pytest.raises(BrokenStore):
        reader.append(reader.load().records, {})
    reader.close()
    ledger.close()
    SqliteStore(folder).close()


def test_a_reader_makes_no_ledger(folder: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        SqliteStore(folder, read_only=True)
    assert not folder.exists()


def test_only_the_owner_reads_it_and_no_patient_is_named(disk: Bench, folder: Path):
    ledger = disk.open()
    take(ledger, spend(0))
    ledger.close()
    site_key(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in (DATABASE_FILE, KEY_FILE):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert b"patient-" not in (folder / DATABASE_FILE).read_bytes()


def test_a_key_is_made_once_and_a_damaged_one_is_refused(folder: Path):
    folder.mkdir()
    assert site_key(folder) == site_key(folder)
    (folder / KEY_FILE).write_bytes(b"short")
    with pytest.raises(ConfigError, match="not a ledger key"):
        site_key(folder)


def test_an_entry_that_is_edited_on_disk_is_found(disk: Bench, folder: Path):
    ledger = disk.open()
    take(ledger, spend(0))
    ledger.close()
    database = sqlite3.connect(folder / DATABASE_FILE)
    with database:
        database.execute("UPDATE entry SET fields = replace(fields, '\"steps\":10', '\"steps\":1')")
    database.close()
    with pytest.raises(DataError, match="was changed"):
        disk.open()


def test_another_version_of_the_ledger_is_refused(disk: Bench, folder: Path):
    disk.open().close()
    database = sqlite3.connect(folder / DATABASE_FILE)
    with database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigError, match="another version"):
        disk.open()

"""The corners of the stores that the contract does not show: versions, damage, locks, append-only tables, resuming files."""

import json
import os
import sqlite3
import stat
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from coordinator.averaging import BLOCK_WORDS
from coordinator.store.lock import state_lock
from coordinator.store.models import ModelStore, safetensors_header
from coordinator.store.spool import Spool
from coordinator.store.sqlite import SqliteJournal
from coordinator.testing import PARAMETERS, toy_manifest, toy_model
from fedmentor.errors import (
    BrokenStore,
    ConfigError,
    CoordinatorUnreachable,
    DigestMismatch,
    ModelError,
    WrongArchitecture,
)
from fedmentor.federation import CHUNK_BYTES, RoundRef, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.models import RECORD_FILE, TENSORS_FILE, ModelRecord, load_model
from fedmentor.tensors import TensorSpec, flatten, model_digest, spec_of, vector_bytes
from fedmentor.testing.clock import ManualClock

A = SiteId("a")
DIGEST = Digest("0" * 64)


# --- journal ---


def test_a_journal_of_another_version_is_refused(tmp_path):
    path = tmp_path / "j.sqlite"
    SqliteJournal(path, ManualClock()).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="schema version 99"):
        SqliteJournal(path, ManualClock())


def test_a_file_that_is_no_database_is_a_broken_store(tmp_path):
    path = tmp_path / "j.sqlite"
    path.write_bytes(b"this is not a database, whatever its name says" * 100)
    with pytest.raises(BrokenStore):
        SqliteJournal(path, ManualClock())


def test_a_journal_is_durable_at_every_commit(tmp_path):
    journal = SqliteJournal(tmp_path / "j.sqlite", ManualClock())
    connection = journal._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    journal.close()


def test_audit_rows_cannot_be_changed_or_removed_by_sql(tmp_path):
    path = tmp_path / "j.sqlite"
    journal = SqliteJournal(path, ManualClock())
    journal.run_tx("x", lambda tx: tx.audit("coordinator", "x", {}))
    journal.close()
    connection = sqlite3.connect(path)
    for statement in ("UPDATE audit SET actor = 'y'", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            connection.execute(statement)
    connection.close()


def test_a_reader_looks_on_and_cannot_write(tmp_path):
    path = tmp_path / "j.sqlite"
    with pytest.raises(ConfigError, match="does not exist"):
        SqliteJournal(path, ManualClock(), read_only=True)
    writer = SqliteJournal(path, ManualClock())
    reader = SqliteJournal(path, ManualClock(), read_only=True)
    writer.run_tx("x", lambda tx: tx.audit("coordinator", "x", {}))
    assert len(reader.run_tx("read", lambda tx: tx.audit_records())) == 1
    with pytest.raises(BrokenStore, match="readonly"):
        reader.run_tx("write", lambda tx: tx.audit("coordinator", "y", {}))
    reader.close()
    writer.close()


@pytest.fixture
def shared():
    """A folder that every user reaches, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def _as_another_user():
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_another_user_reads_a_stopped_run_if_the_owner_lets_him(shared):
    path = shared / "j.sqlite"
    journal = SqliteJournal(path, ManualClock())
    journal.run_tx("x", lambda tx: tx.audit("coordinator", "x", {}))
    assert {stat.S_IMODE(file.stat().st_mode) for file in shared.iterdir()} == {0o600}
    with _as_another_user(), pytest.raises(ConfigError, match="as the user that the coordinator runs as"):
        SqliteJournal(path, ManualClock(), read_only=True)
    journal.close()
    path.chmod(0o644)
    with _as_another_user():
        reader = SqliteJournal(path, ManualClock(), read_only=True)
        assert len(reader.run_tx("read", lambda tx: tx.audit_records())) == 1
        reader.close()
    shared.chmod(0o700)
    with _as_another_user(), pytest.raises(ConfigError, match="cannot be read"):
        SqliteJournal(path, ManualClock(), read_only=True)


def test_threads_share_a_journal(tmp_path):
    journal = SqliteJournal(tmp_path / "j.sqlite", ManualClock())

    def write(name):
        for number in range(5):
            journal.run_tx("x", lambda tx, number=number: tx.audit(name, "x", {"n": number}))

    threads = [threading.Thread(target=write, args=(f"site {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.run_tx("read", lambda tx: tx.audit_records())) == 20
    journal.close()


def test_a_closed_journal_is_a_broken_store(tmp_path):
    journal = SqliteJournal(tmp_path / "j.sqlite", ManualClock())
    journal.close()
    with pytest.raises(BrokenStore):
        journal.run_tx("x", lambda tx: tx.rounds())


def test_a_state_folder_belongs_to_one_process_at_a_time(tmp_path):
    with state_lock(tmp_path), pytest.raises(ConfigError, match="another coordinator"), state_lock(tmp_path):
        pass
    with state_lock(tmp_path):
        pass


# --- spool ---


def _header(sha256=DIGEST, size=10):
    return UpdateHeader(RoundRef(RunId("r"), Round(0), Attempt(1)), sha256, size, DIGEST)


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def test_an_update_grows_from_where_it_ends(spool):
    spool.append(A, _header(), 0, b"01234")
    assert spool.stored(A, _header()) == 5
    for offset in (0, 4, 6):
        with pytest.raises(CoordinatorUnreachable, match="at byte 5"):
            spool.append(A, _header(), offset, b"x")
    spool.append(A, _header(), 5, b"56789")
    with pytest.raises(CoordinatorUnreachable):
        spool.append(A, _header(), 10, b"x")
    assert spool.stored(A, _header()) == 10


def test_a_spool_survives_a_restart_in_both_states(spool, tmp_path):
    spool.append(A, _header(), 0, b"01234567")
    assert Spool(tmp_path / "spool").stored(A, _header()) == 8
    spool.append(A, _header(), 8, b"89")
    spool.seal(A, _header())
    again = Spool(tmp_path / "spool")
    again.seal(A, _header())
    assert again.stored(A, _header()) == 10
    assert again.open(A, _header(size=8)).words(0, 2).tobytes() == b"01234567"


def test_a_site_has_one_unfinished_update(spool):
    other = _header(Digest("1" * 64))
    spool.append(A, _header(), 0, b"01234")
    spool.append(A, other, 0, b"0")
    assert (spool.stored(A, _header()), spool.stored(A, other)) == (0, 1)
    spool.append(SiteId("b"), _header(), 0, b"01")
    assert spool.stored(A, other) == 1


def test_an_overlong_leftover_counts_as_nothing(spool):
    spool.append(A, _header(size=100), 0, bytes(50))
    assert spool.stored(A, _header(size=10)) == 0


def test_keep_only_removes_the_rest(spool):
    one, two = _header(size=4), _header(Digest("1" * 64), 4)
    for header in (one, two):
        spool.append(A, header, 0, b"0123")
        spool.seal(A, header)
    spool.append(A, _header(Digest("2" * 64)), 0, b"01")
    spool.keep_only({(A, one.sha256)})
    assert [spool.stored(A, header) for header in (one, two, _header(Digest("2" * 64)))] == [4, 0, 0]
    spool.drop(A, one.sha256)
    spool.drop(A, one.sha256)
    assert spool.stored(A, one) == 0


def test_nothing_cannot_be_sealed(spool):
    with pytest.raises(DigestMismatch, match="gone"):
        spool.seal(A, _header())


def test_damage_on_disk_is_not_read_as_words(spool):
    header = _header(size=8)
    spool.append(A, header, 0, bytes(8))
    source = spool.open(A, header)
    source.path.write_bytes(bytes(6))
    with pytest.raises(DigestMismatch):
        source.words(0, 2)
    source.path.unlink()
    with pytest.raises(DigestMismatch):
        source.words(0, 2)


def test_a_disk_that_refuses_is_a_broken_store(spool, tmp_path):
    (tmp_path / "spool" / "a").write_bytes(b"a file where a folder belongs")
    with pytest.raises(BrokenStore):
        spool.append(A, _header(), 0, b"x")


# --- models ---


@pytest.fixture
def model(tmp_path):
    return toy_model(tmp_path / "source")


@pytest.fixture
def store(tmp_path, model):
    store = ModelStore(tmp_path / "models", toy_manifest(model).spec)
    store.import_folder(tmp_path / "source", model)
    return store


def test_an_imported_model_reads_back_everywhere(store, tmp_path, model):
    tensors, record = load_model(tmp_path / "models" / model)
    original, _ = load_model(tmp_path / "source")
    assert record.digest == model
    assert all(np.array_equal(tensors[name], original[name]) for name in original)
    data = vector_bytes(flatten(original, spec_of(original)))
    stored = store.open(model)
    assert stored.size_bytes == len(data) == 4 * PARAMETERS
    assert b"".join(stored.chunks(0)) == data
    assert b"".join(stored.chunks(5)) == data[5:]
    assert list(stored.chunks(len(data))) == []
    assert stored.parameters(2, 7).tobytes() == data[8:28]


def test_large_models_come_in_capped_chunks(tmp_path):
    spec = (TensorSpec("w", (BLOCK_WORDS + 5,)),)
    vector = np.arange(BLOCK_WORDS + 5, dtype=np.float32)
    store = ModelStore(tmp_path / "models", spec)
    blocks = (vector[start : start + 1000] for start in range(0, vector.size, 1000))
    digest = store.write(blocks, lambda digest: ModelRecord(architecture="x", digest=digest))
    assert digest == model_digest(vector, spec)
    sizes = [len(chunk) for chunk in store.open(digest).chunks(0)]
    assert max(sizes) == CHUNK_BYTES
    assert sum(sizes) == 4 * vector.size
    assert np.array_equal(load_model(tmp_path / "models" / digest)[0]["w"], vector)


def test_writing_a_model_again_changes_nothing(store, tmp_path, model):
    before = (tmp_path / "models" / model / RECORD_FILE).stat().st_mtime_ns
    store.import_folder(tmp_path / "source", model)
    assert (tmp_path / "models" / model / RECORD_FILE).stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "models").iterdir()] == [model]


def test_a_model_that_is_not_here_is_a_broken_store(store):
    with pytest.raises(BrokenStore):
        store.open(DIGEST)


def test_models_that_are_not_named_can_be_removed(store, tmp_path, model):
    other = toy_model(tmp_path / "other", seed=1)
    store.import_folder(tmp_path / "other", other)
    (tmp_path / "models" / ".draft-x").mkdir()
    store.keep_only({model})
    assert {path.name for path in (tmp_path / "models").iterdir()} == {model, ".draft-x"}, (
        "a draft may be somebody's at this moment"
    )
    store.keep_only(set())
    with pytest.raises(BrokenStore):
        store.open(model)


def test_drafts_of_a_crash_are_removed(store, tmp_path, model):
    (tmp_path / "models" / ".draft-x").mkdir()
    store.clean()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [model]


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({"bias": np.zeros(3, np.float32)}, WrongArchitecture),
        ({"bias": np.zeros(3, np.float32), "weight": np.zeros((7, 5), np.float32)}, WrongArchitecture),
        ({"bias": np.zeros(3, np.float64), "weight": np.zeros((5, 7), np.float32)}, WrongArchitecture),
        ({"bias": np.array([0, np.nan, 0], np.float32), "weight": np.zeros((5, 7), np.float32)}, ModelError),
        ({"bias": np.zeros(3, np.float32), "weight": np.zeros((5, 7), np.float32)}, DigestMismatch),
    ],
)
def test_models_that_do_not_fit_are_not_imported(tmp_path, model, tensors, error):
    save_file(tensors, tmp_path / "source" / TENSORS_FILE)
    store = ModelStore(tmp_path / "models", toy_manifest(model).spec)
    with pytest.raises(error):
        store.import_folder(tmp_path / "source", model)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_without_a_model_is_refused(tmp_path, model):
    store = ModelStore(tmp_path / "models", toy_manifest(model).spec)
    (tmp_path / "source" / TENSORS_FILE).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="safetensors"):
        store.import_folder(tmp_path / "source", model)
    (tmp_path / "source" / TENSORS_FILE).unlink()
    with pytest.raises(ModelError, match="does not exist"):
        store.import_folder(tmp_path / "source", model)


def test_another_model_than_the_runs_is_refused(tmp_path, model):
    store = ModelStore(tmp_path / "models", toy_manifest(model).spec)
    toy_model(tmp_path / "source", seed=1)
    with pytest.raises(DigestMismatch, match="not the one"):
        store.import_folder(tmp_path / "source", model)


def test_the_header_is_aligned_json():
    header = safetensors_header((TensorSpec("a", ()), TensorSpec("b", (2, 3))))
    length = int.from_bytes(header[:8], "little")
    assert len(header) == 8 + length
    assert length % 8 == 0
    assert json.loads(header[8:])["b"] == {"dtype": "F32", "shape": [2, 3], "data_offsets": [4, 28]}

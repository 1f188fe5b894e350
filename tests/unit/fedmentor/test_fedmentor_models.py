"""Models at rest: round trip, checks at every read, atomic replacement."""

import json
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedmentor.errors import DigestMismatch, ModelError
from fedmentor.models import (
    RECORD_FILE,
    TENSORS_FILE,
    ModelRecord,
    PrivacySpent,
    canonical_json,
    digest_of,
    load_model,
    load_record,
    save_model,
    write_atomically,
)

TENSORS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.float32)}


def _record(**changes):
    return ModelRecord(architecture="toy", digest=digest_of(TENSORS), **changes)


@pytest.fixture
def folder(tmp_path):
    privacy = PrivacySpent(epsilon=1.5, delta=1e-5, unit="patient", accountant="prv")
    save_model(tmp_path / "m", TENSORS, _record(privacy=privacy, details={"seed": 3}))
    return tmp_path / "m"


def test_what_was_saved_is_loaded(folder):
    tensors, record = load_model(folder)
    assert record.privacy is not None
    assert record.details == {"seed": 3}
    assert all(np.array_equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_record_of_other_tensors_is_not_saved(tmp_path):
    with pytest.raises(DigestMismatch):
        save_model(tmp_path / "m", {"w": np.zeros(1, np.float32)}, _record())
    assert not (tmp_path / "m").exists()


def test_a_changed_value_is_found(folder):
    path = folder / TENSORS_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestMismatch):
        load_model(folder)


@pytest.mark.parametrize("damage", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_files_that_are_not_safetensors_are_refused(folder, damage):
    (folder / TENSORS_FILE).write_bytes(damage)
    with pytest.raises(ModelError, match="safetensors"):
        load_model(folder)


def test_other_types_than_float32_are_refused(folder):
    save_file({"w": np.zeros(2, np.float64)}, folder / TENSORS_FILE)
    with pytest.raises(ModelError, match="float64"):
        load_model(folder)


@pytest.mark.parametrize("name", [TENSORS_FILE, RECORD_FILE])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(folder)


@pytest.mark.parametrize("change", [{"unknown": 1}, {"round": "x"}, {"architecture": None}])
def test_records_with_wrong_fields_are_refused(folder, change):
    path = folder / RECORD_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="1 fields are wrong"):
        load_record(folder)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_write_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "taken", b"data")
    assert caught.value.filename == str(tmp_path / "taken")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_canonical_json_is_sorted_dense_utf8():
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()


def test_a_secret_is_never_readable_by_others(tmp_path):
    write_atomically(tmp_path / "key", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600

"""Settings: files that cannot be read, and the first fault as a sentence's parts."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fedmentor.errors import ConfigError
from fedmentor.settings import MAX_SETTINGS_BYTES, Fault, first_fault, read_toml


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    batch_images: int = 1

    @field_validator("batch_images")
    @classmethod
    def _positive(cls, value):
        if value < 1:
            raise ValueError("expected at least 1")
        return value


class _Outer(BaseModel):
    inner: _Inner


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({}, Fault("inner", "missing", "Field required")),
        ({"inner": {"batch_images": 0}}, Fault("inner.batch_images", "value_error", "expected at least 1")),
        ({"inner": {"x": 1, "y": 1}}, Fault("inner.x", "extra_forbidden", "Extra inputs are not permitted")),
    ],
)
def test_the_first_fault_has_a_name_a_kind_and_a_message(values, fault):
    with pytest.raises(ValidationError) as caught:
        _Outer.model_validate(values)
    assert first_fault(caught.value) == fault


def test_the_option_of_a_setting():
    assert Fault("batch_images", "missing", "").option == "--batch-images"


def test_a_file_is_read(tmp_path):
    (tmp_path / "a.toml").write_text('x = 1\n[y]\nz = "ä"\n', encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"x": 1, "y": {"z": "ä"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"= =", "is not TOML"), (b"\xff", "not UTF-8"), (b"#" * (MAX_SETTINGS_BYTES + 1), "is over")],
)
def test_files_that_are_no_settings(tmp_path, data, message):
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_toml(tmp_path / "a.toml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)

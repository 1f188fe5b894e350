"""The teacher's certificate: kept over restarts while it does, made again where it does not."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from teacher_service.settings import CERTIFICATE_PEM, KEY_PEM
from teacher_service.tls import provide_certificate

NAMES = ("127.0.0.1", "localhost", "teacher")
NOW = dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc)


def provided(folder: Path, names: tuple[str, ...] = NAMES, days: float = 0.0) -> tuple[bytes, bytes]:
    """Certificate and key after a start so many days later."""
    provide_certificate(folder, names, NOW + dt.timedelta(days=days))
    return (folder / CERTIFICATE_PEM).read_bytes(), (folder / KEY_PEM).read_bytes()


def test_the_next_start_takes_it_over_and_the_key_stays_private(tmp_path: Path):
    first = provided(tmp_path)
    assert provided(tmp_path, days=14.9) == first
    assert (tmp_path / KEY_PEM).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("names", "days"), [(NAMES, 15.1), (NAMES, -1.0), (("localhost",), 0.0)], ids=["old", "early", "names"])
def test_one_that_is_old_or_for_others_is_replaced(tmp_path: Path, names: tuple[str, ...], days: float):
    first = provided(tmp_path)
    second = provided(tmp_path, names, days)
    assert first[0] != second[0]
    assert first[1] != second[1]


def remove_key(folder: Path) -> None:
    (folder / KEY_PEM).unlink()


def spoil_certificate(folder: Path) -> None:
    (folder / CERTIFICATE_PEM).write_bytes(b"none")


def spoil_key(folder: Path) -> None:
    (folder / KEY_PEM).write_bytes(b"none")


def swap_key(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    provide_certificate(other, NAMES, NOW)
    (folder / KEY_PEM).write_bytes((other / KEY_PEM).read_bytes())


@pytest.mark.parametrize("harm", [remove_key, spoil_certificate, spoil_key, swap_key])
def test_what_does_not_belong_together_is_replaced(tmp_path: Path, harm: Callable[[Path], None]):
    first = provided(tmp_path)
    harm(tmp_path)
    second = provided(tmp_path)
    assert first[0] != second[0]
    assert provided(tmp_path) == second

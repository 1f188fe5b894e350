"""The stage of the tests that speak to a served coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input import scratch
from secure_crew import NAMES
from served_coordinator import NAME

from fedmentor.identity.authority import throwaway


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of everybody."""
    folder = tmp_path_factory.mktemp("certificates")
    throwaway(folder, NAME, NAMES, ["127.0.0.1"])
    return folder


@pytest.fixture
def place() -> Iterator[Path]:
    """For a coordinator's state."""
    with scratch() as folder:
        yield folder

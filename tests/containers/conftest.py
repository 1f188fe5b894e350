"""What the container tests share: one run of the same federation without containers."""

from __future__ import annotations

from pathlib import Path

import pytest
from containers_engine import engine_or_skip
from containers_host import run_on_host


@pytest.fixture(scope="session")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Report of the run without containers."""
    engine_or_skip()
    folder: Path = tmp_path_factory.mktemp("host")
    return run_on_host(folder)

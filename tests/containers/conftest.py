"""What the container tests share: the images, and one run of the same federation without containers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from containers_engine import PATIENCE_S, SCRIPT, TAG, engine_or_skip, ran
from containers_host import run_on_host


@pytest.fixture(scope="session")
def images() -> str:
    """What building the images printed."""
    engine_or_skip()
    done = ran([sys.executable, str(SCRIPT), "images"], env={**os.environ, "FEDMENTOR_TAG": TAG}, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def on_host(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Report of the run without containers."""
    engine_or_skip()
    folder: Path = tmp_path_factory.mktemp("host")
    return run_on_host(folder)

"""The stage of the witness's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from witness_site import Site, begin, publish


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A witness of a run whose first round is published."""
    return Site(publish(begin(), 0), tmp_path)

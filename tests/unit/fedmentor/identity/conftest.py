"""The stage of the registrar's tests."""

import pytest
from registrar_members import COORDINATOR, town


@pytest.fixture
def federation(tmp_path):
    """A registrar that has admitted the coordinator."""
    made = town(tmp_path)
    made.enrol(COORDINATOR)
    return made

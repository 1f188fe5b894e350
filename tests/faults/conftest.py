"""The stage of the tests that speak to a served coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from bad_input import scratch
from secure_crew import NAMES
from served_coordinator import NAME, served
from wrong_certificates import SITES, World, deny, now

from coordinator.testing import ToyFederation
from fedmentor.identity.authority import Authority, throwaway


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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One coordinator for all cases. It trusts two authorities, as in a rotation: the federation's and one that has expired."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = throwaway(folder, NAME, SITES, ["localhost", "127.0.0.1"])
    expired = Authority.create(NAME, now() - timedelta(days=60), timedelta(days=30))
    federation = ToyFederation(tmp_path_factory.mktemp("federation"))
    federation.connect()
    federation.settle()
    try:
        with served(federation, folder, authority.pem + expired.pem) as one:
            made = World(authority, expired, Authority.create(NAME, now()), folder, one)
            made.revoked, made.revoked_key = made.good(), made.good()
            deny(made)
            yield made
    finally:
        federation.close()

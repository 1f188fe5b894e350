"""The stage of the tests that speak to a coordinator."""

import pytest
from coordinator_process import SITES as NAMES
from phased_federation import four_sites
from servicer_calls import NAME, SITES, client_of, now, served_by

from coordinator.manifests import make_manifest
from coordinator.servicer import CallLimits, Servicer
from coordinator.testing import ToyFederation, toy_model, toy_words
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials


@pytest.fixture(scope="module")
def issued(tmp_path_factory):
    """A folder with everybody's certificates, and the authority that issued them."""
    folder = tmp_path_factory.mktemp("certificates")
    return folder, throwaway(folder, NAME, SITES, ["localhost", "127.0.0.1"])


@pytest.fixture(scope="module")
def certificates(issued):
    """Of everybody."""
    return issued[0]


@pytest.fixture(scope="module")
def authority(issued):
    """Who issued them."""
    return issued[1]


@pytest.fixture
def federation(tmp_path):
    """Three sites, all of which are needed."""
    made = ToyFederation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def four(tmp_path):
    """Four sites, two of which are enough."""
    made = four_sites(tmp_path)
    yield made
    made.close()


@pytest.fixture
def address(federation, authority, certificates):
    """Where the federation's coordinator listens."""
    assert authority.federation == NAME
    servicer = Servicer(federation.engine.service, NAME, CallLimits(), federation.events.append, lambda _: None)
    with served_by(servicer, coordinator_credentials(certificates, now())) as bound:
        yield bound


@pytest.fixture
def stub(address, certificates):
    """Site a as a client."""
    with client_of(address, site_credentials(certificates, SITES[0], now())) as made:
        yield made


@pytest.fixture
def open_round(federation):
    """A round that collects; gives the words of site a."""
    federation.connect()
    federation.settle()
    return toy_words("a", federation.ref, federation.manifest)


@pytest.fixture
def place(tmp_path):
    """A folder with certificates, model and manifest."""
    throwaway(tmp_path / "certificates", "fed.example", NAMES, ["localhost", "127.0.0.1"])
    toy_model(tmp_path / "model")
    options = {"rounds": 2, "seed": 3, "collect_seconds": 50.0}
    (tmp_path / "manifest.json").write_bytes(make_manifest(tmp_path / "model", "toy-run", NAMES, options).to_bytes())
    return tmp_path

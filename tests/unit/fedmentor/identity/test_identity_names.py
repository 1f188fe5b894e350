"""URI SANs: exactly two forms, letter for letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.names import Peer, coordinator_host, coordinator_uri, federation_name, parse_uri, peer_of, site_uri
from fedmentor.ids import SiteId

_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


@given(_LABEL, _LABEL, _LABEL)
def test_a_site_uri_parses_back(first, second, site):
    assert parse_uri(site_uri(f"{first}.{second}", SiteId(site))) == Peer(f"{first}.{second}", SiteId(site))


def test_the_coordinators_uri_names_no_site():
    assert parse_uri(coordinator_uri("fed.example")) == Peer("fed.example", None)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://fed.example",
        "spiffe://fed.example/",
        "spiffe://fed.example/site/",
        "spiffe://fed.example/site/a/b",
        "spiffe://fed.example/site/A",
        "spiffe://fed.example/site/a?x=1",
        "spiffe://fed.example/site/a#x",
        "spiffe://fed.example/site/a\n",
        "spiffe://fed.example/site/%61",
        "spiffe://fed.example/coordinator/",
        "spiffe://user@fed.example/coordinator",
        "spiffe://fed.example:1/coordinator",
        "spiffe://FED/coordinator",
        "spiffe:///coordinator",
        "https://fed.example/coordinator",
        "SPIFFE://fed.example/coordinator",
    ],
)
def test_other_forms_are_refused(uri):
    with pytest.raises(IdentityRefused):
        parse_uri(uri)


def test_the_one_uri_names_the_peer():
    assert peer_of(["spiffe://fed/site/a"]).site == "a"


def test_the_coordinators_host_is_a_dns_name_under_the_federation():
    assert coordinator_host("fed.example") == "coordinator.fed.example"
    with pytest.raises(ConfigError):
        coordinator_host("Fed")


@pytest.mark.parametrize("names", [[], ["spiffe://fed/site/a", "spiffe://fed/site/b"]])
def test_exactly_one_uri_is_needed(names):
    with pytest.raises(IdentityRefused, match="URI SANs, expected 1"):
        peer_of(names)


@pytest.mark.parametrize("name", ["", "Fed", "a..b", "-a", "a-", "a/b", "x" * 201])
def test_malformed_federation_names_are_refused(name):
    with pytest.raises(ConfigError):
        federation_name(name)

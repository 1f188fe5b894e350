"""Versions and ciphers of TLS that the coordinator takes, and those that it refuses."""

from __future__ import annotations

import ssl

import pytest
from served_coordinator import METHODS
from tls_tunnel import through, tunnel
from wrong_certificates import HANDSHAKE, NOBODY, REFUSED, World


def test_tls_1_1_is_refused_on_every_call(world: World):
    before = world.served.servicer.reached
    with tunnel(world, world.good(), ssl.TLSVersion.TLSv1_1) as (address, seen):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            seen()
        assert {through(address, call) for call in METHODS} == {HANDSHAKE}
    assert world.served.servicer.reached == before


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_good_enough(world: World, version: ssl.TLSVersion):
    """RFC 9325, section 3.1.1: TLS 1.2 is allowed, and gRPC offers nothing older."""
    before = world.served.servicer.reached
    with tunnel(world, world.good(), version) as (address, _):
        for call in METHODS:
            assert through(address, call) not in (HANDSHAKE, NOBODY, REFUSED)
    assert world.served.servicer.reached == before + len(METHODS)


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "NULL"])
def test_tls_1_2_without_forward_secrecy_or_authenticated_encryption_is_refused(world: World, ciphers: str):
    before = world.served.servicer.reached
    with tunnel(world, world.good(), ssl.TLSVersion.TLSv1_2, f"{ciphers}:@SECLEVEL=0") as (address, _):
        assert through(address, "OfferUpdate") is HANDSHAKE
    assert world.served.servicer.reached == before

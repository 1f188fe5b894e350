"""Certificates that are rotated while streams are open."""

from __future__ import annotations

import ssl

import grpc
import pytest
from cryptography import x509
from served_coordinator import METHODS, NAME, outcome, stub
from tls_tunnel import tunnel
from wrong_certificates import HANDSHAKE, NOBODY, REFUSED, World, channel_tls, deny, now, reaches

from fedmentor.identity.revocation import RevocationList, serial_text
from fedmentor.wire.channel import Credentials
from fedmentor.wire.v1 import federation_pb2 as pb


def test_certificates_that_are_rotated_in_mid_stream(world: World):
    """An open stream goes on when either side gets a new certificate; new connections see it; the old one can be revoked alone."""
    old, new = world.good(), world.good()
    with stub(world.served.address, channel_tls(world, old)) as before:
        stream = before.Follow(pb.FollowRequest())
        assert next(stream).WhichOneof("kind") == "manifest"
        issued = world.authority.issue_coordinator(["127.0.0.1"], now())
        bundle = world.authority.pem + world.expired.pem
        world.served.renewed.append(Credentials(bundle, issued.certificate, issued.key))
        presented = ssl.PEM_cert_to_DER_cert(issued.certificate.decode())
        with tunnel(world, new, ssl.TLSVersion.TLSv1_3) as (_, seen):
            assert seen() == presented
        world.served.federation.engine.service.notify()
        assert next(stream).WhichOneof("kind") is not None, "what was open goes on"
        reaches_without_follow(world, channel_tls(world, new))
        serial = serial_text(x509.load_pem_x509_certificate(old[0]).serial_number)
        listed = RevocationList(federation=NAME, version=2, issued_utc=now().isoformat(), serials=(serial,))
        world.served.call_on_loop(lambda: world.served.servicer.open_calls.deny(listed))
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is REFUSED
    reaches(world, channel_tls(world, new))
    deny(world)


def reaches_without_follow(world: World, tls: grpc.ChannelCredentials) -> None:
    """Like ``reaches``; a second Follow of the site would end the first."""
    for call in METHODS.keys() - {"Follow"}:
        with stub(world.served.address, tls) as client:
            assert outcome(client, call) not in (HANDSHAKE, NOBODY, REFUSED), call

"""A site that says that it is another one, and a coordinator's own credentials in the hands of a thief."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from served_coordinator import METHODS, NAME, stub
from tls_tunnel import through, tunnel
from wrong_certificates import HANDSHAKE, SITES, World, channel_tls, now

from coordinator.store.journal import site_actor
from coordinator.testing import toy_words
from fedmentor.federation import Scores
from fedmentor.identity.credentials import coordinator_credentials
from fedmentor.identity.names import site_uri
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub


@pytest.fixture
def impostor(world: World) -> Iterator[FederationStub]:
    """Site a, as itself."""
    with stub(world.served.address, channel_tls(world, world.good())) as client:
        yield client


def naming_b(message: Any) -> Any:
    """A message with fields that no version of it has, all of which say ``b``; and what a receipt calls the site."""
    unknown = b"".join(bytes([(number << 3) | 2, 1]) + b"b" for number in (8, 9, 10, 11, 12, 13, 14, 15))
    return type(message).FromString(message.SerializeToString() + unknown)


def actors(world: World) -> list[str]:
    """Who did what, from the audit trail."""
    return [record.actor for record in world.served.federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())]


def test_an_update_that_names_another_site_counts_for_whoever_sent_it(world: World, impostor: FederationStub):
    federation = world.served.federation
    words = toy_words("b", federation.ref, federation.manifest)
    header = naming_b(codec.header_to_wire(federation.header(words)))
    parts = [pb.UpdatePart(header=header), pb.UpdatePart(chunk=codec.chunk_to_wire(0, words))]
    metadata = (("site", "b"), ("x-forwarded-client-cert", f"URI={site_uri(NAME, SITES[1])}"), ("authorization", "Bearer b"))
    state = impostor.SendUpdate(iter(parts), metadata=metadata, timeout=20)
    assert codec.state_from_wire(state).site == "a"
    assert federation.moment.delivered == {"a"}
    assert site_actor(SITES[1]) not in actors(world)


def test_a_receipt_that_names_another_site_is_no_update(world: World, impostor: FederationStub):
    receipt = pb.Receipt(round=codec.round_to_wire(world.served.federation.ref), site="b", sha256="0" * 64, accepted_utc="now")
    with pytest.raises(grpc.RpcError):
        impostor.OfferUpdate(pb.UpdateHeader.FromString(receipt.SerializeToString()), timeout=20)
    assert "b" not in world.served.federation.moment.delivered


def test_scores_that_name_another_site_count_for_whoever_sent_them(world: World, impostor: FederationStub):
    federation = world.served.federation
    scores = codec.scores_to_wire(Scores(federation.ref, federation.moment.state.model, 1, 1, 0.5, 0.4, 1.0))
    impostor.ReportScores(naming_b(scores), metadata=(("site", "b"),), timeout=20)
    assert {*federation.engine.report().rounds[0].sites} >= {"a"}
    assert site_actor(SITES[1]) not in actors(world)


def test_the_coordinators_credentials_are_those_of_a_server_only(world: World):
    """The file that a stolen coordinator folder holds opens no call, not even through a tunnel."""
    credentials = coordinator_credentials(world.folder, now())
    with tunnel(world, (credentials.certificate, credentials.key), ssl.TLSVersion.TLSv1_2) as (address, _):
        assert {through(address, call) for call in METHODS} == {HANDSHAKE}

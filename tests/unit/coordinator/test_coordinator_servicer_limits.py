"""What one site can take of the gRPC face: bytes, uploads, calls and time have bounds."""

import threading
from contextlib import suppress

import grpc
import pytest
from servicer_calls import DIGEST, NAME, SITES, TIMEOUT_S, LargeModel, client_of, now, served_by, update_parts

from coordinator.servicer import CallLimits, Servicer
from fedmentor.errors import CoordinatorUnreachable
from fedmentor.federation import CHUNK_BYTES, Manifest
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.wire import codec
from fedmentor.wire.status import error_from_call
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub


def test_a_message_over_the_cap_is_refused(address, certificates):
    options = [("grpc.max_send_message_length", -1)]
    credentials = site_credentials(certificates, SITES[0], now())
    tls = grpc.ssl_channel_credentials(credentials.ca_certificate, credentials.key, credentials.certificate)
    with grpc.secure_channel(address, tls, options=options) as channel, pytest.raises(grpc.RpcError) as caught:
        FederationStub(channel).SendUpdate(iter([pb.UpdatePart(chunk=pb.Chunk(data=bytes(5 << 20)))]), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_site_has_few_uploads_at_once_and_the_next_one_may_try_again(federation, certificates, open_round):
    servicer = Servicer(federation.engine.service, NAME, CallLimits(uploads=0), federation.events.append, lambda _: None)
    with (
        served_by(servicer, coordinator_credentials(certificates, now())) as bound,
        client_of(bound, site_credentials(certificates, SITES[0], now())) as stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stub.SendUpdate(update_parts(federation.header(open_round), open_round), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "uploads under way" in caught.value.details()


def _unread(stub):
    return stub.FetchModel(pb.FetchModelRequest(model=pb.ModelRef(digest=DIGEST, size_bytes=64 * CHUNK_BYTES)))


def test_one_site_cannot_take_the_calls_of_the_others(federation, certificates):
    limits = CallLimits(calls=4)
    servicer = Servicer(LargeModel(federation.engine.service, 64), NAME, limits, federation.events.append, lambda _: None)
    with (
        served_by(servicer, coordinator_credentials(certificates, now()), calls=24) as bound,
        client_of(bound, site_credentials(certificates, SITES[0], now())) as greedy,
        client_of(bound, site_credentials(certificates, SITES[1], now())) as modest,
    ):
        # No deadline, and nobody reads.
        held = [_unread(greedy) for _ in range(12)]
        refused = []
        while len(refused) < len(held) - limits.calls:
            refused = [call for call in held if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.UNAVAILABLE}
        assert "already has 4 calls under way" in refused[0].details()
        assert codec.directive_from_wire(next(modest.Follow(pb.FollowRequest(), timeout=TIMEOUT_S))) == Manifest(
            federation.manifest
        )
        for call in held:
            call.cancel()
        # The places are free again.
        while True:
            stream = greedy.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
            with suppress(grpc.RpcError):
                next(stream)
                break


def test_a_transfer_that_goes_nowhere_is_ended(federation, certificates):
    limits = CallLimits(transfer_s=0.2)
    servicer = Servicer(LargeModel(federation.engine.service, 64), NAME, limits, federation.events.append, lambda _: None)
    silence = threading.Event()

    def parts():
        silence.wait(TIMEOUT_S)
        yield pb.UpdatePart()

    with (
        served_by(servicer, coordinator_credentials(certificates, now())) as bound,
        client_of(bound, site_credentials(certificates, SITES[0], now())) as stub,
    ):
        # Neither has a deadline of its own.
        download, upload = _unread(stub), stub.SendUpdate.future(parts())
        while servicer._calls["a"] < 2:
            silence.wait(0.01)
        while servicer._calls["a"]:
            silence.wait(0.01)
        for end in (lambda: list(download), upload.result):
            with pytest.raises(grpc.RpcError) as caught:
                end()
            assert type(error_from_call(caught.value)) is CoordinatorUnreachable
            assert "longer than 0.2 s" in caught.value.details()
        silence.set()

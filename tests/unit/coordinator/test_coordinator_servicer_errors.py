"""How errors leave the gRPC face: as what they are, and without private text."""

from dataclasses import replace

import grpc
import pytest
from servicer_calls import CALLS, DIGEST, HEADER, SITES, TIMEOUT_S, client_of, now, served_by, update_parts

from coordinator.events import CallFailed, SiteCertificateShown
from coordinator.servicer import CallLimits, Servicer
from fedmentor.errors import BrokenStore, PortInUse, RoundClosed, UpdateRejected
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.wire import codec
from fedmentor.wire.status import INTERNAL_SENTENCE, error_from_call
from fedmentor.wire.v1 import federation_pb2 as pb


def test_refusals_arrive_as_what_they_are(federation, stub, open_round):
    header = replace(federation.header(open_round), base_model=DIGEST)
    with pytest.raises(grpc.RpcError) as caught:
        stub.OfferUpdate(codec.header_to_wire(header), timeout=TIMEOUT_S)
    error = error_from_call(caught.value)
    assert (type(error), error.cure) == (UpdateRejected, "fetch the model again")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.FetchModel(pb.FetchModelRequest(model=pb.ModelRef(digest=DIGEST, size_bytes=1)), timeout=TIMEOUT_S))
    assert type(error_from_call(caught.value)) is RoundClosed


def test_parts_out_of_form_are_refused(federation, stub, open_round):
    header = codec.header_to_wire(federation.header(open_round))
    first = pb.UpdatePart(header=header)
    for parts in (
        [],
        [pb.UpdatePart()],
        [pb.UpdatePart(chunk=pb.Chunk(offset=0, data=b"1"))],
        [first, first],
        [first, pb.UpdatePart(chunk=pb.Chunk(offset=0, data=b""))],
        [first, pb.UpdatePart(chunk=pb.Chunk(offset=0, data=bytes(1000)))],
        [pb.UpdatePart(header=pb.UpdateHeader(sha256="x"))],
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.SendUpdate(iter(parts), timeout=TIMEOUT_S)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert federation.moment.delivered == frozenset()
    records = federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    assert {record.actor for record in records if record.event == "refuse_message"} == {f"site {SITES[0]}"}


def test_a_chunk_out_of_place_is_a_broken_line(federation, stub, open_round):
    parts = [
        *list(update_parts(federation.header(open_round), open_round, step=50))[:2],
        *list(update_parts(HEADER, open_round, 60))[1:],
    ]
    with pytest.raises(grpc.RpcError) as caught:
        stub.SendUpdate(iter(parts), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


class _FailingService:
    """A service with a bug, or with a broken disk."""

    def __init__(self, error):
        self._error = error

    def admit(self, site):
        assert site == "a"

    def __getattr__(self, name):
        def fail(*_arguments):
            raise self._error

        return fail


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("private: /srv/patients"), grpc.StatusCode.INTERNAL),
        (BrokenStore("private: /srv/state"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_private_text_stays_in_the_log(call, error, code, certificates, authority):
    events, broken = [], []
    servicer = Servicer(_FailingService(error), authority.federation, CallLimits(), events.append, broken.append)
    with (
        served_by(servicer, coordinator_credentials(certificates, now())) as bound,
        client_of(bound, site_credentials(certificates, SITES[0], now())) as stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        call(stub)
    assert caught.value.code() is code
    assert "private" not in caught.value.details()
    assert (caught.value.details() == INTERNAL_SENTENCE) == (code is grpc.StatusCode.INTERNAL)
    shown, event = events
    assert isinstance(shown, SiteCertificateShown)
    assert isinstance(event, CallFailed)
    assert "private: /srv" in event.private
    assert event.site == "a"
    assert broken == ([error] if isinstance(error, BrokenStore) else [])


def test_a_port_in_use_has_a_name(address, certificates, authority):
    servicer = Servicer(_FailingService(RuntimeError()), authority.federation, CallLimits(), print, print)
    with pytest.raises(PortInUse, match=address), served_by(servicer, coordinator_credentials(certificates, now()), listen=address):
        pass

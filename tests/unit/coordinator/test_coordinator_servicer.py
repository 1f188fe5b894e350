"""The gRPC face over real mutual TLS on loopback: who may call, what goes through, how errors leave."""

import asyncio
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from coordinator.certificate import LiveCertificate
from coordinator.events import CallFailed, CertificateRefused, CertificateRenewed, SiteConnected
from coordinator.servicer import CallLimits, Servicer, start_server
from coordinator.state import PhaseName
from coordinator.streams import MAX_SOFTWARE_CHARACTERS
from coordinator.testing import PARAMETERS, ToyFederation, toy_words
from fedmentor.audit.checkpoint import Checkpoint
from fedmentor.clock import SystemClock
from fedmentor.errors import BrokenStore, CoordinatorUnreachable, PolicyRefusal, PortInUse, RoundClosed, UpdateRejected
from fedmentor.federation import (
    CHUNK_BYTES,
    Finished,
    Manifest,
    Offset,
    Receipt,
    RoundRef,
    StepAnswer,
    StepName,
    Train,
    UpdateHeader,
)
from fedmentor.identity.authority import LEAF_LIFETIME, Authority, throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.identity.names import coordinator_host
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.wire import codec
from fedmentor.wire.channel import CLIENT_OPTIONS, Credentials, server_credentials
from fedmentor.wire.status import INTERNAL_SENTENCE, error_from_call
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

NAME = "fed.example"
SITES = [SiteId(site) for site in "abc"]
TIMEOUT_S = 20.0
DIGEST = Digest("0" * 64)
HEADER = UpdateHeader(RoundRef(RunId("toy-run"), Round(0), Attempt(1)), DIGEST, 8, DIGEST)
CHECKPOINT = Checkpoint(NAME, RunId("toy-run"), 1, DIGEST, "2026-01-01T00:00:00+00:00")


def _now():
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder):
    return throwaway(folder, NAME, SITES, ["localhost", "127.0.0.1"])


@contextmanager
def _served(servicer, credentials, calls=32, listen="127.0.0.1:0", renewed=lambda: None):
    """A server on an event loop in a thread of its own; gives the bound address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def on_loop(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(TIMEOUT_S)

    try:
        tls = server_credentials(credentials, renewed)
        server, address = on_loop(start_server(servicer, listen, tls, calls))
        try:
            yield address
        finally:
            on_loop(server.stop(0))
    finally:
        on_loop(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def federation(tmp_path):
    made = ToyFederation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def address(federation, authority, folder):
    assert authority.federation == NAME
    servicer = Servicer(federation.engine.service, NAME, CallLimits(), federation.events.append, lambda _: None)
    with _served(servicer, coordinator_credentials(folder, _now())) as bound:
        yield bound


@contextmanager
def _stub(address, credentials):
    # A pool of its own: channels that look alike would share a connection, and with it what was agreed in its handshake.
    tls = grpc.ssl_channel_credentials(credentials.ca_certificate, credentials.key, credentials.certificate)
    options = (
        *CLIENT_OPTIONS,
        ("grpc.ssl_target_name_override", coordinator_host(NAME)),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.secure_channel(address, tls, options=options) as channel:
        yield FederationStub(channel)


@pytest.fixture
def stub(address, folder):
    with _stub(address, site_credentials(folder, SITES[0], _now())) as made:
        yield made


CALLS = {
    "Follow": lambda stub: list(stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)),
    "FetchModel": lambda stub: list(
        stub.FetchModel(pb.FetchModelRequest(model=pb.ModelRef(digest=DIGEST, size_bytes=1)), timeout=TIMEOUT_S)
    ),
    "OfferUpdate": lambda stub: stub.OfferUpdate(codec.header_to_wire(HEADER), timeout=TIMEOUT_S),
    "SendUpdate": lambda stub: stub.SendUpdate(iter([pb.UpdatePart(header=codec.header_to_wire(HEADER))]), timeout=TIMEOUT_S),
    "ReportScores": lambda stub: stub.ReportScores(
        pb.Scores(round=codec.round_to_wire(HEADER.round), model_digest=DIGEST, patients=1, images=1), timeout=TIMEOUT_S
    ),
    "AnswerStep": lambda stub: stub.AnswerStep(
        codec.answer_to_wire(StepAnswer(HEADER.round, StepName.ADVERTISE, b"advert")), timeout=TIMEOUT_S
    ),
    "SitOut": lambda stub: stub.SitOut(codec.sit_out_to_wire(HEADER.round, "restarted"), timeout=TIMEOUT_S),
    "FetchAudit": lambda stub: list(stub.FetchAudit(pb.FetchAuditRequest(from_record=0), timeout=TIMEOUT_S)),
    "Countersign": lambda stub: stub.Countersign(codec.countersignature_to_wire(CHECKPOINT, bytes(64)), timeout=TIMEOUT_S),
}


def _status(call, address, credentials):
    with _stub(address, credentials) as stub, pytest.raises(grpc.RpcError) as caught:
        call(stub)
    return caught.value.code()


def test_every_call_of_the_proto_has_a_handler_and_a_case_here():
    names = {method.name for method in pb.DESCRIPTOR.services_by_name["Federation"].methods}
    assert names == set(CALLS)
    assert all(name in vars(Servicer) for name in names)


# --- who may call ---


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_site_that_is_not_on_the_roster_is_refused(call, address, authority):
    issued = authority.issue_site(SiteId("stranger"), _now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert _status(call, address, credentials) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_another_federations_name_is_refused_though_the_authority_is_the_same(call, address, authority):
    issued = replace(authority, federation="fed.other").issue_site(SITES[0], _now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert _status(call, address, credentials) is grpc.StatusCode.UNAUTHENTICATED


def test_a_dns_name_that_is_spelt_like_a_uri_is_no_identity(address, authority):
    issued = authority._issue("x", [x509.DNSName(f"spiffe://{NAME}/site/a")], ExtendedKeyUsageOID.CLIENT_AUTH, _now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert _status(CALLS["OfferUpdate"], address, credentials) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_another_authority_is_refused_at_the_handshake(call, address, authority):
    issued = Authority.create(NAME, _now()).issue_site(SITES[0], _now())
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert _status(call, address, credentials) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_certificate_is_refused_at_the_handshake(call, address, authority):
    tls = grpc.ssl_channel_credentials(authority.pem)
    with grpc.secure_channel(address, tls, options=CLIENT_OPTIONS) as channel, pytest.raises(grpc.RpcError) as caught:
        call(FederationStub(channel))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_plaintext_is_refused(call, address):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        call(FederationStub(channel))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_coordinators_own_certificate_is_no_clients(address, folder):
    assert _status(CALLS["OfferUpdate"], address, coordinator_credentials(folder, _now())) is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_is_refused_at_the_handshake(address, authority):
    issued = authority.issue_site(SITES[0], datetime(2020, 1, 1, tzinfo=timezone.utc))
    credentials = Credentials(authority.pem, issued.certificate, issued.key)
    assert _status(CALLS["OfferUpdate"], address, credentials) is grpc.StatusCode.UNAVAILABLE


def test_a_client_refuses_another_authoritys_coordinator(address, folder):
    good = site_credentials(folder, SITES[0], _now())
    credentials = replace(good, ca_certificate=Authority.create(NAME, _now()).pem)
    assert _status(CALLS["OfferUpdate"], address, credentials) is grpc.StatusCode.UNAVAILABLE


# --- what goes through ---


def _parts(header, words, start=0, step=CHUNK_BYTES):
    yield pb.UpdatePart(header=codec.header_to_wire(header))
    for offset in range(start, len(words), step):
        yield pb.UpdatePart(chunk=codec.chunk_to_wire(offset, words[offset : offset + step]))


@pytest.fixture
def open_round(federation):
    federation.connect()
    federation.settle()
    return toy_words("a", federation.ref, federation.manifest)


def test_a_site_follows_a_run_to_its_end(federation, stub):
    stream = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    received = (codec.directive_from_wire(message) for message in stream)
    assert next(received) == Manifest(federation.manifest)
    next(received)  # waits for the others
    federation.connect("b", "c")
    federation.settle()
    train = next(received)
    assert train == Train(federation.ref, train.model, 60.0)
    chunks = list(stub.FetchModel(pb.FetchModelRequest(model=codec.model_to_wire(train.model), offset=3), timeout=TIMEOUT_S))
    assert [chunk.offset for chunk in chunks] == [3]
    assert len(chunks[0].data) == 4 * PARAMETERS - 3
    federation.play()
    assert isinstance(list(received)[-1], Finished)
    assert federation.moment.state.phase is PhaseName.SHUTDOWN


def test_the_receipt_names_the_site_of_the_certificate(federation, stub, open_round):
    header = federation.header(open_round)
    assert codec.state_from_wire(stub.OfferUpdate(codec.header_to_wire(header), timeout=TIMEOUT_S)) == Offset(0)
    receipt = codec.state_from_wire(stub.SendUpdate(_parts(header, open_round, step=50), timeout=TIMEOUT_S))
    assert isinstance(receipt, Receipt)
    assert receipt.site == "a"
    again = codec.state_from_wire(stub.SendUpdate(_parts(header, open_round), timeout=TIMEOUT_S))
    assert again == receipt
    assert federation.moment.delivered == {"a"}


def test_a_broken_upload_goes_on_where_it_broke(federation, stub, open_round):
    header = federation.header(open_round)
    half = list(_parts(header, open_round, step=78))[:2]
    assert codec.state_from_wire(stub.SendUpdate(iter(half), timeout=TIMEOUT_S)) == Offset(78)
    receipt = codec.state_from_wire(stub.SendUpdate(_parts(header, open_round, 78), timeout=TIMEOUT_S))
    assert isinstance(receipt, Receipt)


def test_scores_arrive(federation, stub, open_round):
    assert open_round
    message = pb.Scores(
        round=codec.round_to_wire(federation.ref),
        model_digest=federation.moment.state.model,
        patients=1,
        images=2,
        dice=0.5,
        iou=0.4,
        hd95=float("nan"),
    )
    stub.ReportScores(message, timeout=TIMEOUT_S)
    assert federation.engine.report().rounds[0].sites["a"].hd95 is None


def test_a_second_stream_ends_the_first_for_good(federation, stub):
    first = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    next(first)
    second = stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)
    next(second)
    with pytest.raises(grpc.RpcError) as caught:
        list(first)
    assert type(error_from_call(caught.value)) is PolicyRefusal
    assert federation.manifest.run == "toy-run"
    second.cancel()


# --- how errors leave ---


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
    parts = [*list(_parts(federation.header(open_round), open_round, step=50))[:2], *list(_parts(HEADER, open_round, 60))[1:]]
    with pytest.raises(grpc.RpcError) as caught:
        stub.SendUpdate(iter(parts), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_message_over_the_cap_is_refused(address, folder):
    options = [("grpc.max_send_message_length", -1)]
    credentials = site_credentials(folder, SITES[0], _now())
    tls = grpc.ssl_channel_credentials(credentials.ca_certificate, credentials.key, credentials.certificate)
    with grpc.secure_channel(address, tls, options=options) as channel, pytest.raises(grpc.RpcError) as caught:
        FederationStub(channel).SendUpdate(iter([pb.UpdatePart(chunk=pb.Chunk(data=bytes(5 << 20)))]), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


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
def test_private_text_stays_in_the_log(call, error, code, folder, authority):
    events, broken = [], []
    servicer = Servicer(_FailingService(error), authority.federation, CallLimits(), events.append, broken.append)
    with (
        _served(servicer, coordinator_credentials(folder, _now())) as bound,
        _stub(bound, site_credentials(folder, SITES[0], _now())) as stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        call(stub)
    assert caught.value.code() is code
    assert "private" not in caught.value.details()
    assert (caught.value.details() == INTERNAL_SENTENCE) == (code is grpc.StatusCode.INTERNAL)
    (event,) = events
    assert isinstance(event, CallFailed)
    assert "private: /srv" in event.private
    assert event.site == "a"
    assert broken == ([error] if isinstance(error, BrokenStore) else [])


def test_a_site_has_few_uploads_at_once_and_the_next_one_may_try_again(federation, folder, open_round):
    servicer = Servicer(federation.engine.service, NAME, CallLimits(uploads=0), federation.events.append, lambda _: None)
    with (
        _served(servicer, coordinator_credentials(folder, _now())) as bound,
        _stub(bound, site_credentials(folder, SITES[0], _now())) as stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        stub.SendUpdate(_parts(federation.header(open_round), open_round), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "uploads under way" in caught.value.details()


class _LargeModel:
    """A service whose model is more than any buffer holds; stays in force for ever."""

    def __init__(self, service):
        self._service = service

    def __getattr__(self, name):
        return getattr(self._service, name)

    def fetch_model(self, *_arguments):
        return iter([bytes(CHUNK_BYTES)] * 64)


def _unread(stub):
    return stub.FetchModel(pb.FetchModelRequest(model=pb.ModelRef(digest=DIGEST, size_bytes=64 * CHUNK_BYTES)))


def test_one_site_cannot_take_the_calls_of_the_others(federation, folder):
    limits = CallLimits(calls=4)
    servicer = Servicer(_LargeModel(federation.engine.service), NAME, limits, federation.events.append, lambda _: None)
    with (
        _served(servicer, coordinator_credentials(folder, _now()), calls=24) as bound,
        _stub(bound, site_credentials(folder, SITES[0], _now())) as greedy,
        _stub(bound, site_credentials(folder, SITES[1], _now())) as modest,
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


def test_a_transfer_that_goes_nowhere_is_ended(federation, folder):
    limits = CallLimits(transfer_s=0.2)
    servicer = Servicer(_LargeModel(federation.engine.service), NAME, limits, federation.events.append, lambda _: None)
    silence = threading.Event()

    def parts():
        silence.wait(TIMEOUT_S)
        yield pb.UpdatePart()

    with (
        _served(servicer, coordinator_credentials(folder, _now())) as bound,
        _stub(bound, site_credentials(folder, SITES[0], _now())) as stub,
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


def test_a_renewed_certificate_is_taken_up_without_a_restart(federation, tmp_path):
    authority = throwaway(tmp_path / "c", NAME, SITES, ["127.0.0.1"])
    place, site = tmp_path / "c" / "coordinator", site_credentials(tmp_path / "c", SITES[0], _now())
    leaf = authority.issue_coordinator(["127.0.0.1"], _now() - LEAF_LIFETIME)  # ended a moment ago
    (place / "key.pem").write_bytes(leaf.key)
    (place / "certificate.pem").write_bytes(leaf.certificate)
    live = LiveCertificate(tmp_path / "c", SystemClock(), federation.events.append)
    servicer = Servicer(federation.engine.service, live.federation, CallLimits(), federation.events.append, lambda _: None)

    def follow(address):
        with _stub(address, site) as stub:
            return next(stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S)).WhichOneof("kind")

    with _served(servicer, live.current, renewed=live.renewed) as bound:
        with pytest.raises(grpc.RpcError) as caught:
            follow(bound)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        fresh = authority.issue_coordinator(["127.0.0.1"], _now())
        (place / "key.pem").write_bytes(fresh.key)
        assert live.renewed() is None  # the key is there, its certificate is not yet
        assert live.renewed() is None
        (place / "certificate.pem").write_bytes(fresh.certificate)
        assert follow(bound) == "manifest"
    kinds = [type(event) for event in federation.events]
    assert kinds.count(CertificateRefused) == kinds.count(CertificateRenewed) == 1


def test_a_certificate_of_another_federation_is_not_taken_up(federation, tmp_path):
    authority = throwaway(tmp_path, NAME, SITES, ["127.0.0.1"])
    live = LiveCertificate(tmp_path, SystemClock(), federation.events.append)
    other = replace(authority, federation="fed.other").issue_coordinator(["127.0.0.1"], _now())
    (tmp_path / "coordinator" / "key.pem").write_bytes(other.key)
    (tmp_path / "coordinator" / "certificate.pem").write_bytes(other.certificate)
    assert live.renewed() is None
    assert federation.events == [CertificateRefused(f"the certificate in {tmp_path} is another federation's")]


def test_what_a_site_says_of_itself_is_logged_and_capped(federation, stub):
    stream = stub.Follow(pb.FollowRequest(software="node " + "9" * 1000), timeout=TIMEOUT_S)
    next(stream)
    stream.cancel()
    (connected,) = [event for event in federation.events if isinstance(event, SiteConnected)]
    assert connected.software.startswith("node 999")
    assert len(connected.software) == MAX_SOFTWARE_CHARACTERS


def test_a_port_in_use_has_a_name(address, folder, authority):
    servicer = Servicer(_FailingService(RuntimeError()), authority.federation, CallLimits(), print, print)
    with pytest.raises(PortInUse, match=address), _served(servicer, coordinator_credentials(folder, _now()), listen=address):
        pass

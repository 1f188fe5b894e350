"""The deny-list over real mutual TLS: revoked sites are refused on every call, and what they have under way ends."""

import asyncio
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from cryptography import x509
from servicer_calls import LargeModel

from coordinator.events import CallFailed, DenyListChanged, DenyListRefused
from coordinator.revocations import LiveRevocations, newest_recorded, record, watch
from coordinator.servicer import CallLimits, Servicer, start_server
from coordinator.testing import ToyFederation
from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError, CoordinatorUnreachable, IdentityRefused, PolicyRefusal
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.identity.keys import spki_digest
from fedmentor.identity.names import coordinator_host
from fedmentor.identity.revocation import RevocationList, serial_text
from fedmentor.ids import SiteId
from fedmentor.testing.clock import ManualClock
from fedmentor.wire.channel import client_channel, server_credentials
from fedmentor.wire.status import error_from_call
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

NAME = "fed.example"
SITES = [SiteId(site) for site in "abc"]
TIMEOUT_S = 20.0
CUT_OFF_SECONDS = 10.0


def _now():
    return datetime.now(timezone.utc)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "certificates"


@pytest.fixture
def authority(folder):
    return throwaway(folder, NAME, SITES, ["127.0.0.1"])


def _certificate(folder, site):
    return x509.load_pem_x509_certificate((folder / "sites" / site / "certificate.pem").read_bytes())


def _list(version, *, serials=(), keys=(), federation=NAME):
    utc = "2026-01-01T00:00:00+00:00"
    return RevocationList(
        federation=federation, version=version, issued_utc=utc, serials=tuple(sorted(serials)), keys=tuple(sorted(keys))
    )


def _put(folder, authority, revoked):
    signed = authority.sign(revoked.to_bytes())
    (folder / "revoked.json").write_bytes(signed.data)
    (folder / "revoked.sig").write_bytes(signed.signature)


def _by_serial(folder, version, *sites):
    return _list(version, serials=[serial_text(_certificate(folder, site).serial_number) for site in sites])


class _Served:
    """A server with its watch on an event loop in a thread of its own."""

    def __init__(self, servicer, folder, events, clock=None):
        self.servicer = servicer
        self.loop = asyncio.new_event_loop()
        self.recorded = []
        self._folder = folder
        self._live = LiveRevocations(folder, NAME, events.append)
        self._clock = clock or SystemClock()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self):
        self._thread.start()
        tls = server_credentials(coordinator_credentials(self._folder, _now()), lambda: None)
        self._server, self.address = self.on_loop(start_server(self.servicer, "127.0.0.1:0", tls, 64))
        self._watch = asyncio.run_coroutine_threadsafe(
            watch(self._live, self.servicer.open_calls, self.recorded.append, self._clock), self.loop
        )
        return self

    def on_loop(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)

    def __exit__(self, *_):
        self._watch.cancel()
        self.on_loop(self._server.stop(0))
        self.on_loop(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @contextmanager
    def stub(self, site):
        credentials = site_credentials(self._folder, SiteId(site), _now())
        with client_channel(self.address, credentials, coordinator_host(NAME)) as channel:
            yield FederationStub(channel)


@pytest.fixture
def federation(tmp_path):
    made = ToyFederation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def served(federation, folder, authority):
    assert authority.federation == NAME
    servicer = Servicer(
        LargeModel(federation.engine.service, 1_000_000), NAME, CallLimits(), federation.events.append, lambda _: None
    )
    with _Served(servicer, folder, federation.events) as running:
        yield running


def _end_of(work):
    with pytest.raises(grpc.RpcError) as caught:
        work()
    return caught.value


def _call(stub, method):
    """Call any method of the proto with an empty message, and read its first answer."""
    empty = getattr(pb, method.input_type.name)()
    answer = getattr(stub, method.name)(iter([empty]) if method.client_streaming else empty, timeout=TIMEOUT_S)
    return next(answer) if method.server_streaming else answer


def _fetch(stub):
    return stub.FetchModel(pb.FetchModelRequest(model=pb.ModelRef(digest="0" * 64, size_bytes=1)))


def test_a_revoked_sites_stream_and_transfers_end_and_nothing_of_it_is_let_in_again(served, federation, folder, authority):
    silence = threading.Event()

    def nothing():
        silence.wait(TIMEOUT_S)
        yield pb.UpdatePart()

    with served.stub("a") as stub, served.stub("b") as other:
        # None of these has a deadline of its own.
        stream, kept = stub.Follow(pb.FollowRequest()), other.Follow(pb.FollowRequest())
        next(stream), next(kept)
        download, upload = _fetch(stub), stub.SendUpdate.future(nothing())
        next(download)
        begin = datetime.now(timezone.utc)
        _put(folder, authority, _by_serial(folder, 1, "a"))
        for end in (lambda: list(stream), upload.result, lambda: [None for _ in download]):
            error = _end_of(end)
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            assert type(error_from_call(error)) is PolicyRefusal
        assert (datetime.now(timezone.utc) - begin).total_seconds() < CUT_OFF_SECONDS
        silence.set()
        for method in pb.DESCRIPTOR.services_by_name["Federation"].methods:
            assert _end_of(lambda method=method: _call(stub, method)).code() is grpc.StatusCode.PERMISSION_DENIED, method.name
        assert kept.is_active()
        next(_fetch(other))
        kept.cancel()
    assert DenyListChanged(1, 1, 0) in federation.events
    assert [revoked.version for revoked in served.recorded] == [1]
    assert "a" not in federation.engine.service._streams._open


def test_a_renewed_certificate_of_a_revoked_key_is_refused_too(served, folder, authority):
    served.on_loop(_deny(served, _list(1, keys=[spki_digest(_certificate(folder, "a").public_key())])))
    renewed = authority.certify_site(_certificate(folder, "a").public_key(), SITES[0], _now())
    (folder / "sites" / "a" / "certificate.pem").write_bytes(renewed)
    with served.stub("a") as stub:
        assert _end_of(lambda: next(stub.Follow(pb.FollowRequest()))).code() is grpc.StatusCode.PERMISSION_DENIED


def test_new_keys_of_the_same_site_are_let_in(served, folder, authority):
    served.on_loop(_deny(served, _list(1, keys=[spki_digest(_certificate(folder, "a").public_key())])))
    issued = authority.issue_site(SITES[0], _now())
    (folder / "sites" / "a" / "certificate.pem").write_bytes(issued.certificate)
    (folder / "sites" / "a" / "key.pem").write_bytes(issued.key)
    with served.stub("a") as stub:
        stream = stub.Follow(pb.FollowRequest())
        next(stream)
        stream.cancel()


async def _deny(served, revoked):
    served.servicer.open_calls.deny(revoked)


async def _sweep(served, now):
    served.servicer.open_calls.sweep(now)


def test_a_stream_does_not_outlive_its_certificate(served):
    with served.stub("a") as stub:
        stream = stub.Follow(pb.FollowRequest())
        next(stream)
        served.on_loop(_sweep(served, _now() + timedelta(days=7)))
        assert stream.is_active()
        served.on_loop(_sweep(served, _now() + timedelta(days=7, minutes=6)))
        # A broken line and not a refusal: the site comes back with its renewed certificate.
        assert type(error_from_call(_end_of(lambda: list(stream)))) is CoordinatorUnreachable


def test_a_call_that_its_own_caller_ends_is_just_over(served, federation):
    with served.stub("a") as stub:
        stream = stub.Follow(pb.FollowRequest())
        next(stream)
        stream.cancel()
    with served.stub("b") as stub:
        next(stub.Follow(pb.FollowRequest()))
    assert not [event for event in federation.events if isinstance(event, CallFailed)]


# --- the list in the folder ---


def test_without_a_list_nothing_is_revoked(folder, authority):
    live = LiveRevocations(folder, authority.federation, print)
    assert live.current is None
    assert live.renewed() is None


def test_only_a_newer_list_replaces_the_one_in_force(folder, authority):
    events = []
    second, third = _list(2, serials=["ab"]), _list(3, serials=["ab", "cd"])
    _put(folder, authority, second)
    live = LiveRevocations(folder, NAME, events.append)
    assert live.current == second
    assert live.renewed() is None
    _put(folder, authority, third)
    assert live.renewed() == live.current == third
    assert live.renewed() is None
    refused = [
        lambda: _put(folder, authority, second),
        lambda: _put(folder, authority, _list(4, federation="fed.other")),
        lambda: _put(folder, authority, _list(3)),
        lambda: (folder / "revoked.sig").write_bytes(b"x"),
        (folder / "revoked.sig").unlink,
        (folder / "revoked.json").unlink,
    ]
    for count, change in enumerate(refused, start=2):
        change()
        assert live.renewed() is None
        assert live.renewed() is None
        assert live.current == third
        assert len(events) == count
        assert isinstance(events[-1], DenyListRefused)
    assert events[0] == DenyListChanged(3, 2, 0)


def test_a_list_that_cannot_be_used_keeps_a_coordinator_from_starting(folder, authority):
    _put(folder, authority, _list(1, federation="fed.other"))
    with pytest.raises(IdentityRefused, match="another federation's"):
        LiveRevocations(folder, NAME, print)
    (folder / "revoked.sig").unlink()
    with pytest.raises(ConfigError, match=r"revoked\.sig"):
        LiveRevocations(folder, NAME, print)


def test_a_restart_does_not_go_back_to_an_older_list(federation, folder, authority):
    journal = federation.engine.journal
    assert journal.run_tx("t", newest_recorded) == 0
    for version in (1, 2):
        journal.run_tx("t", lambda tx, version=version: record(tx, _list(version)))
    floor = journal.run_tx("t", newest_recorded)
    assert floor == 2
    with pytest.raises(IdentityRefused, match="is version 0, and version 2 was in force before"):
        LiveRevocations(folder, NAME, print, floor)
    _put(folder, authority, _list(1))
    with pytest.raises(IdentityRefused, match="is version 1, and"):
        LiveRevocations(folder, NAME, print, floor)
    _put(folder, authority, _list(2))
    assert not LiveRevocations(folder, NAME, print, floor).is_news
    _put(folder, authority, _list(3))
    assert LiveRevocations(folder, NAME, print, floor).is_news


def test_the_watch_goes_on_whatever_goes_wrong_once(folder, authority):
    events, tries = [], []

    def fail(_revoked):
        tries.append(1)
        raise RuntimeError("once")

    class Denied:
        def __init__(self):
            self.lists, self.swept = [], asyncio.Event()

        def deny(self, revoked):
            self.lists.append(revoked.version)

        def sweep(self, _now):
            self.swept.set()

    async def play():
        live, denied = LiveRevocations(folder, NAME, events.append), Denied()
        _put(folder, authority, _list(1))
        task = asyncio.create_task(watch(live, denied, fail, ManualClock(), poll_s=0.01))
        await asyncio.wait_for(denied.swept.wait(), TIMEOUT_S)
        task.cancel()
        return denied.lists

    assert asyncio.run(play()) == [1]
    assert tries == [1]
    assert [type(event) for event in events] == [DenyListChanged, CallFailed]

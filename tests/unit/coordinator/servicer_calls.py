"""The gRPC face served over real mutual TLS on loopback, and one call of every RPC; for the tests of the servicer beside it."""

import asyncio
import threading
from contextlib import contextmanager
from datetime import datetime, timezone

import grpc
import pytest

from coordinator.servicer import start_server
from fedmentor.audit.checkpoint import Checkpoint
from fedmentor.federation import CHUNK_BYTES, RoundRef, StepAnswer, StepName, UpdateHeader
from fedmentor.identity.names import coordinator_host
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.wire import codec
from fedmentor.wire.channel import CLIENT_OPTIONS, server_credentials
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

NAME = "fed.example"
SITES = [SiteId(site) for site in "abc"]
TIMEOUT_S = 20.0
DIGEST = Digest("0" * 64)
HEADER = UpdateHeader(RoundRef(RunId("toy-run"), Round(0), Attempt(1)), DIGEST, 8, DIGEST)
CHECKPOINT = Checkpoint(NAME, RunId("toy-run"), 1, DIGEST, "2026-01-01T00:00:00+00:00")


def now():
    """The real time: TLS knows no other."""
    return datetime.now(timezone.utc)


class LargeModel:
    """A service whose model is more than any buffer holds."""

    def __init__(self, service, chunks):
        self._service = service
        self._chunks = chunks

    def __getattr__(self, name):
        return getattr(self._service, name)

    def fetch_model(self, *_arguments):
        """See CoordinatorService: so many chunks of zeros."""
        return iter([bytes(CHUNK_BYTES)] * self._chunks)


@contextmanager
def served_by(servicer, credentials, calls=32, listen="127.0.0.1:0", renewed=lambda: None):
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


@contextmanager
def client_of(address, credentials):
    """A client with a pool of its own: channels that look alike would share a connection, and what was agreed in its handshake."""
    tls = grpc.ssl_channel_credentials(credentials.ca_certificate, credentials.key, credentials.certificate)
    options = (
        *CLIENT_OPTIONS,
        ("grpc.ssl_target_name_override", coordinator_host(NAME)),
        ("grpc.use_local_subchannel_pool", 1),
    )
    with grpc.secure_channel(address, tls, options=options) as channel:
        yield FederationStub(channel)


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
    "TellTime": lambda stub: stub.TellTime(pb.TimeRequest(), timeout=TIMEOUT_S),
    "Countersign": lambda stub: stub.Countersign(codec.countersignature_to_wire(CHECKPOINT, bytes(64)), timeout=TIMEOUT_S),
}
"""Every RPC by its name, called with something that is in form."""


def status_of(call, address, credentials):
    """How a call ended that was refused."""
    with client_of(address, credentials) as stub, pytest.raises(grpc.RpcError) as caught:
        call(stub)
    return caught.value.code()


def update_parts(header, words, start=0, step=CHUNK_BYTES):
    """An update on the wire: its header, and its words from an offset on."""
    yield pb.UpdatePart(header=codec.header_to_wire(header))
    for offset in range(start, len(words), step):
        yield pb.UpdatePart(chunk=codec.chunk_to_wire(offset, words[offset : offset + step]))

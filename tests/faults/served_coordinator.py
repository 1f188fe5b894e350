"""A coordinator behind real gRPC and real mutual TLS on loopback, in this process; for the campaigns beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import grpc

from coordinator.servicer import CallLimits, Servicer, start_server
from coordinator.testing import ToyFederation
from fedmentor.audit import Head
from fedmentor.identity.credentials import coordinator_credentials
from fedmentor.identity.names import coordinator_host
from fedmentor.ids import SiteId
from fedmentor.wire.channel import CLIENT_OPTIONS, Credentials, server_credentials
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

NAME = "fed.example"
TIMEOUT_S = 20.0
METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["Federation"].methods}
"""Every RPC of the service, from its descriptor: a new one cannot be forgotten."""


class CountingServicer(Servicer):
    """Counts the calls that got past the handshake."""

    reached = 0

    def _site(self, pem: bytes) -> SiteId:
        self.reached += 1
        return super()._site(pem)


@dataclass
class Served:
    """A running server.

    Attributes:
        federation: the coordinator behind it.
        servicer: its gRPC face.
        address: where it listens.
        renewed: what the server uses from the next handshake on, if not None; then it is None again.
    """

    federation: ToyFederation
    servicer: CountingServicer
    loop: asyncio.AbstractEventLoop
    address: str = ""
    renewed: list[Credentials] = field(default_factory=list)

    def on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the server's event loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)

    def call_on_loop(self, function: Callable[[], object]) -> None:
        """Run a function on the server's event loop and wait for it."""

        async def run() -> None:
            function()

        self.on_loop(run())

    def head(self) -> Head:
        """Head of the audit chain: every change of the run's state is recorded there, in the same transaction."""
        return self.federation.engine.journal.run_tx("read", lambda tx: tx.audit_head())


@contextmanager
def served(federation: ToyFederation, certificates: Path, authorities: bytes | None = None) -> Iterator[Served]:
    """Serve a coordinator.

    Args:
        federation: what is behind it.
        certificates: folder that ``throwaway`` wrote.
        authorities: PEM of the authorities whose clients are let in; that of ``certificates`` unless it is given.
    """
    credentials = coordinator_credentials(certificates, datetime.now(timezone.utc))
    if authorities is not None:
        credentials = Credentials(authorities, credentials.certificate, credentials.key)
    servicer = CountingServicer(federation.engine.service, NAME, CallLimits(), federation.events.append, lambda _: None)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    one = Served(federation, servicer, loop)
    tls = server_credentials(credentials, lambda: one.renewed.pop() if one.renewed else None)
    try:
        server, one.address = one.on_loop(start_server(servicer, "127.0.0.1:0", tls, 64))
        try:
            yield one
        finally:
            one.on_loop(server.stop(0))
    finally:
        one.on_loop(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def stub(address: str, tls: grpc.ChannelCredentials, *options: tuple[str, Any]) -> Iterator[FederationStub]:
    """A client with a connection of its own: channels that look alike would share one, and what was agreed in its handshake."""
    own = (("grpc.ssl_target_name_override", coordinator_host(NAME)), ("grpc.use_local_subchannel_pool", 1))
    kept = [option for option in (*CLIENT_OPTIONS, *own) if option[0] not in dict(options)]
    with grpc.secure_channel(address, tls, options=[*kept, *options]) as channel:
        yield FederationStub(channel)


def tls_of(credentials: Credentials) -> grpc.ChannelCredentials:
    """A client's side of mutual TLS."""
    return grpc.ssl_channel_credentials(credentials.ca_certificate, credentials.key, credentials.certificate)


def ask(client: FederationStub, name: str, *messages: Any, timeout: float = TIMEOUT_S) -> Any:
    """Call an RPC by its name; an empty message unless some are given. Of a stream of answers only the first is waited for."""
    method = METHODS[name]
    sent = messages or (getattr(pb, method.input_type.name)(),)
    call = getattr(client, name)(iter(sent) if method.client_streaming else sent[0], timeout=timeout)
    if not method.server_streaming:
        return call
    try:
        return next(call, None)
    finally:
        call.cancel()


def outcome(client: FederationStub, name: str, *messages: Any) -> grpc.StatusCode:
    """How a call ended."""
    try:
        ask(client, name, *messages)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK

"""The gRPC face of CoordinatorService: who calls, how much at once, and how errors leave. The one file here that knows gRPC calls.

Identity: every call, the stream included, is made by whoever the one URI SAN of the peer's certificate names; the handshake has
already checked that this federation's authority issued it for a client. Nothing in a message says who sent it.
Blocking work (files, fsync, SHA-256, SQLite) runs in threads, so that no site waits for another one's disk.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio

from coordinator.events import CallFailed, Observer
from coordinator.service import CoordinatorService
from fedmentor.errors import (
    BrokenStore,
    CoordinatorUnreachable,
    FedMentorError,
    IdentityRefused,
    PortInUse,
    UpdateRejected,
)
from fedmentor.federation import Offset, UpdateHeader, UpdateState
from fedmentor.identity.names import peer_of
from fedmentor.ids import SiteId
from fedmentor.wire import codec
from fedmentor.wire.channel import SERVER_OPTIONS, Credentials, server_credentials
from fedmentor.wire.status import INTERNAL_SENTENCE, status_of, trailing_metadata
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server

_SAN_PROPERTY = "x509_subject_alternative_name"
_BUSY = "the coordinator cannot store anything at the moment"

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]


class Servicer(FederationServicer):
    """See the module.

    Args:
        service: what it is the face of.
        federation: trust domain that a peer's certificate must name.
        uploads_per_site: concurrent uploads of one site.
        observe: is told of failures that callers must not see.
        broken: is told of a failed disk, after which nothing may be acknowledged any more.
    """

    def __init__(
        self,
        service: CoordinatorService,
        federation: str,
        uploads_per_site: int,
        observe: Observer,
        broken: Callable[[BrokenStore], None],
    ) -> None:
        self._service = service
        self._federation = federation
        self._uploads_per_site = uploads_per_site
        self._observe = observe
        self._broken = broken
        self._uploads: Counter[SiteId] = Counter()

    async def Follow(self, request: pb.FollowRequest, context: Context) -> AsyncIterator[pb.Directive]:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("Follow", context) as site, aclosing(self._service.follow(site, request.software)) as directives:
            async for directive in directives:
                yield codec.directive_to_wire(directive)

    async def FetchModel(self, request: pb.FetchModelRequest, context: Context) -> AsyncIterator[pb.Chunk]:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("FetchModel", context) as site:
            offset = request.offset
            chunks = self._service.fetch_model(site, codec.model_from_wire(request.model), offset)
            while chunk := await asyncio.to_thread(next, chunks, b""):
                yield codec.chunk_to_wire(offset, chunk)
                offset += len(chunk)

    async def OfferUpdate(self, request: pb.UpdateHeader, context: Context) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("OfferUpdate", context) as site:
            state = await asyncio.to_thread(self._service.offer_update, site, codec.header_from_wire(request))
        return codec.state_to_wire(state)

    async def SendUpdate(self, request_iterator: AsyncIterator[pb.UpdatePart], context: Context) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("SendUpdate", context) as site:
            with self._one_of_few(site):
                state = await self._receive(site, request_iterator)
        return codec.state_to_wire(state)

    async def ReportScores(self, request: pb.Scores, context: Context) -> pb.ScoresAck:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("ReportScores", context) as site:
            await asyncio.to_thread(self._service.report_scores, site, codec.scores_from_wire(request))
        return pb.ScoresAck()

    async def _receive(self, site: SiteId, parts: AsyncIterator[pb.UpdatePart]) -> UpdateState:
        header = await _first_header(parts)
        state = await asyncio.to_thread(self._service.offer_update, site, header)
        if not isinstance(state, Offset):
            return state
        offset = state.bytes_stored
        async for part in parts:
            if part.WhichOneof("kind") != "chunk":
                raise UpdateRejected("an update is one header and then chunks")
            if part.chunk.offset != offset:
                # Another stream of this site moved the end since the site asked; it will ask again.
                raise CoordinatorUnreachable(f"the update is at byte {offset}, not {part.chunk.offset}")
            data = codec.check_chunk(part.chunk, offset, header.size_bytes - offset)
            await asyncio.to_thread(self._service.append_update, site, header, offset, data)
            offset += len(data)
        return await asyncio.to_thread(self._service.finish_update, site, header)

    @contextmanager
    def _one_of_few(self, site: SiteId) -> Iterator[None]:
        if self._uploads[site] >= self._uploads_per_site:
            # Not an answer about the update: uploads whose line broke may linger here until the keepalive ends them.
            raise CoordinatorUnreachable(f"site {site} already has {self._uploads_per_site} uploads under way")
        self._uploads[site] += 1
        try:
            yield
        finally:
            self._uploads[site] -= 1

    @asynccontextmanager
    async def _answering(self, call: str, context: Context) -> AsyncIterator[SiteId]:
        """Who calls; whatever goes wrong inside leaves by the table of fedmentor.wire.status."""
        site: SiteId | None = None
        try:
            site = self._site(context)
            yield site
        except CoordinatorUnreachable as error:
            # Without the error's name: at the site this is a broken line, to be tried again, not an answer.
            await _abort(context, grpc.StatusCode.UNAVAILABLE, error.message)
        except BrokenStore as error:
            self._observe(CallFailed(call, site, traceback.format_exc()))
            self._broken(error)
            await _abort(context, grpc.StatusCode.UNAVAILABLE, _BUSY)
        except FedMentorError as error:
            await context.abort(status_of(error), error.message, trailing_metadata(error))
        except (aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:  # noqa: BLE001 - the rim: private text goes to the log, a fixed sentence to the peer
            self._observe(CallFailed(call, site, traceback.format_exc()))
            await _abort(context, grpc.StatusCode.INTERNAL, INTERNAL_SENTENCE)

    def _site(self, context: Context) -> SiteId:
        """The site behind the peer's certificate.

        Raises:
            IdentityRefused: not exactly one URI SAN, another federation's, or not a site's.
        """
        names = context.auth_context().get(_SAN_PROPERTY, ())
        peer = peer_of(bytes(name).decode(errors="replace") for name in names)
        if peer.federation != self._federation or peer.site is None:
            raise IdentityRefused("the certificate is not that of a site of this federation", cure="ask the registrar")
        return peer.site


async def start_server(servicer: Servicer, listen: str, credentials: Credentials, calls: int) -> tuple[aio.Server, str]:
    """Start serving.

    Args:
        listen: ``host:port``; port 0 takes a free one.
        calls: concurrent calls, streams included, above which further ones are refused.

    Returns:
        The server and the ``host:port`` that it is bound to.

    Raises:
        PortInUse: another process has the port, or the address is not this machine's.
    """
    server = aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=calls)
    add_FederationServicer_to_server(servicer, server)
    try:
        port = server.add_secure_port(listen, server_credentials(credentials))
    except RuntimeError as error:
        raise PortInUse(f"{listen} cannot be bound", cure="give another --listen HOST:PORT; port 0 takes a free one") from error
    await server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


async def _first_header(parts: AsyncIterator[pb.UpdatePart]) -> UpdateHeader:
    async for part in parts:
        if part.WhichOneof("kind") == "header":
            return codec.header_from_wire(part.header)
        break
    raise UpdateRejected("an update begins with its header")


async def _abort(context: Context, code: grpc.StatusCode, text: str) -> NoReturn:
    await context.abort(code, text)

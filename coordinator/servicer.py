"""The gRPC face of CoordinatorService: who calls, how much at once, and how errors leave. The one file here that knows gRPC calls.

Identity: every call, the stream included, is made by whoever the one URI SAN of the peer's certificate names; the handshake has
already checked that this federation's authority issued it for a client. Nothing in a message says who sent it. What the deny-list
covers is refused on every call, and its calls under way end (coordinator.calls).
Blocking work (files, fsync, SHA-256, SQLite) runs in threads, of which a site has few, as it has few calls: what one site does
keeps no other one waiting.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio

from coordinator.calls import OpenCalls
from coordinator.events import CallFailed, Observer, SiteCertificateShown
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
from fedmentor.identity.credentials import peer_of_client
from fedmentor.ids import SiteId
from fedmentor.protocol import check_node
from fedmentor.wire import codec
from fedmentor.wire.channel import SERVER_OPTIONS
from fedmentor.wire.status import INTERNAL_SENTENCE, status_of, trailing_metadata
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server

_CERTIFICATE_PROPERTY = "x509_pem_cert"
"""The peer's whole certificate. Of its names alone gRPC for Python gives what stands before a zero byte."""

_BUSY = "the coordinator cannot store anything at the moment"

THREADS_PER_SITE = 2
"""Threads in which one site's work may wait for the disk: an upload that is being checked, and one more."""

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class CallLimits:
    """What one site may have under way at once, so that no site keeps the others out.

    Attributes:
        calls: concurrent calls of one site, streams included.
        uploads: concurrent uploads of one site.
        transfer_s: longest time of one model or update transfer; longer than a node's own limit, for peers that have none.
    """

    calls: int = 8
    uploads: int = 2
    transfer_s: float = 600.0


class Servicer(FederationServicer):
    """See the module.

    Args:
        service: what it is the face of.
        federation: trust domain that a peer's certificate must name.
        limits: what one site may have under way.
        observe: is told of failures that callers must not see.
        broken: is told of a failed disk, after which nothing may be acknowledged any more.

    Attributes:
        open_calls: what is under way, and what is denied.
    """

    def __init__(
        self,
        service: CoordinatorService,
        federation: str,
        limits: CallLimits,
        observe: Observer,
        broken: Callable[[BrokenStore], None],
    ) -> None:
        self._service = service
        self._federation = federation
        self._limits = limits
        self._observe = observe
        self._broken = broken
        self.open_calls = OpenCalls()
        self._calls: Counter[SiteId] = Counter()
        self._uploads: Counter[SiteId] = Counter()
        self._expiries: dict[SiteId, datetime] = {}
        self._threads: defaultdict[SiteId, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(THREADS_PER_SITE))

    # The two streams write to the context instead of yielding: a peer that does not read then holds this coroutine, which can be
    # ended, and not a generator that nobody closes.

    async def Follow(self, request: pb.FollowRequest, context: Context) -> None:  # type: ignore[override] # noqa: N802 - see above; the proto's name
        """See federation.proto."""
        async with self._answering("Follow", context) as site:
            check_node(request.protocol)
            async with aclosing(self._service.follow(site, request.software)) as directives:
                async for directive in directives:
                    await context.write(codec.directive_to_wire(directive))

    async def FetchModel(self, request: pb.FetchModelRequest, context: Context) -> None:  # type: ignore[override] # noqa: N802 - see above; the proto's name
        """See federation.proto."""
        async with self._answering("FetchModel", context) as site:
            await self._in_time(self._serve_model(site, request, context))

    async def OfferUpdate(self, request: pb.UpdateHeader, context: Context) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("OfferUpdate", context) as site:
            with self._service.reading(site, "OfferUpdate"):
                header = codec.header_from_wire(request)
            state = await self._in_thread(site, lambda: self._service.offer_update(site, header))
        return codec.state_to_wire(state)

    async def SendUpdate(self, request_iterator: AsyncIterator[pb.UpdatePart], context: Context) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("SendUpdate", context) as site:
            with _one_of_few(self._uploads, site, self._limits.uploads, "uploads"):
                state = await self._in_time(self._receive(site, request_iterator))
        return codec.state_to_wire(state)

    async def AnswerStep(self, request: pb.StepAnswer, context: Context) -> pb.StepAck:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("AnswerStep", context) as site:
            with self._service.reading(site, "AnswerStep"):
                answer = codec.answer_from_wire(request)
            await self._in_thread(site, lambda: self._service.answer_step(site, answer))
        return pb.StepAck()

    async def SitOut(self, request: pb.SitOutNotice, context: Context) -> pb.SitOutAck:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("SitOut", context) as site:
            with self._service.reading(site, "SitOut"):
                ref, reason = codec.sit_out_from_wire(request)
            await self._in_thread(site, lambda: self._service.sit_out(site, ref, reason))
        return pb.SitOutAck()

    async def ReportScores(self, request: pb.Scores, context: Context) -> pb.ScoresAck:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("ReportScores", context) as site:
            with self._service.reading(site, "ReportScores"):
                scores = codec.scores_from_wire(request)
            await self._in_thread(site, lambda: self._service.report_scores(site, scores))
        return pb.ScoresAck()

    async def FetchAudit(self, request: pb.FetchAuditRequest, context: Context) -> None:  # type: ignore[override] # noqa: N802 - see above; the proto's name
        """See federation.proto."""
        async with self._answering("FetchAudit", context) as site:
            await self._in_time(self._serve_audit(site, request.from_record, context))

    async def Countersign(self, request: pb.Countersignature, context: Context) -> pb.CountersignAck:  # noqa: N802 - the proto's name
        """See federation.proto."""
        async with self._answering("Countersign", context) as site:
            with self._service.reading(site, "Countersign"):
                checkpoint, signature = codec.countersignature_from_wire(request)
            await self._in_thread(site, lambda: self._service.countersign(site, checkpoint, signature))
        return pb.CountersignAck()

    async def TellTime(self, request: pb.TimeRequest, context: Context) -> pb.TimeReading:  # noqa: N802 - the proto's name
        """See federation.proto."""
        del request
        async with self._answering("TellTime", context) as site:
            return codec.time_to_wire(self._service.tell_time(site))

    async def _serve_audit(self, site: SiteId, from_record: int, context: Context) -> None:
        pages = self._service.fetch_audit(site, from_record)
        while page := await self._in_thread(site, lambda: next(pages, None)):
            await context.write(codec.audit_page_to_wire(page))

    async def _serve_model(self, site: SiteId, request: pb.FetchModelRequest, context: Context) -> None:
        offset = request.offset
        with self._service.reading(site, "FetchModel"):
            model = codec.model_from_wire(request.model)
        chunks = self._service.fetch_model(site, model, offset)
        while chunk := await self._in_thread(site, lambda: next(chunks, b"")):
            await context.write(codec.chunk_to_wire(offset, chunk))
            offset += len(chunk)

    async def _receive(self, site: SiteId, parts: AsyncIterator[pb.UpdatePart]) -> UpdateState:
        with self._service.reading(site, "SendUpdate"):
            header = await _first_header(parts)
        state = await self._in_thread(site, lambda: self._service.offer_update(site, header))
        if not isinstance(state, Offset):
            return state
        resumed, offset = state.bytes_stored > 0, state.bytes_stored
        async for part in parts:
            with self._service.reading(site, "SendUpdate"):
                if part.WhichOneof("kind") != "chunk":
                    raise UpdateRejected("an update is one header and then chunks")
                if part.chunk.offset != offset:
                    # Another stream of this site moved the end since the site asked; it will ask again.
                    raise CoordinatorUnreachable(f"the update is at byte {offset}, not {part.chunk.offset}")
                data = codec.check_chunk(part.chunk, offset, header.size_bytes - offset)
            await self._in_thread(site, partial(self._service.append_update, site, header, offset, data))
            offset += len(data)
        return await self._in_thread(site, lambda: self._service.finish_update(site, header, resumed=resumed))

    async def _in_thread(self, site: SiteId, work: Callable[[], T]) -> T:
        """Do a site's blocking work in one of the few threads that it may hold."""
        places = self._threads[site]
        await places.acquire()
        running = asyncio.get_running_loop().run_in_executor(None, work)
        # Shielded: a call that is cancelled leaves its thread behind, and the place is free only when the thread is.
        running.add_done_callback(lambda _: places.release())
        return await asyncio.shield(running)

    async def _in_time(self, transfer: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(transfer, self._limits.transfer_s)
        except asyncio.TimeoutError as error:
            # A peer that reads nothing takes no status either; it keeps one of its own places until its connection ends.
            raise CoordinatorUnreachable(f"the transfer took longer than {self._limits.transfer_s:g} s") from error

    @asynccontextmanager
    async def _answering(self, call: str, context: Context) -> AsyncIterator[SiteId]:
        """Who calls; whatever goes wrong inside leaves by the table of fedmentor.wire.status."""
        site: SiteId | None = None
        try:
            (pem,) = context.auth_context()[_CERTIFICATE_PROPERTY]
            site = self._site(pem)
            self._service.admit(site)
            with self.open_calls.entered(pem) as certificate, _one_of_few(self._calls, site, self._limits.calls, "calls"):
                self._note_expiry(site, certificate.not_valid_after_utc)
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

    def _note_expiry(self, site: SiteId, expires: datetime) -> None:
        """Tell of a certificate once: a site makes many calls with it."""
        if self._expiries.get(site) != expires:
            self._expiries[site] = expires
            self._observe(SiteCertificateShown(site, expires))

    def _site(self, pem: bytes) -> SiteId:
        """The site behind the peer's certificate.

        Raises:
            IdentityRefused: not of the form that the authority issues, another federation's, or not a site's.
        """
        peer = peer_of_client(pem)
        if peer.federation != self._federation or peer.site is None:
            raise IdentityRefused("the certificate is not that of a site of this federation", cure="ask the registrar")
        return peer.site


async def start_server(servicer: Servicer, listen: str, tls: grpc.ServerCredentials, calls: int) -> tuple[aio.Server, str]:
    """Start serving.

    Args:
        listen: ``host:port``; port 0 takes a free one.
        tls: see fedmentor.wire.channel.server_credentials.
        calls: concurrent calls of everybody, streams included, above which further ones are refused.

    Returns:
        The server and the ``host:port`` that it is bound to.

    Raises:
        PortInUse: another process has the port, or the address is not this machine's.
    """
    server = aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=calls)
    add_FederationServicer_to_server(servicer, server)
    try:
        port = server.add_secure_port(listen, tls)
    except RuntimeError as error:
        raise PortInUse(
            f"{listen} is in use, or not an address of this machine",
            cure="give another --listen HOST:PORT; port 0 takes a free one",
        ) from error
    await server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


@contextmanager
def _one_of_few(under_way: Counter[SiteId], site: SiteId, limit: int, what: str) -> Iterator[None]:
    if under_way[site] >= limit:
        # Not an answer about the matter: calls whose line broke may linger here until the keepalive ends them.
        raise CoordinatorUnreachable(f"site {site} already has {limit} {what} under way")
    under_way[site] += 1
    try:
        yield
    finally:
        under_way[site] -= 1


async def _first_header(parts: AsyncIterator[pb.UpdatePart]) -> UpdateHeader:
    async for part in parts:
        if part.WhichOneof("kind") == "header":
            return codec.header_from_wire(part.header)
        break
    raise UpdateRejected("an update begins with its header")


async def _abort(context: Context, code: grpc.StatusCode, text: str) -> NoReturn:
    await context.abort(code, text)

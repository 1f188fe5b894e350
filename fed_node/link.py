"""The line to the coordinator over gRPC and mutual TLS; the one file of the node that knows gRPC. See CoordinatorLink.

Every call has a deadline. After a failure the channel is closed and the next call makes a new one. gRPC for Python cannot reload
a certificate in an open channel (grpc/grpc issue 41779), so every call looks for a new one, and where there is one makes a channel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

import grpc

from fedmentor import __version__
from fedmentor.audit.chain import AuditRecord
from fedmentor.audit.checkpoint import Checkpoint, SignedCheckpoint
from fedmentor.errors import ConfigError, CoordinatorUnreachable, IdentityRefused, PolicyRefusal
from fedmentor.federation import (
    CHUNK_BYTES,
    Directive,
    ModelRef,
    Offset,
    Receipt,
    RoundRef,
    Scores,
    StepAnswer,
    UpdateHeader,
    UpdateState,
)
from fedmentor.identity.credentials import peer_of_certificate
from fedmentor.identity.names import coordinator_host
from fedmentor.link import DirectiveStream
from fedmentor.protocol import PROTOCOL
from fedmentor.wire import codec
from fedmentor.wire.channel import Credentials, client_channel
from fedmentor.wire.status import error_from_call
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

SHORT_CALL_SECONDS: Final = 30.0
"""Deadline of calls of a few hundred bytes."""

TRANSFER_SECONDS: Final = 300.0
"""Deadline of one model or update transfer; a slower line goes on from the offset in the next call."""

STREAM_SECONDS: Final = 86_400.0
"""A stream of directives is renewed after this long. Longer than any training: one that ends meanwhile is not opened again before
the training is over, and until then the site would count as gone. Pings keep it open."""

IDLE_TRANSFERS: Final = 3
"""Transfers without a single new byte after which the line counts as broken."""


class GrpcLink:
    """See CoordinatorLink. Calls may come from several threads; ``close`` breaks those that are under way.

    Args:
        address: ``host:port`` of the coordinator, who is known by a certificate of the same federation as the site's own.
        credentials: reads this site's certificate, key and the authority's certificate; called for every call.
        proxy: ``host:port`` of an HTTP proxy that has to be asked for the connection; None: none.
    """

    def __init__(self, address: str, credentials: Callable[[], Credentials], proxy: str | None = None) -> None:
        self._address = address
        self._proxy = proxy
        self._credentials = credentials
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._in_use: Credentials | None = None
        # Channels with an earlier certificate, on which a stream of directives may still be open.
        self._outlived: list[grpc.Channel] = []
        self._closed = False

    def follow(self) -> DirectiveStream:
        """See CoordinatorLink. A stream is opened where there is none, or none that is wanted any more: older channels close."""
        self._close_outlived()
        with self._calls() as stub:
            request = pb.FollowRequest(software=f"fedmentor {__version__}", protocol=PROTOCOL)
            return _GrpcStream(stub.Follow(request, timeout=STREAM_SECONDS))

    def fetch_model(self, model: ModelRef) -> bytes:
        """See CoordinatorLink; goes on from the last byte where a transfer broke."""
        data = bytearray()
        idle = 0
        while len(data) < model.size_bytes:
            before = len(data)
            try:
                self._fetch_from(model, data)
            except CoordinatorUnreachable:
                if len(data) == before:
                    raise
            idle = 0 if len(data) > before else idle + 1
            if idle >= IDLE_TRANSFERS:
                raise CoordinatorUnreachable("the coordinator ends every transfer of the model before its end")
        return bytes(data)

    def send_update(self, header: UpdateHeader, words: bytes) -> Receipt:
        """See CoordinatorLink; goes on from the last byte that the coordinator has stored.

        Raises:
            PolicyRefusal: the coordinator says that it has more bytes than the update.
        """
        stored = -1
        idle = 0
        while idle < IDLE_TRANSFERS:
            state = self._offer(header)
            if isinstance(state, Offset):
                state = self._send_from(header, words, state.bytes_stored)
            if isinstance(state, Receipt):
                return state
            if state.bytes_stored > len(words):
                raise PolicyRefusal(f"the coordinator has {state.bytes_stored} bytes of an update of {len(words)}")
            idle = 0 if state.bytes_stored > stored else idle + 1
            stored = max(stored, state.bytes_stored)
        raise CoordinatorUnreachable("the coordinator ends every transfer of the update before its end")

    def answer_step(self, answer: StepAnswer) -> None:
        """See CoordinatorLink."""
        with self._calls() as stub:
            stub.AnswerStep(codec.answer_to_wire(answer), timeout=SHORT_CALL_SECONDS)

    def sit_out(self, ref: RoundRef, reason: str) -> None:
        """See CoordinatorLink."""
        with self._calls() as stub:
            stub.SitOut(codec.sit_out_to_wire(ref, reason), timeout=SHORT_CALL_SECONDS)

    def report_scores(self, scores: Scores) -> None:
        """See CoordinatorLink."""
        with self._calls() as stub:
            stub.ReportScores(codec.scores_to_wire(scores), timeout=SHORT_CALL_SECONDS)

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        with self._calls() as stub:
            parts = stub.FetchAudit(pb.FetchAuditRequest(from_record=from_record), timeout=SHORT_CALL_SECONDS)
            try:
                for part in parts:
                    if part.WhichOneof("kind") == "checkpoint":
                        yield codec.checkpoint_from_wire(part.checkpoint)
                    else:
                        yield from codec.records_from_wire(part.records)
            finally:
                parts.cancel()  # the caller may have stopped before the end

    def countersign(self, checkpoint: Checkpoint, signature: bytes) -> None:
        """See CoordinatorLink."""
        with self._calls() as stub:
            stub.Countersign(codec.countersignature_to_wire(checkpoint, signature), timeout=SHORT_CALL_SECONDS)

    def tell_time(self) -> datetime:
        """See CoordinatorLink."""
        with self._calls() as stub:
            return codec.time_from_wire(stub.TellTime(pb.TimeRequest(), timeout=SHORT_CALL_SECONDS))

    def close(self) -> None:
        """Break calls that are under way and refuse later ones with CoordinatorUnreachable; from any thread, repeatable."""
        with self._lock:
            self._closed = True
        self._drop_channel()

    def _fetch_from(self, model: ModelRef, data: bytearray) -> None:
        """Append what one transfer brings to ``data``: memory grows with what arrived, not with what was declared."""
        with self._calls() as stub:
            request = pb.FetchModelRequest(model=codec.model_to_wire(model), offset=len(data))
            for chunk in stub.FetchModel(request, timeout=TRANSFER_SECONDS):
                data += codec.check_chunk(chunk, len(data), model.size_bytes - len(data))

    def _offer(self, header: UpdateHeader) -> UpdateState:
        with self._calls() as stub:
            return codec.state_from_wire(stub.OfferUpdate(codec.header_to_wire(header), timeout=SHORT_CALL_SECONDS))

    def _send_from(self, header: UpdateHeader, words: bytes, start: int) -> UpdateState:
        with self._calls() as stub:
            return codec.state_from_wire(stub.SendUpdate(_parts(header, words, start), timeout=TRANSFER_SECONDS))

    @contextmanager
    def _calls(self) -> Iterator[FederationStub]:
        """A stub on the open channel; a failed call drops the channel and leaves as one of our errors."""
        channel = self._open_channel()
        try:
            yield FederationStub(channel)
        except ValueError as error:
            # What gRPC says when another thread has closed the channel before the call began.
            if self._holds(channel):
                raise
            raise _closed() from error
        except grpc.RpcError as error:
            mapped = error_from_call(error)
            if isinstance(mapped, CoordinatorUnreachable):
                self._drop_channel()
            raise mapped from error

    def _open_channel(self) -> grpc.Channel:
        """The channel in use; a new one where there is none, or where the certificate was renewed.

        A stream that goes on over the older channel keeps it open; the next stream is opened on the new one.
        """
        with self._lock:
            if self._closed:
                raise _closed()
            credentials = self._current_credentials()
            if self._channel is not None and credentials != self._in_use:
                self._outlived.append(self._channel)
                self._channel = None
            if self._channel is None:
                federation = peer_of_certificate(credentials.certificate).federation
                self._channel = client_channel(self._address, credentials, coordinator_host(federation), self._proxy)
                self._in_use = credentials
            return self._channel

    def _current_credentials(self) -> Credentials:
        """What is in the certificates folder; what is in use where that cannot be used and a channel is open."""
        try:
            return self._credentials()
        except (ConfigError, IdentityRefused):
            if self._channel is None or self._in_use is None:
                raise
            return self._in_use

    def _close_outlived(self) -> None:
        with self._lock:
            channels, self._outlived = self._outlived, []
        for channel in channels:
            channel.close()

    def _holds(self, channel: grpc.Channel) -> bool:
        with self._lock:
            return self._channel is channel

    def _drop_channel(self) -> None:
        with self._lock:
            channels = self._outlived + ([] if self._channel is None else [self._channel])
            self._outlived, self._channel = [], None
        for channel in channels:
            channel.close()


class _GrpcStream:
    """See DirectiveStream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> DirectiveStream:
        return self

    def __next__(self) -> Directive:
        try:
            return codec.directive_from_wire(next(self._call))
        except grpc.RpcError as error:
            raise error_from_call(error) from error

    def cancel(self) -> None:
        """See DirectiveStream."""
        self._call.cancel()


def _closed() -> CoordinatorUnreachable:
    return CoordinatorUnreachable("this node has closed its line to the coordinator")


def _parts(header: UpdateHeader, words: bytes, start: int) -> Iterator[pb.UpdatePart]:
    """The header, then the bytes from ``start`` in chunks."""
    yield pb.UpdatePart(header=codec.header_to_wire(header))
    for offset in range(start, len(words), CHUNK_BYTES):
        yield pb.UpdatePart(chunk=codec.chunk_to_wire(offset, words[offset : offset + CHUNK_BYTES]))

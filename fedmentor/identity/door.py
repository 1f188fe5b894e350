"""The registrar online: gRPC for enrolment with an invite, and for renewal with a certificate. Two ports, one server.

Enrolment has TLS of the server alone, because whoever asks has no certificate yet; its request proves an invite, or keys that are a
member's already. Whoever copied a request on its way gets no more by sending it again than that member's next certificate, which is
worth nothing without the member's private key. Renewal is mutual TLS. The server's own certificate is for ``registrar.FEDERATION``,
which no member can get, and lives in memory.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NoReturn

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fedmentor.clock import Clock
from fedmentor.errors import ConfigError, DataError, FedMentorError, IdentityRefused, PolicyRefusal, PortInUse
from fedmentor.identity.credentials import peer_of_client
from fedmentor.identity.keys import spki
from fedmentor.identity.registrar import Admitted, Registrar
from fedmentor.identity.registrar_rules import Vouching
from fedmentor.identity.request import MAX_REQUEST_BYTES, EnrolmentRequest, read_request
from fedmentor.wire.channel import SERVER_OPTIONS, Credentials, server_configuration, server_credentials
from fedmentor.wire.status import status_of, trailing_metadata
from fedmentor.wire.v1 import registrar_pb2 as pb
from fedmentor.wire.v1.registrar_pb2_grpc import RegistrarServicer, add_RegistrarServicer_to_server

THREADS: Final = 4
"""Of the server; each call is a few signatures and one small file."""

CONCURRENT_CALLS: Final = 16
GRACE_SECONDS: Final = 2.0
"""For calls under way when the door is closed."""

_INTERNAL: Final = "the registrar failed on this request; its log has the cause"

DOOR_OPTIONS: Final = tuple(
    {
        **dict(SERVER_OPTIONS),
        "grpc.max_receive_message_length": MAX_REQUEST_BYTES + 1024,
        # Nobody has business here for longer than a call.
        "grpc.max_connection_idle_ms": 60_000,
        "grpc.max_connection_age_ms": 300_000,
    }.items()
)


@dataclass(frozen=True)
class Enrolled:
    """A request was admitted."""

    uri: str


@dataclass(frozen=True)
class Renewed:
    """A member got a new certificate."""

    uri: str


@dataclass(frozen=True)
class Refused:
    """A call was refused; ``reason`` is what the caller was told."""

    call: str
    reason: str


@dataclass(frozen=True)
class Failed:
    """A call met a bug or a broken disk; ``private`` has the traceback."""

    call: str
    private: str


DoorEvent = Enrolled | Renewed | Refused | Failed
Observer = Callable[[DoorEvent], None]


class DoorServicer(RegistrarServicer):
    """The face of a Registrar; see the module.

    Args:
        registrar: decides.
        federation: trust domain that a caller's certificate must name.
        observe: is told what happens; called on the server's threads.
    """

    def __init__(self, registrar: Registrar, federation: str, observe: Observer) -> None:
        self._registrar = registrar
        self._federation = federation
        self._observe = observe

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.RegistrarReply:  # noqa: N802 - the proto's name
        """See registrar.proto."""
        with self._answering("Enrol", context):
            _checked(request.request)
            admitted = self._registrar.admit(request.request, Vouching())
            self._observe(Enrolled(admitted.peer.uri))
        return pb.RegistrarReply(reply=admitted.reply)

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RegistrarReply:  # noqa: ARG002, N802 - the proto's
        """See registrar.proto."""
        with self._answering("Renew", context):
            admitted = self._renew(context)
            self._observe(Renewed(admitted.peer.uri))
        return pb.RegistrarReply(reply=admitted.reply)

    def Documents(self, request: pb.DocumentsRequest, context: grpc.ServicerContext) -> pb.RegistrarReply:  # noqa: N802 - the proto's name
        """See registrar.proto."""
        with self._answering("Documents", context):
            found = self._registrar.documents(_checked(request.request), request.have)
        return pb.RegistrarReply(reply=found or b"")

    def _renew(self, context: grpc.ServicerContext) -> Admitted:
        """Renew for whoever the certificate of this connection names, and only for its key.

        Raises:
            IdentityRefused: the connection has no certificate (it came to the enrolment port), or one of nobody in this federation.
            PolicyRefusal: the member is gone, or has other keys by now.
        """
        auth = context.auth_context()
        pem = next(iter(auth.get("x509_pem_cert", ())), b"")
        if not pem:
            raise IdentityRefused("renewal needs a certificate", cure="use the registrar's address for renewals")
        peer = peer_of_client(bytes(pem))
        key = x509.load_pem_x509_certificate(bytes(pem)).public_key()
        if peer.federation != self._federation or not isinstance(key, ec.EllipticCurvePublicKey):
            raise IdentityRefused("the certificate is not that of a member of this federation", cure="ask the registrar")
        return self._registrar.renew(peer, spki(key))

    @contextmanager
    def _answering(self, call: str, context: grpc.ServicerContext) -> Iterator[None]:
        """Refusals leave by the table of fedmentor.wire.status; what is wrong with the registrar itself stays here."""
        try:
            yield
        except (IdentityRefused, PolicyRefusal, DataError) as error:
            self._observe(Refused(call, error.message))
            _abort(context, error)
        except Exception:  # noqa: BLE001 - the rim: private text goes to the log, a fixed sentence to the caller
            self._observe(Failed(call, traceback.format_exc()))
            context.abort(grpc.StatusCode.INTERNAL, _INTERNAL)


class DoorCertificate:
    """The server's certificate: renewed in memory when half of its life is over, or when the authority is rotated."""

    def __init__(self, registrar: Registrar, clock: Clock) -> None:
        self._registrar = registrar
        self._clock = clock
        self.current = registrar.door_credentials()
        self._due = self._half_life(self.current)

    def renewed(self) -> Credentials | None:
        """A fresh one where it is time; asked at every handshake."""
        same = self._registrar.bundle() == self.current.ca_certificate
        if same and self._clock.now() < self._due:
            return None
        self.current = self._registrar.door_credentials()
        self._due = self._half_life(self.current)
        return self.current

    def _half_life(self, credentials: Credentials) -> datetime:
        certificate, now = x509.load_pem_x509_certificate(credentials.certificate), self._clock.now()
        return now + (certificate.not_valid_after_utc - now) / 2


@dataclass(frozen=True)
class Addresses:
    """Where the door listens, ``host:port``; None does not."""

    enrolment: str | None
    renewals: str | None


@contextmanager
def open_door(registrar: Registrar, listen: Addresses, clock: Clock, observe: Observer) -> Iterator[Addresses]:
    """Serve until the block is left.

    Args:
        listen: port 0 takes a free one.

    Yields:
        The addresses that it is bound to.

    Raises:
        ConfigError: the authority's key cannot be used.
        PortInUse: a port is taken, or the address is not this machine's.
    """
    # One for each port: each asks for news of its own.
    enrolment, renewals = DoorCertificate(registrar, clock), DoorCertificate(registrar, clock)
    servicer = DoorServicer(registrar, registrar.state().federation, observe)
    with ThreadPoolExecutor(THREADS, "door") as threads:
        server = grpc.server(threads, options=DOOR_OPTIONS, maximum_concurrent_rpcs=CONCURRENT_CALLS)
        add_RegistrarServicer_to_server(servicer, server)
        bound = Addresses(
            _bind(server, listen.enrolment, _without_client_certificates(enrolment)),
            _bind(server, listen.renewals, server_credentials(renewals.current, renewals.renewed)),
        )
        server.start()
        try:
            yield bound
        finally:
            server.stop(GRACE_SECONDS).wait()


def _checked(request: bytes) -> EnrolmentRequest:
    """Tell a request that is none from what is wrong with the registrar.

    Raises:
        DataError: it is none.
        IdentityRefused: see read_request.
    """
    try:
        return read_request(request)
    except ConfigError as error:
        raise DataError(error.message, cure=error.cure) from error


def _abort(context: grpc.ServicerContext, error: FedMentorError) -> NoReturn:
    context.set_trailing_metadata(trailing_metadata(error))
    context.abort(status_of(error), error.message)


def _bind(server: grpc.Server, listen: str | None, tls: grpc.ServerCredentials) -> str | None:
    if listen is None:
        return None
    try:
        port = server.add_secure_port(listen, tls)
    except RuntimeError as error:
        raise PortInUse(
            f"{listen} is in use, or not an address of this machine", cure="give another port; 0 takes a free one"
        ) from error
    return f"{listen.rpartition(':')[0]}:{port}"


def _without_client_certificates(certificate: DoorCertificate) -> grpc.ServerCredentials:
    def fetch() -> Any:
        fresh = certificate.renewed()
        return None if fresh is None else server_configuration(fresh)

    return grpc.dynamic_ssl_server_credentials(server_configuration(certificate.current), fetch)

"""A member's calls to a registrar that is online. What comes back is a reply file, and is checked like one that was carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc

from fedmentor.errors import CoordinatorUnreachable, IdentityRefused, PeerUnreachable
from fedmentor.identity.credentials import peer_of_certificate
from fedmentor.identity.invite import Invite
from fedmentor.identity.names import registrar_host
from fedmentor.wire.channel import Credentials, client_channel, secure_channel
from fedmentor.wire.status import SET_CLOCK, date_fault, error_from_call, is_ours, words_of
from fedmentor.wire.v1 import registrar_pb2 as pb
from fedmentor.wire.v1.registrar_pb2_grpc import RegistrarStub

CALL_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Trust:
    """By what a registrar is known: its federation, and the PEM of that federation's authorities.

    ``own`` is the caller's certificate, for the door that wants one.
    """

    federation: str
    authorities: bytes
    own: Credentials | None = None

    def channel(self, address: str, proxy: str | None) -> grpc.Channel:
        """A channel to the registrar at ``address``, and to nobody else there."""
        server = registrar_host(self.federation)
        if self.own is not None:
            return client_channel(address, self.own, server, proxy)
        return secure_channel(address, grpc.ssl_channel_credentials(self.authorities), server, proxy)


def enrol_online(invite: Invite, request: bytes, proxy: str | None = None) -> bytes:
    """Send a request to the registrar that the invite names; TLS is pinned to the authority in the invite.

    Args:
        proxy: see fedmentor.wire.channel.client_channel.

    Returns:
        The reply's bytes, for fedmentor.identity.enrolment.install.

    Raises:
        PeerUnreachable: it does not answer, or is not the registrar of that authority.
        FedMentorError: it refused.
    """
    if invite.registrar is None:
        raise IdentityRefused("the invite names no address of the registrar", cure="carry the request file there")
    return request_online(invite.registrar, Trust(invite.federation, invite.authorities.encode()), request, proxy)


def request_online(address: str, trust: Trust, request: bytes, proxy: str | None = None) -> bytes:
    """Send a request; it proves by itself why it should be admitted: with an invite, or with keys that are a member's already.

    Args:
        address: of the door for enrolments.
        proxy: see fedmentor.wire.channel.client_channel.

    Raises:
        PeerUnreachable: the registrar does not answer, or is not that of this authority.
        FedMentorError: it refused.
    """
    with trust.channel(address, proxy) as channel:
        return _reply(address, lambda: RegistrarStub(channel).Enrol(pb.EnrolRequest(request=request), timeout=CALL_SECONDS))


def documents_online(address: str, trust: Trust, request: bytes, have: str, proxy: str | None = None) -> bytes:
    """Ask for newer documents than the ones that hash to ``have``; empty where there are none.

    Raises:
        PeerUnreachable: the registrar does not answer, or is not that of this authority.
        FedMentorError: it refused.
    """
    message = pb.DocumentsRequest(request=request, have=have)
    with trust.channel(address, proxy) as channel:
        return _reply(address, lambda: RegistrarStub(channel).Documents(message, timeout=CALL_SECONDS))


def renew_online(address: str, credentials: Credentials, proxy: str | None = None) -> bytes:
    """Ask for a new certificate for the key that is in use, at the door for renewals.

    Raises:
        PeerUnreachable: the registrar does not answer, or is not that of this authority.
        FedMentorError: it refused.
    """
    server = registrar_host(peer_of_certificate(credentials.certificate).federation)
    with client_channel(address, credentials, server, proxy) as channel:
        return _reply(address, lambda: RegistrarStub(channel).Renew(pb.RenewRequest(), timeout=CALL_SECONDS))


def _reply(address: str, call: Callable[[], pb.RegistrarReply]) -> bytes:
    """Refusals arrive as what they are; everything else is a line that does not work."""
    try:
        return call().reply
    except grpc.RpcError as error:
        mapped = error_from_call(error)
        if is_ours(error) and not isinstance(mapped, CoordinatorUnreachable):
            raise mapped from error
        if dates := date_fault(words_of(error)):
            raise PeerUnreachable(f"the registrar at {address} shows {dates}", cure=SET_CLOCK) from error
        raise PeerUnreachable(
            f"the registrar at {address} does not answer: {words_of(error)}",
            cure="check the address and the network, or carry the files",
        ) from error

"""Channels and server options: mutual TLS, message caps, keepalive. No plaintext switch exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from fedmentor.federation import MESSAGE_LIMIT_BYTES

_LIMITS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
    ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
)

CLIENT_OPTIONS: tuple[tuple[str, int], ...] = (
    *_LIMITS,
    # Proxies from the environment are ignored: a node connects to the configured address and nowhere else.
    ("grpc.enable_http_proxy", 0),
    # A hospital's firewall drops idle connections silently; a ping a minute notices within 20 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *_LIMITS,
    ("grpc.max_concurrent_streams", 16),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Twice the clients' ping rate; the default of 5 minutes would close every quiet stream with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
    # A connection without a call costs a file descriptor; a site's own has its stream of directives on it all the time.
    ("grpc.max_connection_idle_ms", 300_000),
    # Two coordinators on one port would share the sites between them.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True)
class Credentials:
    """PEM bytes of one end of a mutual TLS connection. The key is never printed."""

    ca_certificate: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def client_channel(address: str, credentials: Credentials, server: str, proxy: str | None = None) -> grpc.Channel:
    """A channel to the coordinator at ``host:port``; connects on first use.

    Args:
        address: where it listens.
        credentials: of the site.
        server: the DNS name that the server's certificate must carry, whatever the host of ``address``: another server with a
            certificate of the same authority is not the coordinator. See fedmentor.identity.names.coordinator_host.
        proxy: ``host:port`` of an HTTP proxy that is asked to CONNECT to ``address`` (RFC 9110, section 9.3.6). It resolves the
            coordinator's name and sees ciphertext only.
    """
    tls = grpc.ssl_channel_credentials(credentials.ca_certificate, credentials.key, credentials.certificate)
    return secure_channel(address, tls, server, proxy)


def secure_channel(address: str, tls: grpc.ChannelCredentials, server: str, proxy: str | None = None) -> grpc.Channel:
    """See client_channel, which has a certificate; whoever enrols has none yet."""
    options: list[tuple[str, str | int]] = [*CLIENT_OPTIONS, ("grpc.ssl_target_name_override", server)]
    if proxy is not None:
        # Not "grpc.http_proxy": no_proxy in the environment would overrule that one and dial the coordinator directly.
        options.append(("grpc.http_connect_server", address))
    return grpc.secure_channel(proxy or address, tls, options=options)


def server_credentials(credentials: Credentials, renewed: Callable[[], Credentials | None]) -> grpc.ServerCredentials:
    """Server side of mutual TLS: a client certificate of the same CA is required at the handshake.

    Args:
        credentials: to begin with.
        renewed: asked at every handshake, on a thread of gRPC: what to use from now on, or None to go on with what is in force.
            Connections that are open stay as they are.
    """

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        fresh = renewed()
        return None if fresh is None else server_configuration(fresh)

    begin = server_configuration(credentials)
    return grpc.dynamic_ssl_server_credentials(begin, fetch, require_client_authentication=True)  # type: ignore[arg-type] # None is documented


def server_configuration(credentials: Credentials) -> grpc.ServerCertificateConfiguration:
    """Credentials as gRPC takes them for a server."""
    return grpc.ssl_server_certificate_configuration([(credentials.key, credentials.certificate)], credentials.ca_certificate)

"""Going the way to the coordinator once: resolve, dial, ask the proxy, shake hands. Sends nothing beyond that.

The handshake is that of Python's ssl module with the site's own certificate, as gRPC would do it; no call is made here, so the
coordinator does nothing for it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from fed_node.doctor.identity import lifetime_of
from fed_node.doctor.network import Answer, Way
from fedmentor.identity.layout import CA_FILE, CERTIFICATE_FILE, KEY_FILE, SITES_FOLDER
from fedmentor.ids import SiteId
from fedmentor.text import one_line

TIMEOUT_SECONDS = 10.0
MAX_REPLY_BYTES = 65536


@dataclass(frozen=True)
class Journey:
    """Where to, and as whom.

    Attributes:
        coordinator: ``host:port``.
        proxy: ``host:port`` of an HTTP proxy, or None.
        certificates: the site's folder.
        site: this site.
        server: the DNS name that the coordinator's certificate must carry.
    """

    coordinator: str
    proxy: str | None
    certificates: Path
    site: SiteId
    server: str


class _StageFailed(Exception):
    """A stage of the way, and what was said."""

    def __init__(self, stage: str, said: str) -> None:
        super().__init__(stage)
        self.stage, self.said = stage, one_line(said)


def go(journey: Journey) -> Way:
    """Go as far as the way leads."""
    way = Way(journey.proxy or journey.coordinator)
    try:
        way = replace(way, addresses=_resolve(way.target))
        connection, date = _dial(journey)
        connection.close()
        way = replace(way, date=date)
        answer = _answer(lambda: _dial(journey)[0], journey)
        return replace(way, answer=answer)
    except _StageFailed as failed:
        return replace(way, problem=(failed.stage, failed.said))


def fault_on_the_way(address: str, proxy: str | None) -> str:
    """Why no connection to ``host:port`` comes about; empty where one does."""
    try:
        connection, _ = _dial(Journey(address, proxy, Path(), SiteId(""), ""))
    except _StageFailed as failed:
        return failed.said
    connection.close()
    return ""


def _resolve(target: str) -> tuple[str, ...]:
    host, _, port = target.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _StageFailed("dns", str(getattr(error, "strerror", None) or error)) from error
    return tuple(sorted({str(entry[4][0]) for entry in found}))


def _dial(journey: Journey) -> tuple[socket.socket, datetime | None]:
    """A connection to the coordinator, and the proxy's clock if it told."""
    host, _, port = (journey.proxy or journey.coordinator).rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), TIMEOUT_SECONDS)
    except OSError as error:
        raise _StageFailed("port", error.strerror or "no answer in time") from error
    if journey.proxy is None:
        return connection, None
    try:
        return connection, _connect(connection, journey.coordinator)
    except OSError as error:
        connection.close()
        raise _StageFailed("proxy", error.strerror or "no answer in time") from error
    except _StageFailed:
        connection.close()
        raise


def _connect(connection: socket.socket, target: str) -> datetime | None:
    """Ask a proxy to connect (RFC 9110, section 9.3.6); gives the Date of its reply."""
    connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
    reply = b""
    while b"\r\n\r\n" not in reply:
        more = connection.recv(1)  # not a byte more: what follows belongs to TLS
        if not more or len(reply) > MAX_REPLY_BYTES:
            raise _StageFailed("proxy", "its reply is not HTTP")
        reply += more
    status, *lines = reply.decode("latin-1").split("\r\n")
    if status.split(" ")[1:2] != ["200"]:
        raise _StageFailed("proxy", f"it says {status}")
    dates = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("date:")]
    with suppress(ValueError, TypeError):
        date = parsedate_to_datetime(dates[0]) if dates else None
        return date if date is not None and date.tzinfo is not None else None
    return None


def _answer(dial: Callable[[], socket.socket], journey: Journey) -> Answer:
    """Shake hands as the node would; where that fails, once more without checking, to see who is there."""
    try:
        return _handshake(dial(), journey, check=True)
    except ssl.SSLCertVerificationError as error:
        seen = _unchecked(dial, journey)
        return replace(seen, refusal=one_line(error.verify_message or str(error)))
    except (ssl.SSLError, OSError) as error:
        raise _StageFailed("tls", getattr(error, "reason", None) or error.strerror or type(error).__name__) from error


def _unchecked(dial: Callable[[], socket.socket], journey: Journey) -> Answer:
    try:
        return _handshake(dial(), journey, check=False)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _StageFailed("tls", type(error).__name__) from error


def _handshake(connection: socket.socket, journey: Journey, *, check: bool) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(journey.certificates / CA_FILE)
    if check:
        own = journey.certificates / SITES_FOLDER / journey.site
        context.load_cert_chain(own / CERTIFICATE_FILE, own / KEY_FILE)
    else:  # only to look at who answers; no secret and no certificate of ours is shown
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with closing(connection), context.wrap_socket(connection, server_hostname=journey.server) as secured:
        der = secured.getpeercert(binary_form=True)
        if der is None:
            raise _StageFailed("tls", "it shows no certificate")
        return replace(_seen(der), accepted=_is_accepted(secured) if check else None)


def _is_accepted(secured: ssl.SSLSocket) -> bool | None:
    """Whether the server goes on after it has seen our certificate: HTTP/2 servers speak first, one that refuses sends an alert."""
    try:
        return bool(secured.recv(1))
    except TimeoutError:
        return None
    except OSError:  # an alert, or the connection is cut
        return False


def _seen(der: bytes) -> Answer:
    certificate = x509.load_der_x509_certificate(der)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    return Answer(
        uris=tuple(one_line(name) for name in names.get_values_for_type(x509.UniformResourceIdentifier)),
        hosts=tuple(one_line(name) for name in names.get_values_for_type(x509.DNSName)),
        issuer=one_line(certificate.issuer.rfc4514_string()),
        life=lifetime_of(certificate),
    )

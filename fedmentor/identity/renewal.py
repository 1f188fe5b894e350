"""Certificates that renew themselves, and documents that stay the newest, where the registrar is online.

All of it only writes files into the certificates folder. Programs take up what comes as they do where a person brings it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from fedmentor.clock import Clock
from fedmentor.errors import FedMentorError
from fedmentor.identity.credentials import issued_by, load_certificate, read_credentials
from fedmentor.identity.door_client import Trust, documents_online, renew_online, request_online
from fedmentor.identity.enrolment import CertificateOutlived, Installed, Place, install, request_for_keys_in_use
from fedmentor.identity.layout import CA_FILE, CERTIFICATE_FILE
from fedmentor.identity.reply import documents_digest
from fedmentor.identity.request import hosts_of
from fedmentor.identity.signed import authorities_of
from fedmentor.wire.channel import Credentials

RENEW_BELOW = 1 / 2
"""Part of its life that a certificate has left when the next one is asked for; days remain for a registrar that is away."""

RETRY_SECONDS = 600.0
"""Between two requests for a certificate where one failed."""

COORDINATOR_SECONDS = 3.0
"""Between two looks of a coordinator; with its own look at the folder, a revocation takes effect within 10 s."""

SITE_SECONDS = 60.0
"""Between two looks of a site, which needs the roster when a run begins, and its certificate in time."""


@dataclass(frozen=True)
class Door:
    """Where the registrar is: ``host:port``, and the ``host:port`` of a proxy on the way, if there is one.

    A site goes to the door for renewals, with mutual TLS. A coordinator's certificate is no client's: it goes to the door for
    enrolments, and a request signed with the keys that it has proves who it is.
    """

    address: str
    proxy: str | None = None


@dataclass(frozen=True)
class Upkept:
    """What one look brought.

    Attributes:
        renewed: a certificate that was installed.
        failure: what went wrong, told once until it is something else or over; empty otherwise.
    """

    renewed: Installed | None = None
    failure: str = ""


def renew(place: Place, door: Door, clock: Clock) -> Installed:
    """Ask the registrar for a new certificate and install it.

    Raises:
        ConfigError, IdentityRefused: the certificate in use cannot be used, or the reply is not for this member.
        PeerUnreachable: the registrar does not answer.
        FedMentorError: it refused.
        OSError: the folder cannot be written.
    """
    credentials = read_credentials(place.certificates / CA_FILE, place.folder, clock.now())
    if place.peer.site is not None:
        return install(place, renew_online(door.address, credentials, door.proxy), clock.now())
    request = _request(place, credentials)
    return install(place, request_online(door.address, _trust(place, credentials), request, door.proxy), clock.now())


def update(place: Place, door: Door, clock: Clock) -> Installed | None:
    """Fetch and install newer documents (authority, roster, deny-list) than those in the folder, if there are any.

    Where the certificate in use is not of an authority in the newest bundle, a new certificate comes along.

    Raises:
        ConfigError, IdentityRefused: the certificate in use cannot be used, or the documents cannot.
        PeerUnreachable: the registrar does not answer.
        FedMentorError: it refused.
        OSError: the folder cannot be written.
    """
    credentials = read_credentials(place.certificates / CA_FILE, place.folder, clock.now())
    own = credentials if place.peer.site is not None else None
    trust = Trust(place.peer.federation, credentials.ca_certificate, own)
    request, have = _request(place, credentials), documents_digest(place.certificates)
    reply = documents_online(door.address, trust, request, have, door.proxy)
    if not reply:
        return None
    try:
        return install(place, reply, clock.now())
    except CertificateOutlived:
        return renew(place, door, clock)


class Upkeep:
    """Keeps one end's folder current. Call ``now`` again and again, from one thread at a time.

    Args:
        place: whose.
        door: see Door.
        clock: for dates and for the pause between tries.
    """

    def __init__(self, place: Place, door: Door, clock: Clock) -> None:
        self._place = place
        self._door = door
        self._clock = clock
        self._not_before_s = clock.monotonic_s()
        self._told = ""

    def now(self) -> Upkept:
        """Update, and renew if it is time to. What goes wrong is returned: what lies in the folder may well be good for days."""
        renewed, failure = None, ""
        try:
            renewed = self._renew_in_time()
            renewed = update(self._place, self._door, self._clock) or renewed
        except FedMentorError as error:
            failure = error.message
        except OSError as error:
            failure = f"what the registrar sent cannot be written to {self._place.certificates}: {error.strerror}"
        fresh, self._told = failure if failure != self._told else "", failure
        return Upkept(renewed if renewed is not None and renewed.expires is not None else None, fresh)

    def _renew_in_time(self) -> Installed | None:
        if self._clock.monotonic_s() < self._not_before_s:
            return None
        credentials = read_credentials(self._place.certificates / CA_FILE, self._place.folder, self._clock.now())
        signer = authorities_of(credentials.ca_certificate, CA_FILE)[0]
        if not is_due(load_certificate(credentials.certificate, CERTIFICATE_FILE), signer, self._clock):
            return None
        self._not_before_s = self._clock.monotonic_s() + RETRY_SECONDS
        return renew(self._place, self._door, self._clock)


def is_due(certificate: x509.Certificate, signer: x509.Certificate, clock: Clock) -> bool:
    """Whether less than RENEW_BELOW of a certificate's life is left, or another authority than its own signs by now."""
    if not issued_by(certificate, signer):
        return True
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - clock.now() < life * RENEW_BELOW


def _request(place: Place, credentials: Credentials) -> bytes:
    """A request for the keys in use, with the hosts of the certificate in use."""
    certificate = load_certificate(credentials.certificate, CERTIFICATE_FILE)
    return request_for_keys_in_use(place, hosts_of(certificate, place.peer.federation))


def _trust(place: Place, credentials: Credentials) -> Trust:
    return Trust(place.peer.federation, credentials.ca_certificate)

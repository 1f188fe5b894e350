"""Certificates that renew themselves: a member whose registrar is online asks for the next one while the last one is still good."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from fedmentor.clock import Clock
from fedmentor.errors import ConfigError, FedMentorError
from fedmentor.identity.credentials import load_certificate, read_credentials
from fedmentor.identity.door_client import Trust, renew_online, request_online
from fedmentor.identity.enrolment import Installed, Place, install, request_for_keys_in_use
from fedmentor.identity.files import read_bounded
from fedmentor.identity.layout import CA_FILE, CERTIFICATE_FILE
from fedmentor.identity.request import hosts_of
from fedmentor.identity.signed import MAX_CA_BYTES

RENEW_BELOW = 1 / 2
"""Part of its life that a certificate has left when the next one is asked for; days remain for a registrar that is away."""

RETRY_SECONDS = 600.0
"""Between two tries where one failed."""

LOOK_SECONDS = 60.0
"""Between two looks at whether it is time."""


@dataclass(frozen=True)
class Door:
    """Where the registrar is: ``host:port``, and the ``host:port`` of a proxy on the way, if there is one."""

    address: str
    proxy: str | None = None


def renew(place: Place, door: Door, clock: Clock) -> Installed:
    """Ask the registrar for a new certificate and install it.

    A site proves itself by mutual TLS, at the door for renewals. A coordinator's certificate is no client's, so it sends a request
    for the keys that it has, at the door for enrolments.

    Raises:
        ConfigError, IdentityRefused: the certificate in use cannot be used, or the reply is not for this member.
        PeerUnreachable: the registrar does not answer.
        FedMentorError: it refused.
    """
    credentials = read_credentials(place.certificates / CA_FILE, place.folder, clock.now())
    if place.peer.site is not None:
        return install(place, renew_online(door.address, credentials, door.proxy), clock.now())
    certificate, federation = load_certificate(credentials.certificate, CERTIFICATE_FILE), place.peer.federation
    request = request_for_keys_in_use(place, hosts_of(certificate, federation))
    reply = request_online(door.address, Trust(federation, credentials.ca_certificate), request, door.proxy)
    return install(place, reply, clock.now())


class Renewals:
    """Renews one end's certificate when it is due. Call ``now`` as often as is convenient, from one thread at a time.

    Args:
        place: whose.
        door: see ``renew``.
        clock: for dates and for the pause between tries.
    """

    def __init__(self, place: Place, door: Door, clock: Clock) -> None:
        self._place = place
        self._door = door
        self._clock = clock
        self._not_before_s = clock.monotonic_s()

    def now(self) -> Installed | FedMentorError | None:
        """Renew if it is time to. What goes wrong is returned, not raised: the certificate in use may well be good for days.

        Returns:
            What was installed; why that did not work, at most once in RETRY_SECONDS; None where there was nothing to do.
        """
        if self._clock.monotonic_s() < self._not_before_s:
            return None
        try:
            if not self._due():
                return None
            return renew(self._place, self._door, self._clock)
        except (FedMentorError, OSError) as error:
            self._not_before_s = self._clock.monotonic_s() + RETRY_SECONDS
            if isinstance(error, FedMentorError):
                return error
            return ConfigError(f"the renewed certificate cannot be written to {self._place.certificates}: {error.strerror}")

    def _due(self) -> bool:
        file = self._place.folder / CERTIFICATE_FILE
        certificate = load_certificate(read_bounded(file, MAX_CA_BYTES, "enrol first"), str(file))
        return is_due(certificate, self._clock)


def is_due(certificate: x509.Certificate, clock: Clock) -> bool:
    """Whether less than RENEW_BELOW of a certificate's life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - clock.now() < life * RENEW_BELOW

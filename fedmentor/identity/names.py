"""Who a certificate speaks for: one URI SAN, ``spiffe://FEDERATION/coordinator`` or ``spiffe://FEDERATION/site/ID``.

The form is that of a SPIFFE ID (trust domain, then path); common names are never read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.ids import SiteId, site_id

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_FEDERATION = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_URI = re.compile(r"spiffe://(?P<federation>[^/]+)/(?:(?P<coordinator>coordinator)|site/(?P<site>[^/]+))")

MAX_FEDERATION_CHARACTERS = 200
"""A SPIFFE trust domain holds at most 255; a margin is left for the path."""


@dataclass(frozen=True)
class Peer:
    """The one identity of a certificate; ``site`` is None for the coordinator."""

    federation: str
    site: SiteId | None

    @property
    def uri(self) -> str:
        """The URI SAN of this peer's certificates."""
        return coordinator_uri(self.federation) if self.site is None else site_uri(self.federation, self.site)

    @property
    def label(self) -> str:
        """For people: ``the coordinator`` or ``site ID``."""
        return "the coordinator" if self.site is None else f"site {self.site}"


def federation_name(text: str) -> str:
    """Check a federation's name: dot-separated labels of lower-case letters, digits and hyphens, 200 characters at most.

    Raises:
        ConfigError: not of that form.
    """
    if len(text) > MAX_FEDERATION_CHARACTERS or not _FEDERATION.fullmatch(text):
        raise ConfigError(f"{text[:80]!r} is not a federation name", cure="use lower-case letters, digits, hyphens and dots")
    return text


def coordinator_uri(federation: str) -> str:
    """The URI SAN of a federation's coordinator."""
    return f"spiffe://{federation_name(federation)}/coordinator"


def coordinator_host(federation: str) -> str:
    """The DNS SAN by which every site knows the coordinator, wherever it listens: TLS libraries match DNS names and no URIs."""
    return f"coordinator.{federation_name(federation)}"


def registrar_host(federation: str) -> str:
    """The DNS SAN of a registrar that serves enrolment and renewal; nobody else gets a certificate for it."""
    return f"registrar.{federation_name(federation)}"


def registrar_uri(federation: str) -> str:
    """The URI SAN of a registrar's server. It is no peer of a run: parse_uri refuses it."""
    return f"spiffe://{federation_name(federation)}/registrar"


def site_uri(federation: str, site: SiteId) -> str:
    """The URI SAN of a site."""
    return f"spiffe://{federation_name(federation)}/site/{site_id(site)}"


def parse_uri(uri: str) -> Peer:
    """The peer that a URI SAN names.

    Raises:
        IdentityRefused: not one of the two forms, letter for letter.
    """
    match = _URI.fullmatch(uri)
    if not match:
        raise IdentityRefused("the certificate's URI SAN is not of this federation's form")
    try:
        federation = federation_name(match["federation"])
        return Peer(federation, None if match["coordinator"] else site_id(match["site"]))
    except ConfigError as error:
        raise IdentityRefused("the certificate's URI SAN is not of this federation's form") from error


def peer_of(names: Iterable[str]) -> Peer:
    """The peer behind the URI SANs of a certificate.

    Args:
        names: every SAN of type URI. Those of other types carry no identity, however they are spelt: keep them out.

    Raises:
        IdentityRefused: not exactly one URI SAN, or one of another form.
    """
    uris = list(names)
    if len(uris) != 1:
        raise IdentityRefused(
            f"the certificate has {len(uris)} URI SANs, expected 1", cure="ask the registrar for a certificate of this federation"
        )
    return parse_uri(uris[0])

"""What the coordinator's events say about each site, for the dashboard: seen when, and what it said last. In memory only."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from coordinator.events import (
    Event,
    SatOut,
    ScoresReported,
    SiteCertificateShown,
    SiteConnected,
    SiteLeft,
    UpdateAccepted,
    UpdateRefused,
)
from fedmentor.clock import Clock
from fedmentor.federation import RoundRef
from fedmentor.ids import SiteId


@dataclass(frozen=True)
class Sighting:
    """One site, as far as this process has seen it.

    Attributes:
        connected: whether its stream is open.
        last_seen_s: seconds since it was last heard of, 0 while it is connected; None where it never was.
        sat_out: the attempt that it sat out last.
        sat_out_reason: why, in the site's own words.
        refused_reason: what it was told when something of it was refused last.
        certificate_until: the end of the certificate that it showed last; None where it showed none.
    """

    connected: bool = False
    last_seen_s: float | None = None
    sat_out: RoundRef | None = None
    sat_out_reason: str = ""
    refused_reason: str = ""
    certificate_until: datetime | None = None


UNSEEN: Final = Sighting()


class Sightings:
    """Keeps the last of everything for each site; safe to share between threads, and cheap enough for an event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._connected: set[SiteId] = set()
        self._seen_s: dict[SiteId, float] = {}
        self._sat_out: dict[SiteId, tuple[RoundRef, str]] = {}
        self._refused: dict[SiteId, str] = {}
        self._expiries: dict[SiteId, datetime] = {}

    def observe(self, event: Event) -> None:
        """Take note of one event; most are none about a site."""
        match event:
            case SiteConnected(site) | SiteLeft(site) | UpdateAccepted(site) | ScoresReported(site):
                self._note(site, event)
            case SatOut(site) | UpdateRefused(site) | SiteCertificateShown(site):
                self._note(site, event)
            case _:
                pass

    def of(self, roster: Iterable[SiteId]) -> Mapping[SiteId, Sighting]:
        """What is known of each of these sites now."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            return {site: self._sighting(site, now_s) for site in roster}

    def _note(self, site: SiteId, event: Event) -> None:
        with self._lock:
            self._seen_s[site] = self._clock.monotonic_s()
            match event:
                case SiteConnected():
                    self._connected.add(site)
                case SiteLeft():
                    self._connected.discard(site)
                case SatOut(_, ref, reason):
                    self._sat_out[site] = (ref, reason)
                case UpdateRefused(_, _, _, reason):
                    self._refused[site] = reason
                case SiteCertificateShown(_, expires):
                    self._expiries[site] = expires
                case _:
                    pass

    def _sighting(self, site: SiteId, now_s: float) -> Sighting:
        seen_s, connected = self._seen_s.get(site), site in self._connected
        ref, reason = self._sat_out.get(site, (None, ""))
        return Sighting(
            connected=connected,
            last_seen_s=None if seen_s is None else 0.0 if connected else now_s - seen_s,
            sat_out=ref,
            sat_out_reason=reason,
            refused_reason=self._refused.get(site, ""),
            certificate_until=self._expiries.get(site),
        )

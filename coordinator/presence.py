"""Which sites are connected, and for how long the others have not been. In memory: after a restart all sites count as just gone."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from fedmentor.clock import Clock
from fedmentor.federation import RoundRef
from fedmentor.ids import SiteId


class Presence:
    """Sites of one roster; safe to share between threads."""

    def __init__(self, roster: Iterable[SiteId], clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        now_s = clock.monotonic_s()
        # Monotonic time at which each absent site was last seen.
        self._gone_since_s = dict.fromkeys(roster, now_s)
        self._told: set[SiteId] = set()
        # The attempt in which a site's update was refused last.
        self._refused: dict[SiteId, RoundRef] = {}

    def arrive(self, site: SiteId) -> None:
        """The site's stream is open."""
        with self._lock:
            self._gone_since_s.pop(site, None)

    def leave(self, site: SiteId) -> None:
        """The site's last stream ended."""
        with self._lock:
            self._gone_since_s.setdefault(site, self._clock.monotonic_s())

    def tell(self, site: SiteId) -> None:
        """The site was told how the run ended."""
        with self._lock:
            self._told.add(site)

    def refuse(self, site: SiteId, ref: RoundRef) -> None:
        """The site's update was refused in this attempt: a site has one update an attempt, so no other is to be waited for."""
        with self._lock:
            self._refused[site] = ref

    def refused(self, ref: RoundRef) -> frozenset[SiteId]:
        """Sites whose update was refused in this attempt."""
        with self._lock:
            return frozenset(site for site, refused in self._refused.items() if refused == ref)

    @property
    def told(self) -> frozenset[SiteId]:
        """Sites that know how the run ended."""
        with self._lock:
            return frozenset(self._told)

    def absence_s(self) -> dict[SiteId, float]:
        """Seconds since each absent site was last connected."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            return {site: now_s - since_s for site, since_s in self._gone_since_s.items()}

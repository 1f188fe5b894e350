"""The sites' streams of directives, without a transport; thread-safe. One stream a site: the newest one counts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from coordinator.directives import Asked, directive_for, same_order
from coordinator.events import Observer, SiteConnected, SiteLeft
from coordinator.presence import Presence
from coordinator.progress import Progress
from fedmentor.errors import CoordinatorUnreachable, FedMentorError, PolicyRefusal
from fedmentor.federation import Directive, Finished, Manifest
from fedmentor.ids import SiteId

MAX_SOFTWARE_CHARACTERS = 100
"""Of a site's own words about itself, this much goes into the log."""


class Subscription:
    """One site's stream; made by Streams.subscribe. ``wake`` is called, from any thread, when ``poll`` may have something new."""

    def __init__(self, streams: Streams, site: SiteId, wake: Callable[[], None]) -> None:
        self.site = site
        self.wake = wake
        self._streams = streams
        self._last: Directive | None = None
        self._end: FedMentorError | None = None

    def poll(self) -> list[Directive]:
        """What is new since the last call: the manifest and the directive in force at first, later at most one directive.

        Raises:
            CoordinatorUnreachable: this stream is over; open another one.
            PolicyRefusal: the site has opened a newer stream.
        """
        if self._end:
            raise self._end
        directive = self._streams.directive(self.site)
        if same_order(self._last, directive):
            return []
        first = self._last is None
        self._last = directive
        if isinstance(directive, Finished):
            self._streams.told(self.site)
        return [self._streams.announcement, directive] if first else [directive]

    def end(self, error: FedMentorError) -> None:
        """Make the next poll fail; for Streams."""
        self._end = error
        self.wake()

    def close(self) -> None:
        """The transport is done with it; a second call does nothing."""
        self._streams.forget(self)


class Streams:
    """All open streams of one run.

    Args:
        announcement: the run's rules; first on every stream.
        progress: where the run stands.
        presence: is told who comes and goes.
        observe: is told the same, for the log.
        wake_driver: called when the driver should look again.
        asked: what a site is sent in a phase of secure aggregation; None in a run without.
    """

    def __init__(
        self,
        announcement: Manifest,
        progress: Progress,
        presence: Presence,
        observe: Observer,
        wake_driver: Callable[[], None],
        asked: Asked | None = None,
    ) -> None:
        self.announcement = announcement
        self._progress = progress
        self._presence = presence
        self._observe = observe
        self._wake_driver = wake_driver
        self._asked = asked
        self._lock = threading.Lock()
        self._open: dict[SiteId, Subscription] = {}
        self._closed = False

    def subscribe(self, site: SiteId, wake: Callable[[], None], software: str = "") -> Subscription:
        """Open the stream of a site on the roster; an older one of it ends with PolicyRefusal.

        A node that lost its line, or hung up, never sees that. Another node under the same identity does, and must not come back:
        the two would cut each other off for ever.

        Raises:
            CoordinatorUnreachable: the coordinator is stopping.
        """
        subscription = Subscription(self, site, wake)
        with self._lock:
            if self._closed:
                raise CoordinatorUnreachable("the coordinator is stopping")
            older = self._open.get(site)
            self._open[site] = subscription
            # Inside the lock, so that the end of the older stream cannot come in between.
            self._presence.arrive(site)
        if older:
            older.end(
                PolicyRefusal(
                    f"another node of site {site} has connected", cure="run one node a site, with a certificate of its own"
                )
            )
        self._observe(SiteConnected(site, superseded=older is not None, software=software[:MAX_SOFTWARE_CHARACTERS]))
        self._wake_driver()
        return subscription

    def directive(self, site: SiteId) -> Directive:
        """The directive that is in force for a site."""
        return directive_for(self.announcement.manifest, self._progress.now(), site, self._asked)

    def told(self, site: SiteId) -> None:
        """The site was given its Finished."""
        self._presence.tell(site)
        self._wake_driver()

    def forget(self, subscription: Subscription) -> None:
        """A transport let go of a stream."""
        site = subscription.site
        with self._lock:
            if self._open.get(site) is not subscription:
                return
            del self._open[site]
            self._presence.leave(site)
        self._observe(SiteLeft(site))
        self._wake_driver()

    def notify(self) -> None:
        """The run has moved: wake every stream."""
        with self._lock:
            subscriptions = list(self._open.values())
        for subscription in subscriptions:
            subscription.wake()

    def close(self) -> None:
        """End every stream and refuse new ones."""
        with self._lock:
            self._closed = True
            subscriptions = list(self._open.values())
        for subscription in subscriptions:
            subscription.end(CoordinatorUnreachable("the coordinator is stopping"))

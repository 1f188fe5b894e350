"""The deny-list over a long run: the registrar's newest one lies in the certificates folder, and only a newer one replaces it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from pathlib import Path

from coordinator.calls import OpenCalls
from coordinator.events import CallFailed, DenyListChanged, DenyListRefused, Observer
from fedmentor.clock import Clock
from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.revocation import REVOKED_FILE, RevocationList, read_revocations

POLL_SECONDS = 2.0
"""How often the folder is looked at; a revoked site is cut off within this and the moment that it takes to end its calls."""


class LiveRevocations:
    """The deny-list that lies in a folder now. One thread asks for news; ``current`` may be read by all.

    Args:
        folder: certificates folder.
        federation: whose list it must be.
        observe: is told of new lists and of those that cannot be used.

    Raises:
        ConfigError, IdentityRefused: there is a list, and it cannot be used; see read_revocations.
    """

    def __init__(self, folder: Path, federation: str, observe: Observer) -> None:
        self._folder = folder
        self._federation = federation
        self.observe = observe
        self._reported = ""
        self._current: RevocationList | None = None
        self._current = self._checked(read_revocations(folder))

    @property
    def current(self) -> RevocationList | None:
        """What is in force; None where nothing was ever revoked."""
        return self._current

    def renewed(self) -> RevocationList | None:
        """The list in the folder, where that is newer than the one in force; what is not good is reported once and not used."""
        try:
            found = self._checked(read_revocations(self._folder, None))
        except (ConfigError, IdentityRefused) as error:
            if self._reported != error.message:
                self.observe(DenyListRefused(error.message))
            self._reported = error.message
            return None
        self._reported = ""
        if found == self._current or found is None:
            return None
        self._current = found
        self.observe(DenyListChanged(found.version, len(found.serials), len(found.keys)))
        return found

    def _checked(self, found: RevocationList | None) -> RevocationList | None:
        """Refuse another federation's list, and what is not newer than the list in force.

        Raises:
            IdentityRefused: it is one of these.
        """
        known = self._current
        if found is None:
            if known is not None:
                raise IdentityRefused(f"{self._folder / REVOKED_FILE} is gone; version {known.version} stays in force")
            return None
        if found.federation != self._federation:
            raise IdentityRefused(f"{self._folder / REVOKED_FILE} is another federation's")
        if known is not None and found != known and found.version <= known.version:
            raise IdentityRefused(
                f"{self._folder / REVOKED_FILE} is not newer than version {known.version}, which stays in force",
                cure="copy the registrar's newest files here",
            )
        return found


async def watch(
    live: LiveRevocations,
    calls: OpenCalls,
    record: Callable[[RevocationList], None],
    clock: Clock,
    poll_s: float = POLL_SECONDS,
) -> None:
    """Keep the deny-list in force up to date, for ever; on the event loop.

    Args:
        live: the list; its files are read in a thread.
        calls: what is under way.
        record: notes a list that came into force, for the audit trail; called in a thread.
        clock: for certificates that expire while calls go on.
        poll_s: seconds between two looks.
    """
    while True:
        await asyncio.sleep(poll_s)
        try:
            fresh = await asyncio.to_thread(live.renewed)
            if fresh is not None:
                # First the effect, then the record: a slow disk keeps nobody in.
                calls.deny(fresh)
                await asyncio.to_thread(record, fresh)
            calls.sweep(clock.now())
        except Exception:  # noqa: BLE001 - whatever goes wrong once, the next look must happen
            live.observe(CallFailed("deny-list", None, traceback.format_exc()))

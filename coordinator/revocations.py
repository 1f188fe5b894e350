"""The deny-list over a long run: the registrar's newest one lies in the certificates folder, and only a newer one replaces it."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from pathlib import Path

from coordinator.calls import OpenCalls
from coordinator.events import CallFailed, DenyListChanged, DenyListRefused, Observer
from coordinator.store.journal import COORDINATOR, Transaction
from fedmentor.audit import Fields
from fedmentor.clock import Clock
from fedmentor.errors import ConfigError, IdentityRefused
from fedmentor.identity.revocation import REVOKED_FILE, RevocationList, read_revocations

RECORD = "deny_list"
"""Event of the audit record of each list that came into force."""

POLL_SECONDS = 2.0
"""How often the folder is looked at; a revoked site is cut off within this and the moment that it takes to end its calls."""


_COPY = "copy the registrar's newest files into it"


class LiveRevocations:
    """The deny-list that lies in a folder now. One thread asks for news; ``current`` may be read by all.

    Args:
        folder: certificates folder.
        federation: whose list it must be.
        observe: is told of new lists and of those that cannot be used.
        floor: version that was in force before a restart; see newest_recorded.

    Attributes:
        is_news: the list that was found at first was not in force before.

    Raises:
        ConfigError, IdentityRefused: there is a list, and it cannot be used, or it is older than ``floor``; see read_revocations.
    """

    def __init__(self, folder: Path, federation: str, observe: Observer, floor: int = 0) -> None:
        self._folder = folder
        self._federation = federation
        self.observe = observe
        self._reported = ""
        self._current: RevocationList | None = None
        self._current = self._checked(read_revocations(folder))
        found = 0 if self._current is None else self._current.version
        if found < floor:
            raise IdentityRefused(
                f"the deny-list in {folder} is version {found}, and version {floor} was in force before", cure=_COPY
            )
        self.is_news = found > floor

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
                cure=_COPY,
            )
        return found


async def watch(
    live: LiveRevocations,
    calls: OpenCalls,
    note: Callable[[RevocationList], None],
    clock: Clock,
    poll_s: float = POLL_SECONDS,
) -> None:
    """Keep the deny-list in force up to date, for ever; on the event loop.

    Args:
        live: the list; its files are read in a thread.
        calls: what is under way.
        note: told of a list that came into force, for the audit trail; called in a thread.
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
                await asyncio.to_thread(note, fresh)
            calls.sweep(clock.now())
        except Exception:  # noqa: BLE001 - whatever goes wrong once, the next look must happen
            live.observe(CallFailed("deny-list", None, traceback.format_exc()))


def newest_recorded(tx: Transaction) -> int:
    """Version of the deny-list that the audit trail noted last; 0 where it noted none."""
    noted = [json.loads(record.fields)["version"] for record in tx.audit_records() if record.event == RECORD]
    return int(noted[-1]) if noted else 0


def record(tx: Transaction, revoked: RevocationList) -> None:
    """Note in the audit trail that a list came into force."""
    fields: Fields = {"version": revoked.version, "serials": len(revoked.serials), "keys": len(revoked.keys)}
    tx.audit(COORDINATOR, RECORD, fields)

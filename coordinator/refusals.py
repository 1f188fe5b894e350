"""What sites were refused: for the log, for the phases that need not wait, and, a bounded number of times, for the audit chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from coordinator.conduct import SiteFlag
from coordinator.events import UpdateRefused
from coordinator.ports import ServicePorts
from coordinator.store.journal import Transaction, site_actor
from fedmentor.audit import Field, Fields
from fedmentor.errors import ConfigError, DataError, PolicyRefusal, RoundClosed
from fedmentor.federation import RoundRef
from fedmentor.ids import SiteId
from fedmentor.robust import Flag

AUDITED_REFUSALS = 8
"""Refusals of one site in one attempt that go into the audit chain; further ones only into the log: no site can fill the disk."""


class Refusals:
    """Records refusals of what sites send in a round.

    Args:
        ports: the world.
        event: name of the audit record.
        ends_part: whether a site that was refused is not waited for any more in that attempt.
    """

    def __init__(self, ports: ServicePorts, event: str, *, ends_part: bool = True) -> None:
        self._ports = ports
        self._event = event
        self._ends_part = ends_part
        # Keyed by the round and attempt that are in force: those that a message names are whatever its sender likes.
        self._counts: Counter[tuple[SiteId, int, int]] = Counter()

    @contextmanager
    def recorded(self, site: SiteId, ref: RoundRef, fields: Mapping[str, Field]) -> Iterator[None]:
        """Record a refusal that leaves the block, and let it go on.

        Args:
            fields: what the audit record says beside round, attempt, kind and reason.
        """
        try:
            yield
        except RoundClosed:
            raise  # a message that comes too late is no offence, and its round is any number that the site likes
        except (PolicyRefusal, ConfigError, DataError) as error:
            kind = type(error).__name__
            self._ports.observe(UpdateRefused(site, ref, kind, error.message))
            if self._ends_part:
                self._ports.presence.refuse(site, ref)
            state = self._ports.progress.now().state
            key = (site, state.round, state.attempt)
            self._counts[key] += 1
            if self._counts[key] <= AUDITED_REFUSALS:
                where: Fields = {"round": ref.round, "attempt": ref.attempt, **fields}
                said = {**where, "kind": kind, "reason": error.message}
                flag = SiteFlag(state.round, state.attempt, site, Flag.REFUSED)
                self._ports.journal.run_tx("record_refusal", lambda tx: self._keep(tx, flag, said))
            raise

    def _keep(self, tx: Transaction, flag: SiteFlag, said: Fields) -> None:
        tx.put_flag(flag)
        tx.audit(site_actor(flag.site), self._event, said)

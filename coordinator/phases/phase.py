"""What every phase is: a function from the world and the moment to a step. Phases keep nothing between two calls.

A phase that moves on does it in one named journal transaction, which also appends the audit record. Phases are called again after a
restart with the same state, so whatever they do before that transaction must be safe to do twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from coordinator.audit.notary import Notary
from coordinator.presence import Presence
from coordinator.progress import Moment, TrafficMeter
from coordinator.secure import SecureRounds
from coordinator.state import PhaseName, RunState
from coordinator.store.journal import COORDINATOR, Journal, Transaction
from coordinator.store.models import ModelStore
from coordinator.store.spool import Spool
from fedmentor.audit import Fields
from fedmentor.clock import Clock
from fedmentor.federation import RunManifest
from fedmentor.ids import SiteId
from fedmentor.privacy.noise import Entropy


@dataclass(frozen=True)
class PhaseLimits:
    """Time bounds that are the operator's, not the manifest's.

    Attributes:
        gather_s: how long to wait for a quorum of connected sites before the attempt fails.
        straggler_grace_s: a site that has been gone for this long is not waited for, once the quorum is met.
        linger_s: how long to keep telling sites that the run is over.
    """

    gather_s: float = 86_400.0
    straggler_grace_s: float = 30.0
    linger_s: float = 30.0


@dataclass(frozen=True)
class Context:
    """The world as phases see it."""

    manifest: RunManifest
    limits: PhaseLimits
    journal: Journal
    spool: Spool
    models: ModelStore
    presence: Presence
    meter: TrafficMeter
    clock: Clock
    secure: SecureRounds | None = None
    notary: Notary | None = None
    entropy: Entropy = os.urandom


@dataclass(frozen=True)
class Stay:
    """Nothing to do yet; look again after ``seconds`` or when something happens."""

    seconds: float


@dataclass(frozen=True)
class Moved:
    """A transition is in the journal."""


@dataclass(frozen=True)
class Over:
    """The run is over and everybody who can be told was told."""


Step = Stay | Moved | Over
Phase = Callable[[Context, Moment], Step]


def transition(
    context: Context,
    moment: Moment,
    name: str,
    to: RunState,
    *,
    fields: Fields | None = None,
    also: Callable[[Transaction], None] | None = None,
) -> Moved:
    """Go to another state in one transaction. Where that ends a round or the run, its audit trail gets a signed checkpoint.

    Args:
        name: of the transaction and of its audit record.
        to: the new state; its phase time starts at zero.
        fields: what the audit record says beside round and attempt.
        also: more to write in the same transaction.
    """
    traffic = context.meter.drain()

    def write(tx: Transaction) -> None:
        for counted in traffic:
            tx.add_traffic(counted)
        tx.put_state(replace(to, phase_elapsed_s=0.0))
        if also:
            also(tx)
        where: dict[str, Any] = {"round": moment.state.round, "attempt": moment.state.attempt}
        tx.audit(COORDINATOR, name, {**where, **(fields or {})})
        if context.notary is not None and (to.round != moment.state.round or to.phase is PhaseName.SHUTDOWN):
            context.notary.seal(tx, context.manifest.run, moment.state.round, context.clock.now())

    context.journal.run_tx(name, write)
    return Moved()


def to_phase(moment: Moment, phase: PhaseName, **changes: Any) -> RunState:
    """The state after a transition: this one, in another phase, with the round's time carried on."""
    return replace(moment.state, phase=phase, round_elapsed_s=moment.round_elapsed_s, **changes)


def fail(context: Context, moment: Moment, reason: str) -> Moved:
    """End the attempt; the failure phase decides what comes next."""
    to = to_phase(moment, PhaseName.FAILURE, pending=None, reason=reason)
    return transition(context, moment, "fail_attempt", to, fields={"reason": reason})


def waited_for(context: Context, missing: frozenset[SiteId]) -> float | None:
    """Seconds until none of the missing sites is waited for any more, 0 or less if there is none; None while one is connected."""
    absence_s = context.presence.absence_s()
    if not missing <= absence_s.keys():
        return None
    return max((context.limits.straggler_grace_s - absence_s[site] for site in missing), default=0.0)

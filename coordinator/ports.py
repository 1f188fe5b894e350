"""Everything through which the coordinator's service touches the world, in one value."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.audit.notary import Notary
from coordinator.events import Observer
from coordinator.presence import Presence
from coordinator.progress import Progress, TrafficMeter
from coordinator.store.journal import Journal
from coordinator.store.models import ModelStore
from coordinator.store.spool import Spool
from fedmentor.clock import Clock


@dataclass(frozen=True)
class ServicePorts:
    """Stores, time, and who is told.

    Attributes:
        journal: where what is accepted is recorded.
        spool: where updates lie.
        models: where global models lie.
        clock: for the times in records.
        progress: where the run stands.
        presence: which sites are there, and which have no part in the attempt in force.
        meter: counts payload bytes.
        observe: is told what happens.
        notary: signs checkpoints of the audit chain; None where this federation has no signing keys.
    """

    journal: Journal
    spool: Spool
    models: ModelStore
    clock: Clock
    progress: Progress
    presence: Presence
    meter: TrafficMeter
    observe: Observer
    notary: Notary | None = None

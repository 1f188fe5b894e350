"""Advertise: sites offer fresh keys for the attempt (U1). Bounds: the protocol's minimum to roster sites; ``step_seconds``."""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, Stay
from coordinator.phases.short_step import short_step
from coordinator.progress import Moment
from coordinator.state import PhaseName


def advertise(context: Context, moment: Moment) -> Stay | Moved:
    """See the module and fedmentor.secagg.aggregator."""
    return short_step(context, moment, PhaseName.SHARE)

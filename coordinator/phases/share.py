"""Share: sites deal shares of their secrets to each other (U2). Bounds: the protocol's minimum to U1; ``step_seconds``."""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, Stay
from coordinator.phases.short_step import short_step
from coordinator.progress import Moment
from coordinator.state import PhaseName


def share(context: Context, moment: Moment) -> Stay | Moved:
    """See the module and fedmentor.secagg.aggregator."""
    return short_step(context, moment, PhaseName.COLLECT)

"""Consent: survivors agree to the opening of one sum (U3). Bounds: more than two thirds of the roster to U3; ``step_seconds``."""

from __future__ import annotations

from coordinator.phases.phase import Context, Moved, Stay
from coordinator.phases.short_step import short_step
from coordinator.progress import Moment
from coordinator.state import PhaseName


def consent(context: Context, moment: Moment) -> Stay | Moved:
    """See the module and fedmentor.secagg.aggregator."""
    return short_step(context, moment, PhaseName.REVEAL)

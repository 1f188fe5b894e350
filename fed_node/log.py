"""A session's events as structured log lines on standard error."""

from __future__ import annotations

import sys

from fed_node.events import ClockDiffers, LinkLost, Observer, RenewalFailed, Skipped, Unwitnessed, WitnessOff
from fedmentor.log import event_logger


def event_log(site: str) -> Observer:
    """A function that logs events of one site, as ``event=skipped site=... round=...`` in logfmt."""
    return event_logger(sys.stderr, (Skipped, LinkLost, RenewalFailed, ClockDiffers, Unwitnessed, WitnessOff), site=site)

"""What systemd is told of a node: ready once it has joined a run, and a line of status for each event."""

from __future__ import annotations

from fed_node.events import (
    DataRead,
    Delivered,
    Joined,
    LinkLost,
    Observer,
    RunOver,
    Scored,
    SessionEvent,
    Skipped,
    Trained,
    Waiting,
)
from fedmentor.supervisor import Supervisor


def told(service: Supervisor) -> Observer:
    """An observer that tells the supervisor."""

    def observe(event: SessionEvent) -> None:
        service.status(status_of(event), ready=isinstance(event, Joined))

    return observe


def status_of(event: SessionEvent) -> str:
    """One line for ``systemctl status``; empty for events that say nothing new there."""
    match event:
        case DataRead(train_images=train, held_out_images=held_out):
            return f"{train} images to train on, {held_out} held out; connecting"
        case Joined(run=run, rounds=rounds):
            return f"in run {run} of {rounds} rounds"
        case Scored(round=ref) | Trained(round=ref) | Delivered(round=ref) | Skipped(round=ref):
            return f"run {ref.run}, round {ref.round}: {type(event).__name__.lower()}"
        case Waiting(reason):
            return f"waiting: {reason}"
        case LinkLost(reason):
            return f"the coordinator is away: {reason}"
        case RunOver(outcome, reason):
            return f"the run is over, {outcome.value}: {reason}"
        case _:
            return ""

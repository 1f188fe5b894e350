"""What a node last met, in a small file of its state folder, and what that means: for health checks of containers."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Final

from fed_node.events import DataRead, LinkLost, Observer, RunOver, SessionEvent
from fedmentor.clock import Clock
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal
from fedmentor.federation import Outcome
from fedmentor.models import write_atomically

STATUS_FILE: Final = "status.json"

IN_TOUCH: Final = "in touch"
AWAY: Final = "away"
COMPLETED: Final = "completed"
FAILED: Final = "failed"


def status_keeper(state: Path, clock: Clock) -> Observer:
    """A function that notes every event of a session in ``state``; what an earlier node noted there is forgotten."""
    path = state / STATUS_FILE
    with suppress(OSError):  # a folder that cannot be used is found by the outbox, which says so
        path.unlink()

    def observe(event: SessionEvent) -> None:
        standing, reason = _standing(event)
        noted = {"standing": standing, "event": type(event).__name__, "reason": reason, "utc": clock.now().isoformat()}
        write_atomically(path, (json.dumps(noted) + "\n").encode())

    return observe


def check_health(state: Path) -> str:
    """Read what the node in ``state`` last met.

    Returns:
        How it stands, for people.

    Raises:
        CoordinatorUnreachable: it has met nobody yet, or lost its coordinator.
        PolicyRefusal: its run failed.
    """
    try:
        noted = json.loads((state / STATUS_FILE).read_bytes())
        standing, reason, since = noted["standing"], noted["reason"], noted["utc"]
    except FileNotFoundError as error:
        raise CoordinatorUnreachable(f"no node has noted anything in {state} yet", cure="wait, or see its log") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CoordinatorUnreachable(f"{state / STATUS_FILE} cannot be read", cure="see the node's log") from error
    if standing == AWAY:
        raise CoordinatorUnreachable(f"the coordinator is away: {reason}", cure="see the node's log; it tries again by itself")
    if standing == FAILED:
        raise PolicyRefusal(f"the run failed: {reason}", cure="ask the coordinator's operator")
    return f"{standing}, {noted.get('event')} at {since}"


def _standing(event: SessionEvent) -> tuple[str, str]:
    match event:
        case DataRead():
            return AWAY, "the node has read its data and has not connected yet"
        case LinkLost(reason):
            return AWAY, reason
        case RunOver(outcome, reason):
            return (COMPLETED if outcome is Outcome.COMPLETED else FAILED), reason
        case _:
            return IN_TOUCH, ""

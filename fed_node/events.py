"""What a session tells its surroundings: typed events, from which the command line and the log make their lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fed_node.trainer import LocalScores
from fedmentor.federation import Outcome, RoundRef
from fedmentor.ids import Digest, RunId


@dataclass(frozen=True)
class Joined:
    """The run's manifest was checked and is pinned."""

    run: RunId
    manifest: Digest
    rounds: int
    sites: int


@dataclass(frozen=True)
class Scored:
    """A global model was evaluated on this site's held-out patients."""

    round: RoundRef
    scores: LocalScores


@dataclass(frozen=True)
class Trained:
    """A local training is done and its update is on disk."""

    round: RoundRef
    loss: float
    examples: int
    seconds: float


@dataclass(frozen=True)
class Delivered:
    """The coordinator gave its receipt.

    ``again`` tells an update that was on disk already from one that was trained just now.
    """

    round: RoundRef
    bytes_down: int
    bytes_up: int
    seconds: float
    again: bool


@dataclass(frozen=True)
class Skipped:
    """This site has no part in an attempt: deadline passed, round closed, update refused."""

    round: RoundRef
    reason: str


@dataclass(frozen=True)
class Waiting:
    """The coordinator has nothing to do for this site."""

    reason: str


@dataclass(frozen=True)
class LinkLost:
    """The coordinator does not answer; the session tries again."""

    reason: str
    retry_seconds: float


@dataclass(frozen=True)
class RunOver:
    """The run ended."""

    outcome: Outcome
    reason: str


SessionEvent = Joined | Scored | Trained | Delivered | Skipped | Waiting | LinkLost | RunOver
Observer = Callable[[SessionEvent], None]

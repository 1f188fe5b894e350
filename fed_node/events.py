"""What a session tells its surroundings: typed events, from which the command line and the log make their lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fed_node.trainer import LocalScores
from fedmentor.federation import Outcome, RoundRef, StepName
from fedmentor.ids import Digest, RunId


@dataclass(frozen=True)
class DataRead:
    """The site's images are in memory.

    ``left_out`` says what of a PACS export is not used, as counts with reasons.
    """

    train_images: int
    held_out_images: int
    patients: int
    left_out: str


@dataclass(frozen=True)
class Joined:
    """The run's manifest was checked and is pinned."""

    run: RunId
    manifest: Digest
    rounds: int
    sites: int


@dataclass(frozen=True)
class ClockDiffers:
    """This machine's clock is so many seconds ahead of the coordinator's (or behind it, below 0) that certificates may fail."""

    ahead_s: float


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
class Answered:
    """This site said what a step of secure aggregation asks of it."""

    round: RoundRef
    step: StepName


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
class CertificateRenewed:
    """The registrar gave this site its next certificate, valid until then; calls from now on use it."""

    expires_utc: str


@dataclass(frozen=True)
class RenewalFailed:
    """The registrar gave no new certificate; the one in use stays, and the registrar is asked again."""

    reason: str


@dataclass(frozen=True)
class RunOver:
    """The run ended."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Witnessed:
    """This site has verified the coordinator's audit trail and signed its newest checkpoint.

    ``checkpoint``: records that the checkpoint covers. ``records``: all that were verified.
    """

    checkpoint: int
    records: int


@dataclass(frozen=True)
class Unwitnessed:
    """The audit trail could not be looked at, or the signature was not taken; the next order tries again."""

    reason: str


@dataclass(frozen=True)
class WitnessOff:
    """This node does not follow the audit trail at all."""

    reason: str


SessionEvent = (
    DataRead
    | Joined
    | Scored
    | Trained
    | Answered
    | Delivered
    | Skipped
    | Waiting
    | LinkLost
    | RunOver
    | Witnessed
    | Unwitnessed
    | WitnessOff
    | CertificateRenewed
    | RenewalFailed
    | ClockDiffers
)
Observer = Callable[[SessionEvent], None]

"""The coordinator's own domain values: where a run stands, what was accepted, what was published. Frozen; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fedmentor.federation import Outcome, Receipt, RoundRef
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId


class PhaseName(Enum):
    """The phases of a round; docs/rounds.md has the diagram."""

    IDLE = "idle"
    OPEN = "open"
    ADVERTISE = "advertise"
    SHARE = "share"
    COLLECT = "collect"
    CONSENT = "consent"
    REVEAL = "reveal"
    AGGREGATE = "aggregate"
    GATE = "gate"
    PUBLISH = "publish"
    EVALUATE = "evaluate"
    FAILURE = "failure"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True)
class RunState:
    """Where a run stands. One row of the journal; replaced by every transition.

    Attributes:
        phase: the phase that is in force.
        round: the round that is in force; equal to the manifest's ``rounds`` while the last model is evaluated.
        attempt: attempt of that round, from 1.
        model: digest of the model that the round starts from.
        pending: digest of the aggregated model that waits to be published.
        phase_elapsed_s: running time of the phase up to the last checkpoint; time in which no coordinator ran does not count.
        round_elapsed_s: the same since the round's first opening.
        outcome: how the run ended, from SHUTDOWN on.
        reason: one public sentence: why an attempt or the run failed.
    """

    phase: PhaseName
    round: Round
    attempt: Attempt
    model: Digest
    pending: Digest | None = None
    phase_elapsed_s: float = 0.0
    round_elapsed_s: float = 0.0
    outcome: Outcome | None = None
    reason: str = ""

    def ref(self, run: RunId) -> RoundRef:
        """This attempt of this round of ``run``."""
        return RoundRef(run, self.round, self.attempt)


@dataclass(frozen=True)
class AcceptedUpdate:
    """An update that is on disk and whose site holds, or may ask again for, the receipt.

    ``weight_word`` is the last ring word, ``weight * 2**fraction_bits``; 0 where the words are masked.
    """

    receipt: Receipt
    size_bytes: int
    weight_word: int

    @property
    def site(self) -> SiteId:
        """The site that sent it."""
        return self.receipt.site


@dataclass(frozen=True)
class SiteScores:
    """One site's scores of the model of one round.

    ``hd95`` is None where it is undefined for every image, ``hd95_undefined`` the number of images that it leaves out, None where
    the site did not say.
    """

    site: SiteId
    round: Round
    model: Digest
    patients: int
    images: int
    dice: float
    iou: float
    hd95: float | None
    hd95_undefined: int | None = None


@dataclass(frozen=True)
class PublishedRound:
    """A finished round: from which model, by which attempt, to which model.

    ``sites``: whose updates are in it; fewer than were accepted where a group of a secure run was lost, none where it is void.
    """

    round: Round
    attempt: Attempt
    base_model: Digest
    model: Digest
    seconds: float
    published_utc: str
    sites: tuple[SiteId, ...] = ()


@dataclass(frozen=True)
class Traffic:
    """Payload bytes between one site and the coordinator in one round, envelopes and TLS not counted.

    Counted in memory and written with the round's transactions, so a crash may lose the last few seconds of it.
    """

    round: Round
    site: SiteId
    bytes_up: int = 0
    bytes_down: int = 0

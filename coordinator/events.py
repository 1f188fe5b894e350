"""What a coordinator tells its surroundings: typed events, from which the log and the metrics make theirs. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from coordinator.state import RunState
from fedmentor.federation import RoundRef
from fedmentor.ids import Digest, RunId, SiteId


@dataclass(frozen=True)
class PhaseEntered:
    """A transition is on disk."""

    run: RunId
    state: RunState


@dataclass(frozen=True)
class SiteConnected:
    """A site opened its stream; ``superseded`` where it had another one open. ``software`` is what it says of itself."""

    site: SiteId
    superseded: bool
    software: str = ""


@dataclass(frozen=True)
class SiteCertificateShown:
    """A site called with a certificate that it had not shown before; ``expires`` is its end."""

    site: SiteId
    expires: datetime


@dataclass(frozen=True)
class SiteLeft:
    """A site's stream ended."""

    site: SiteId


@dataclass(frozen=True)
class UpdateAccepted:
    """An update is on disk and its receipt may leave."""

    site: SiteId
    round: RoundRef
    sha256: Digest
    size_bytes: int


@dataclass(frozen=True)
class UpdateRefused:
    """An update was not let in; ``kind`` is the error's class, ``reason`` its public sentence."""

    site: SiteId
    round: RoundRef
    kind: str
    reason: str


@dataclass(frozen=True)
class SatOut:
    """A site says that nothing is to come from it in an attempt, and why in its own words."""

    site: SiteId
    round: RoundRef
    reason: str


@dataclass(frozen=True)
class ScoresReported:
    """A site scored the model of a round for the first time."""

    site: SiteId
    round: RoundRef
    dice: float


@dataclass(frozen=True)
class CallFailed:
    """A call raised something that is not for the caller's eyes; ``private`` has the traceback."""

    call: str
    site: SiteId | None
    private: str


@dataclass(frozen=True)
class CertificateRenewed:
    """New connections get the certificate that now lies in the folder."""


@dataclass(frozen=True)
class CertificateRefused:
    """What lies in the certificates' folder cannot be used; new connections get the last certificate that could."""

    reason: str


@dataclass(frozen=True)
class RenewalFailed:
    """The registrar gave no new certificate; the one in use stays, and the registrar is asked again."""

    reason: str


@dataclass(frozen=True)
class DenyListChanged:
    """A newer deny-list is in force: so many serials and keys are refused, and calls of theirs that were open have ended."""

    version: int
    serials: int
    keys: int


@dataclass(frozen=True)
class DenyListRefused:
    """The deny-list in the certificates' folder cannot be used; the last one that could stays in force."""

    reason: str


@dataclass(frozen=True)
class TrailUnsigned:
    """The audit trail gets no signed checkpoints, and no site witnesses it."""

    reason: str


Event = (
    PhaseEntered
    | SiteConnected
    | SiteCertificateShown
    | SiteLeft
    | UpdateAccepted
    | UpdateRefused
    | SatOut
    | ScoresReported
    | CallFailed
    | CertificateRenewed
    | CertificateRefused
    | RenewalFailed
    | DenyListChanged
    | DenyListRefused
    | TrailUnsigned
)
Observer = Callable[[Event], None]

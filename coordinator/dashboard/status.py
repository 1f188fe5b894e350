"""What the dashboard shows, as one frozen value; ``status.json`` is its JSON, docs/dashboard.schema.json its schema.

It names sites, and counts and scores that they reported. No update's digest is in it, no image, no patient. What a site said in its
own words (``reason``) is text from outside: cut to MAX_REASON_CHARACTERS printable ones here, never markup on the page.
"""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict

from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId

STATUS_VERSION = 1
"""Goes up when a field changes its meaning or goes away; new fields may come at any time."""

MAX_ROUNDS_SHOWN = 500
"""Of a longer run, the newest rounds."""

MAX_REASON_CHARACTERS = 300


class Part(str, Enum):
    """What a site has done in the attempt that is in force."""

    NONE = "none"
    """Nothing is asked of it at the moment."""
    AWAITED = "awaited"
    """Something is asked of it and has not come."""
    ANSWERED = "answered"
    """It has answered the step of secure aggregation, or scored the model, that is in force."""
    ACCEPTED = "accepted"
    """Its update is on the coordinator's disk."""
    SAT_OUT = "sat-out"
    """It said that nothing is to come from it."""
    REFUSED = "refused"
    """Something that it sent was refused."""
    DROPPED = "dropped"
    """It missed an earlier step of secure aggregation, so it has no part in this attempt."""
    SET_ASIDE = "set-aside"
    """It takes no further part in the run."""


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunStatus(_Shown):
    """The run's rules, as its manifest pins them.

    Attributes:
        name, manifest: name of the run, and SHA-256 of its manifest.
        approved: whether the registrar signed the manifest.
        rounds, sites, quorum: how many; the quorum is the fewest sites behind a published model.
        architecture, initialisation: what is trained, from which start.
        mode: ``plain``, ``plain+robust``, ``secagg`` or ``secagg-grouped``.
        who_sees: sentences about who can see what.
    """

    name: RunId
    manifest: Digest
    approved: bool
    rounds: int
    sites: int
    quorum: int
    architecture: str
    initialisation: str
    mode: str
    who_sees: tuple[str, ...]


class ProgressStatus(_Shown):
    """Where the run stands.

    Attributes:
        headline: one sentence.
        phase, phase_words: what is in force, by name and for people; docs/rounds.md has the diagram.
        round, attempt, max_attempts: what is in force, and how often a round is tried.
        outcome: ``completed`` or ``failed``; None while the run goes on.
        reason: why the last attempt, or the run, failed.
        model: digest of the model in force.
        elapsed_s: running time of the phase.
        left_s: seconds until the phase ends at the latest; None where it has no deadline.
        done, asked: how many sites have done what the phase asks for, of how many.
    """

    headline: str
    phase: str
    phase_words: str
    round: Round
    attempt: Attempt
    max_attempts: int
    outcome: str | None
    reason: str
    model: Digest
    elapsed_s: float
    left_s: float | None
    done: int
    asked: int


class GateStatus(_Shown):
    """What the model gate said of the model that a round made; see fedmentor.gate."""

    passed: bool
    sites: int
    dice_drop: float


class RoundStatus(_Shown):
    """Model r on the sites, and the training from it; the same numbers as in ``report.json``.

    Attributes:
        round: r.
        dice, iou, hd95: means over sites weighted by held-out patients; None before any site reported.
        hd95_undefined: images that ``hd95`` leaves out, because mask or prediction is empty; None where a site did not say.
        worst_dice, worst_site: where the model does worst.
        scored: how many sites scored it.
        published: whether the training from it is over.
        void: whether that made no new model.
        accepted: sites whose updates are in model r + 1.
        attempt: the attempt that succeeded.
        seconds, bytes_up, bytes_down: what the training took; bytes of all sites together.
        flagged: sites that a robust rule flagged.
        gate: what the model gate said of model r + 1.
        epsilon: what models up to r + 1 cost, in a run with differential privacy.
    """

    round: Round
    dice: float | None
    iou: float | None
    hd95: float | None
    hd95_undefined: int | None
    worst_dice: float | None
    worst_site: SiteId | None
    scored: int
    published: bool
    void: bool
    accepted: int
    attempt: Attempt | None
    seconds: float | None
    bytes_up: int
    bytes_down: int
    flagged: tuple[SiteId, ...]
    gate: GateStatus | None
    epsilon: float | None


class SiteStatus(_Shown):
    """One site of the roster.

    Attributes:
        connected: whether its stream is open.
        last_seen_s: seconds since it was last heard of; None where it has not been since this coordinator started.
        certificate_until_utc: end of the certificate that it called with last, ISO 8601; None where it has not since then.
        part: what it has done in the attempt in force.
        reason: why it sat out, was refused or set aside; may be the site's own words.
        bytes_up, bytes_down: over the whole run.
        round, dice, patients: its newest scores: of which model, and on how many held-out patients.
        countersigned: whether it has signed the newest checkpoint of the audit trail.
    """

    site: SiteId
    connected: bool
    last_seen_s: float | None
    certificate_until_utc: str | None
    part: Part
    reason: str
    bytes_up: int
    bytes_down: int
    round: Round | None
    dice: float | None
    patients: int | None
    countersigned: bool


class PrivacyStatus(_Shown):
    """What a run with differential privacy promises, and what it has cost so far; sites' own caps are known to them alone.

    Attributes:
        unit: whose privacy it is, ``patient`` or ``site``.
        mechanism: one sentence.
        delta: probability that epsilon does not bound.
        epsilon_cap: what the whole run may cost.
        epsilon_spent: what the model in force has cost.
        scores_reported: whether sites report scores, which carry no noise.
    """

    unit: str
    mechanism: str
    delta: float
    epsilon_cap: float
    epsilon_spent: float
    scores_reported: bool


class GateRule(_Shown):
    """When the model gate lets a model pass; see fedmentor.gate.GatePlan."""

    max_dice_drop: float
    min_sites: int


class AuditStatus(_Shown):
    """How the audit trail stands; docs/audit.md says how to check it.

    Attributes:
        records, head: length and last hash of the chain.
        signs: whether this coordinator signs checkpoints.
        checkpoint_records, checkpoint_head, checkpoint_utc: the newest checkpoint; None where there is none.
        countersigned: sites that have signed it.
    """

    records: int
    head: Digest | None
    signs: bool
    checkpoint_records: int | None
    checkpoint_head: Digest | None
    checkpoint_utc: str | None
    countersigned: tuple[SiteId, ...]


class Status(_Shown):
    """Everything that the page shows.

    Attributes:
        version: see STATUS_VERSION.
        utc: when this was read; ISO 8601 with timezone.
        run, progress, audit: None where the journal holds no run yet.
        rounds: finished rounds, then the one in force; the newest MAX_ROUNDS_SHOWN.
        rounds_left_out: older ones.
        sites: the roster.
        privacy, gate: None where the run has none.
    """

    version: int = STATUS_VERSION
    utc: str
    run: RunStatus | None = None
    progress: ProgressStatus | None = None
    rounds: tuple[RoundStatus, ...] = ()
    rounds_left_out: int = 0
    sites: tuple[SiteStatus, ...] = ()
    privacy: PrivacyStatus | None = None
    gate: GateRule | None = None
    audit: AuditStatus | None = None

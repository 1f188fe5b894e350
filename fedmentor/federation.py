"""What a federation talks about, as frozen values: the manifest that every site pins, directives, updates, receipts, scores.

These are the domain types; fedmentor.wire.codec turns them into protobuf messages and back. No I/O.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedmentor import ids
from fedmentor.errors import ConfigError
from fedmentor.gate import GatePlan
from fedmentor.ids import MAX_SEED, Attempt, Digest, Round, RunId, SiteId, run_id, site_id
from fedmentor.models import PrivacySpent, canonical_json
from fedmentor.modes import check_modes
from fedmentor.privacy.central import CentralPrivacyPlan
from fedmentor.privacy.plan import PrivacyPlan
from fedmentor.protocol import NEW_KIT
from fedmentor.robust import RobustPlan
from fedmentor.secagg.plan import Group, SecurePlan, groups_of
from fedmentor.secagg.ring import Ring
from fedmentor.settings import first_fault
from fedmentor.tensors import Spec, TensorSpec

CHUNK_BYTES = 1 << 20
"""Largest chunk of a model or an update in one message."""

MESSAGE_LIMIT_BYTES = 4 << 20
"""gRPC message cap on both ends: a chunk and its envelope, with room to spare."""

MIN_QUORUM = 3
"""Fewest sites behind a published model unless the manifest says otherwise."""

MAX_PHASE_SECONDS = 365.0 * 86_400
"""Longest deadline of a phase; deadlines travel as whole milliseconds."""

LATER_FIELDS = ("privacy", "secure", "robust", "central_privacy", "gate")
"""Fields of RunManifest that its canonical JSON leaves out where they hold their defaults."""


class TrainingPlan(BaseModel):
    """How every site trains locally; fixed by the manifest, so that no site can be asked for something else.

    Attributes:
        local_epochs: passes over the site's training images a round.
        batch_images: images a step.
        learning_rate: AdamW step size.
        weight_decay: AdamW decoupled decay.
        augment: small random rotations, shifts, scales and exposure changes.
        seed: seed of the run; a site's stream is derived from it, the site's name and the round.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    local_epochs: int = Field(2, ge=1, le=1000)
    batch_images: int = Field(8, ge=1, le=4096)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(1e-4, ge=0, le=1)
    augment: bool = True
    seed: int = Field(0, ge=0, le=MAX_SEED)


class RunManifest(BaseModel):
    """The rules of one federated run. A site stores it at first contact and refuses another one for the same run.

    Attributes:
        run: name of the run.
        roster: every site that takes part, sorted; weights and quorum refer to this list.
        rounds: number of training rounds; models are numbered 0 (the start) to ``rounds``.
        quorum: fewest updates a round is aggregated from, and fewest sites behind a published model.
        architecture: id of the student's architecture.
        tensors: the spec as (name, shape) pairs, sorted by name.
        initial_model: digest of model 0.
        initialisation: how model 0 was made; for the record.
        fraction_bits, clip_norm, clip_value, max_weight: see fedmentor.secagg.ring.Ring.
        training: what sites do locally.
        collect_seconds: how long a round waits for updates before it goes on with the quorum or fails.
        evaluate_seconds: how long the run waits for scores of the last model.
        max_attempts: how often a round is tried before the run fails.
        privacy: what the run promises each patient; None where it promises nothing.
        secure: how single updates are hidden from the coordinator; None where it sees them.
        robust: how a malicious site's part in the model is bounded; None for the weighted mean.
        central_privacy: what the published models promise each site; None where they promise nothing.
        gate: what a round's model must hold before it is published; None where it is published unseen.

    Fields of LATER_FIELDS came after the first version. They are left out of the canonical JSON where they hold their defaults, so
    a manifest that does not use them has the digest that it always had.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: Annotated[RunId, AfterValidator(run_id)]
    roster: tuple[Annotated[SiteId, AfterValidator(site_id)], ...] = Field(min_length=1)
    rounds: int = Field(ge=1, le=100_000)
    quorum: int = Field(MIN_QUORUM, ge=1)
    architecture: str
    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    initial_model: Annotated[Digest, AfterValidator(ids.digest)]
    initialisation: str = "random"
    fraction_bits: int = 24
    clip_norm: float = 100.0
    clip_value: float = 1.0
    max_weight: int = 1000
    training: TrainingPlan = TrainingPlan()
    collect_seconds: float = Field(3600.0, gt=0, le=MAX_PHASE_SECONDS)
    evaluate_seconds: float = Field(600.0, gt=0, le=MAX_PHASE_SECONDS)
    max_attempts: int = Field(3, ge=1, le=1000)
    privacy: PrivacyPlan | None = None
    secure: SecurePlan | None = None
    robust: RobustPlan | None = None
    central_privacy: CentralPrivacyPlan | None = None
    gate: GatePlan | None = None

    def model_post_init(self, _context: object) -> None:
        """Check what no single field shows.

        Raises:
            ConfigError: roster not sorted and unique, quorum over the roster, or a ring too small for the roster. A malformed name
                or digest raises it, too, before this is called.
            ProtocolRefused: the terms of secure aggregation are too weak for the roster, or do not fit it.
        """
        if list(self.roster) != sorted(set(self.roster)):
            raise ConfigError("the roster must be sorted and name each site once")
        if self.quorum > len(self.roster):
            raise ConfigError(f"a quorum of {self.quorum} cannot be met by {len(self.roster)} sites")
        self.ring.check_sites(len(self.roster))
        if self.privacy is not None and self.privacy.rounds != self.rounds:
            raise ConfigError(f"the privacy plan is for {self.privacy.rounds} rounds, the run has {self.rounds}")
        if self.secure is not None:
            groups_of(self.secure, self.roster)
        check_modes(self)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Which sites aggregate securely with each other; none where the run does not aggregate securely."""
        return () if self.secure is None else groups_of(self.secure, self.roster)

    def group_of(self, site: SiteId) -> Group:
        """The group that a site aggregates in.

        Raises:
            ConfigError: the run does not aggregate securely, or the site is not on its roster.
        """
        for group in self.groups:
            if site in group.sites:
                return group
        raise ConfigError(f"site {site!r} aggregates with nobody in run {self.run!r}")

    @property
    def needed(self) -> int:
        """Fewest updates behind a model: the quorum, and in a secure run what the protocol needs where that is more."""
        if self.secure is None:
            return self.quorum
        least = sorted(group.terms.quorum for group in self.groups)
        return max(self.quorum, sum(least[: self.secure.needed_groups]))

    @property
    def sites_behind(self) -> int:
        """Fewest sites whose updates are in a published model: ``needed``, or what the robust rule chooses of them."""
        return self.needed if self.robust is None else self.robust.sites_behind(self.needed)

    @property
    def smallest_sum(self) -> int:
        """Fewest sites in anything that is made public: a model, or in a run with groups the sum of one group."""
        return min([self.sites_behind, *(group.terms.quorum for group in self.groups)])

    @property
    def ring(self) -> Ring:
        """The ring in which this run's updates are summed."""
        return Ring(self.fraction_bits, self.clip_norm, self.clip_value, self.max_weight)

    @property
    def reports_scores(self) -> bool:
        """Whether sites send scores of their held-out patients; a privacy plan says no unless it says yes."""
        return self.privacy is None or self.privacy.report_scores

    def privacy_spent(self, rounds: int) -> PrivacySpent | None:
        """What a model after ``rounds`` rounds claims; None where the run promises nothing."""
        plan = self.privacy or self.central_privacy
        if plan is None:
            return None
        return PrivacySpent(epsilon=plan.epsilon_after(rounds), delta=plan.delta, unit=plan.unit, accountant="rdp")

    @property
    def spec(self) -> Spec:
        """The architecture's tensors."""
        return tuple(TensorSpec(name, shape) for name, shape in self.tensors)

    def to_bytes(self) -> bytes:
        """Canonical JSON; the bytes that are hashed, stored and sent."""
        defaults = type(self).model_fields
        unused = {name for name in LATER_FIELDS if getattr(self, name) == defaults[name].default}
        return canonical_json(self.model_dump(mode="json", exclude=unused))

    @property
    def digest(self) -> Digest:
        """SHA-256 of to_bytes()."""
        return Digest(hashlib.sha256(self.to_bytes()).hexdigest())


def manifest_from_bytes(data: bytes) -> RunManifest:
    """Read a manifest that came over the wire or from disk.

    Raises:
        ConfigError: not a manifest.
    """
    try:
        return RunManifest.model_validate_json(data)
    except ValidationError as error:
        fault = first_fault(error)
        if fault.kind == "extra_forbidden":
            raise ConfigError(f"this FedMentor does not know {fault.name!r} in the run manifest", cure=NEW_KIT) from error
        raise ConfigError(f"the run manifest is wrong at {fault.name!r}: {fault.message}") from error


@dataclass(frozen=True, order=True)
class RoundRef:
    """One attempt of one round of one run. Round r starts from model r and, once published, makes model r + 1."""

    run: RunId
    round: Round
    attempt: Attempt


@dataclass(frozen=True)
class ModelRef:
    """A model by content: digest over spec and values, and its size as little-endian float32 bytes."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """First directive of every stream.

    ``signature``: the registrar's over the manifest's bytes (ECDSA with SHA-256, DER); empty where the registrar did not sign it.
    """

    manifest: RunManifest
    signature: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Train:
    """Evaluate ``model``, report the scores, train from it, send the update within ``deadline_s`` seconds.

    ``delivery``: in a secure run, what the other sites' shares are (fedmentor.secagg.messages.Delivery); empty in any other.
    """

    round: RoundRef
    model: ModelRef
    deadline_s: float
    delivery: bytes = field(default=b"", repr=False)


class StepName(Enum):
    """The steps of secure aggregation in which sites say something."""

    ADVERTISE = "advertise"
    SHARE = "share"
    UPLOAD = "upload"
    CONSENT = "consent"
    REVEAL = "reveal"


@dataclass(frozen=True)
class SecureStep:
    """Answer this step of secure aggregation within ``deadline_s`` seconds. An upload is asked for by Train, not by this.

    ``message``: ADVERTISE: the audit root, 32 bytes. SHARE: all adverts. CONSENT: the survivors' indexes. REVEAL: all consents.
    """

    round: RoundRef
    model: ModelRef
    deadline_s: float
    step: StepName
    message: bytes = field(repr=False)


@dataclass(frozen=True)
class StepAnswer:
    """What a site says in a step, in the canonical form of fedmentor.secagg.messages."""

    round: RoundRef
    step: StepName
    message: bytes = field(repr=False)


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the run's last model and report the scores within ``deadline_s`` seconds."""

    round: RoundRef
    model: ModelRef
    deadline_s: float


@dataclass(frozen=True)
class Wait:
    """Nothing to do at the moment."""

    reason: str


class Outcome(Enum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True)
class Finished:
    """The run is over; the stream ends after this."""

    outcome: Outcome
    reason: str


Directive = Manifest | Train | SecureStep | Evaluate | Wait | Finished


@dataclass(frozen=True)
class UpdateHeader:
    """What a site declares before it sends bytes: round, SHA-256 and size of the ring words, and the model they start from.

    ``masked``: in a secure run the site's signed fedmentor.secagg.messages.UploadHeader, and the words are masked; else empty.
    """

    round: RoundRef
    sha256: Digest
    size_bytes: int
    base_model: Digest
    masked: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Receipt:
    """The coordinator's word that an update is on its disk; repeated unchanged on a retry.

    ``accepted_utc`` is ISO 8601 with a timezone.
    """

    round: RoundRef
    site: SiteId
    sha256: Digest
    accepted_utc: str


@dataclass(frozen=True)
class Offset:
    """Bytes of an offered update that are already stored; go on from here."""

    bytes_stored: int


UpdateState = Offset | Receipt


@dataclass(frozen=True)
class Scores:
    """How a global model did on one site's held-out patients.

    ``hd95`` is the mean 95th percentile Hausdorff distance in pixels at 256 x 256, NaN where it is undefined for every image.
    ``hd95_undefined`` counts the images that it leaves out; None where the site, of an older version, does not say.
    """

    round: RoundRef
    model: Digest
    patients: int
    images: int
    dice: float
    iou: float
    hd95: float
    hd95_undefined: int | None = None

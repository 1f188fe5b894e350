"""What a site checks before it acts on anything the coordinator says. Pure: values in, a refusal or nothing out.

The caller still owes: pinning the manifest once it passed, the digest of the model's bytes (check_model), and the durable
high-water mark that check_train is given.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedmentor.errors import DigestMismatch, PolicyRefusal, WrongArchitecture
from fedmentor.federation import Evaluate, ModelRef, Receipt, RoundRef, RunManifest, SecureStep, Train, UpdateHeader
from fedmentor.ids import Digest, SiteId
from fedmentor.tensors import FloatVector, Spec, model_digest, spec_size, vector_from_bytes

FLOAT_BYTES = 4


@dataclass(frozen=True)
class PlanLimits:
    """What this site lets a manifest ask of it.

    Attributes:
        rounds: most training rounds in a run.
        local_epochs: most passes over the site's images a round.
        quorum: fewest sites behind a published model. At least 2, since a model published from one site is that site's
            update in the clear.
        privacy_required: refuse runs without a privacy plan.
        secure_required: refuse runs in which the coordinator sees this site's updates.
        approval_required: refuse runs whose manifest the registrar did not sign.
    """

    rounds: int = 10_000
    local_epochs: int = 100
    quorum: int = 2
    privacy_required: bool = False
    secure_required: bool = False
    approval_required: bool = False


def check_manifest(manifest: RunManifest, site: SiteId, architecture: str, spec: Spec, limits: PlanLimits) -> None:
    """Decide whether this site takes part in a run.

    1. This site is on the roster.
    2. The architecture is the one this node has: by id and by every tensor's name and shape.
    3. The plan stays inside the site's own limits.

    Raises:
        PolicyRefusal: 1 or 3.
        WrongArchitecture: 2.
    """
    # (1)
    if site not in manifest.roster:
        raise PolicyRefusal(
            f"site {site!r} is not on the roster of run {manifest.run!r}", cure="ask the registrar to enrol this site"
        )
    # (2)
    if manifest.architecture != architecture or manifest.spec != spec:
        raise WrongArchitecture(
            f"run {manifest.run!r} trains {manifest.architecture!r}, this node has {architecture!r} or another version of it",
            cure="install the node version that the run was planned for",
        )
    # (3)
    for name, asked, allowed in (
        ("rounds", manifest.rounds, limits.rounds),
        ("local_epochs", manifest.training.local_epochs, limits.local_epochs),
    ):
        if asked > allowed:
            raise PolicyRefusal(
                f"the run asks for {name} = {asked}, this site allows {allowed}", cure=f"raise max_{name} if you agree"
            )
    if manifest.smallest_sum < limits.quorum:
        raise PolicyRefusal(
            f"the run shows sums or models of {manifest.smallest_sum} sites, this site asks for at least {limits.quorum}",
            cure="lower min_quorum if you agree",
        )
    if limits.privacy_required and manifest.privacy is None:
        raise PolicyRefusal(
            f"run {manifest.run!r} has no privacy plan, this site takes part in private runs only",
            cure="switch require_privacy off if you agree",
        )
    if limits.secure_required and manifest.secure is None:
        raise PolicyRefusal(
            f"run {manifest.run!r} does not aggregate securely, this site takes part in secure runs only",
            cure="switch require_secure off if you agree that the coordinator sees this site's updates",
        )


def check_approval(manifest: RunManifest, limits: PlanLimits, *, approved: bool) -> None:
    """Refuse a run that the registrar has not signed, where this site asks for that.

    Raises:
        PolicyRefusal: nobody approved it.
    """
    if limits.approval_required and not approved:
        raise PolicyRefusal(
            f"the registrar did not sign the manifest of run {manifest.run!r}, this site takes part in approved runs only",
            cure="have it signed (`fedmentor federation approve`), or switch require_approval off if you agree",
        )


def check_directive(directive: Train | SecureStep | Evaluate, manifest: RunManifest) -> None:
    """Refuse a directive outside the pinned manifest.

    1. It is for the pinned run.
    2. Training rounds are 0 to rounds - 1; the evaluated model is one of 0 to rounds.
    3. The model has the size of the architecture, so nothing larger is ever fetched.
    4. Model 0 is the one that the manifest names.

    Raises:
        PolicyRefusal: names the step that failed.
    """
    ref, model = directive.round, directive.model
    # (1)
    if ref.run != manifest.run:
        raise PolicyRefusal(f"the coordinator announced run {manifest.run!r} and directs run {ref.run!r}")
    # (2)
    last = manifest.rounds if isinstance(directive, Evaluate) else manifest.rounds - 1
    if not 0 <= ref.round <= last:
        raise PolicyRefusal(f"round {ref.round} is not one of the {manifest.rounds} rounds of run {manifest.run!r}")
    # (3)
    expected = FLOAT_BYTES * spec_size(manifest.spec)
    if model.size_bytes != expected:
        raise PolicyRefusal(f"the coordinator declares a model of {model.size_bytes} bytes, the architecture has {expected}")
    # (4)
    if ref.round == 0 and model.digest != manifest.initial_model:
        raise PolicyRefusal("the coordinator offers another start model than the run's manifest names")


def check_not_older(ref: RoundRef, last_receipt: RoundRef | None) -> None:
    """Refuse to go back behind the last update that was acknowledged: rounds and attempts only grow.

    Raises:
        PolicyRefusal: the coordinator was rolled back, or replays an old directive.
    """
    if last_receipt is not None and (ref.round, ref.attempt) < (last_receipt.round, last_receipt.attempt):
        raise PolicyRefusal(
            f"the coordinator asks for round {ref.round}, attempt {ref.attempt}, but this site holds a receipt for round "
            f"{last_receipt.round}, attempt {last_receipt.attempt}",
            cure="the coordinator's store was rolled back: start a new run",
        )


def check_same_base(header: UpdateHeader, model: ModelRef) -> None:
    """Refuse to train a round a second time from another model.

    Raises:
        PolicyRefusal: two different models were published for one round.
    """
    if header.base_model != model.digest:
        raise PolicyRefusal(
            f"round {header.round.round} was already trained here from another model",
            cure="the coordinator's store was rolled back or shows sites different models: start a new run",
        )


def check_model(data: bytes, expected: Digest, spec: Spec) -> FloatVector:
    """The model's vector, float32 [d], if its content is what the directive named.

    Raises:
        WrongArchitecture: wrong length.
        DigestMismatch: other content.
    """
    vector = vector_from_bytes(data, spec)
    if model_digest(vector, spec) != expected:
        raise DigestMismatch(
            "the model that arrived is not the one that the coordinator named", cure="try again; then ask its operator"
        )
    return vector


def check_receipt(receipt: Receipt, header: UpdateHeader, site: SiteId) -> None:
    """Refuse a receipt for something else than what was sent.

    Raises:
        PolicyRefusal: other round, site or content.
    """
    if (receipt.round, receipt.site, receipt.sha256) != (header.round, site, header.sha256):
        raise PolicyRefusal("the coordinator's receipt is not for the update that this site sent")

"""Through what a session touches the world, and what its site decides for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fed_node.events import Observer
from fed_node.mailbox import OpenMailbox
from fed_node.outbox import Outbox
from fed_node.privacy import PrivateTraining
from fed_node.rules import PlanLimits
from fed_node.secure import SecurePorts, SecureSite
from fed_node.trainer import LocalTrainer
from fed_node.witness import Attendant
from fedmentor.clock import Clock
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import RunManifest
from fedmentor.ids import SiteId
from fedmentor.link import CoordinatorLink


def nobody_approves(data: bytes, signature: bytes) -> bool:
    """For a node without a federation's authority: nothing is approved."""
    del data, signature
    return False


@dataclass(frozen=True)
class SessionPorts:
    """Everything through which a session touches the world.

    Attributes:
        link: line to the coordinator.
        open_mailbox: turns an open stream into a mailbox.
        trainer: the student on this site's data.
        outbox: durable memory.
        clock: monotonic time for deadlines and backoff.
        pause: sleeps up to so many seconds; may return early.
        jitter: a number in [0, 1) that spreads reconnecting sites over time.
        stopping: whether this node was asked to stop.
        observe: is told what happens.
        privacy: private training under the site's ledger; a node without it refuses runs with a privacy plan.
        secure: the site's signing key and marks; a node without them refuses runs that aggregate securely.
        approved: whether the registrar signed these bytes with this signature; raises IdentityRefused for a false one.
        witness: follows the coordinator's audit trail; shown every order before it is carried out.
    """

    link: CoordinatorLink
    open_mailbox: OpenMailbox
    trainer: LocalTrainer
    outbox: Outbox
    clock: Clock
    pause: Callable[[float], object]
    jitter: Callable[[], float]
    stopping: Callable[[], bool]
    observe: Observer
    privacy: PrivateTraining | None = None
    secure: SecurePorts | None = None
    approved: Callable[[bytes, bytes], bool] = nobody_approves
    witness: Attendant | None = None


@dataclass(frozen=True)
class SessionPolicy:
    """What this site decides for itself.

    Attributes:
        limits: what a manifest may ask for.
        give_up_seconds: how long the coordinator may be unreachable.
        first_retry_seconds, longest_retry_seconds: bounds of the backoff; it doubles between them.
    """

    limits: PlanLimits = field(default_factory=PlanLimits)
    give_up_seconds: float = 600.0
    first_retry_seconds: float = 0.5
    longest_retry_seconds: float = 30.0


def private_training(ports: SessionPorts, manifest: RunManifest) -> PrivateTraining:
    """The node's private training, for a run with a privacy plan.

    Raises:
        PolicyRefusal: this node has none.
    """
    if ports.privacy is None:
        raise PolicyRefusal(
            f"run {manifest.run!r} trains with differential privacy, this node cannot",
            cure="install the node with its extra 'node'",
        )
    return ports.privacy


def secure_site(ports: SessionPorts, site: SiteId, manifest: RunManifest, *, approved: bool = False) -> SecureSite | None:
    """The site's part in a run that aggregates securely; None in any other run.

    Raises:
        PolicyRefusal: this node cannot, or the manifest's keys are not those of the registrar's roster.
    """
    if manifest.secure is None:
        return None
    if ports.secure is None:
        raise PolicyRefusal(
            f"run {manifest.run!r} aggregates securely, this node has no signing key",
            cure="enrol the site again, which makes one, or ask for new certificates",
        )
    return SecureSite(site, manifest, ports.secure, approved=approved)

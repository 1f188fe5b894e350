"""A site of the simulated federation: its disk, clock and line, which outlive its process, and a student that leaves fingerprints.

Site s adds X at coordinate s and nothing elsewhere, so a published model shows who was counted, and how often. In a run with groups
their median would drop that; there every site adds something of its own at every coordinate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fed_node.events import SessionEvent
from fed_node.marks import FileMarks
from fed_node.outbox_store import SqliteOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.secure import SecurePorts
from fed_node.session import Session
from fed_node.testing import PolledMailbox
from fed_node.trainer import LocalScores, ShouldStop, TrainedUpdate
from fed_node.witness import Witness, WitnessIdentity, WitnessPorts
from fed_node.witness_store import SqliteWitnessStore
from fedmentor.audit.checkpoint import AuditKeys
from fedmentor.errors import CoordinatorUnreachable
from fedmentor.federation import Finished, RoundRef, RunManifest, TrainingPlan
from fedmentor.ids import Digest, SiteId
from fedmentor.tensors import FloatVector, Spec
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import DirectLink, LinkFaults
from fedmentor.testing.secagg import seeded_entropy

if TYPE_CHECKING:
    from simulated_federation import Federation

SITES = tuple(SiteId(name) for name in ("east", "north", "south", "west"))
CROWD = tuple(SiteId(f"site{number:02d}") for number in range(16))
"""Sites of a run with groups: four of four, one more than make a model, so that one can be lost."""

X = np.float32(0.5)
OWN = np.random.default_rng(0).uniform(-X, X, (len(CROWD), len(CROWD))).astype(np.float32)
"""What each site of the crowd adds to a model."""

CHUNK_BYTES = 8
"""Three chunks an update, so that a cut has somewhere to fall."""


def signing_key(site: SiteId) -> Ed25519PrivateKey:
    """A site's key, the same in every run of these tests."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(site.encode()).digest())


COORDINATOR_KEY = signing_key(SiteId("coordinator"))


def audit_keys(sites: Collection[SiteId]) -> AuditKeys:
    """Who signs what in a federation of these sites."""
    public = {site: signing_key(site).public_key().public_bytes_raw() for site in sites}
    return AuditKeys("federation", COORDINATOR_KEY.public_key().public_bytes_raw(), public)


AUDIT_KEYS = audit_keys(SITES)


class Killed(BaseException):
    """The process of a site is gone."""


@dataclass
class Faults(LinkFaults):
    """Faults aimed at one kind of call: ``("request" | "reply", "lose" | "kill", method)``, each once."""

    aimed: set[tuple[str, str, str]] = field(default_factory=set)

    def request(self, call: str) -> None:
        """See LinkFaults."""
        self._strike("request", call)

    def reply(self, call: str) -> None:
        """See LinkFaults."""
        self._strike("reply", call)

    def _strike(self, way: str, call: str) -> None:
        if (way, "kill", call) in self.aimed:
            self.aimed.discard((way, "kill", call))
            raise Killed
        if (way, "lose", call) in self.aimed:
            self.aimed.discard((way, "lose", call))
            raise CoordinatorUnreachable(f"the {way} of {call} was lost")


def fingerprint(manifest: RunManifest, site: SiteId) -> FloatVector:
    """What a site adds to the model, float32 [sites]; see the module."""
    rows = OWN if len(manifest.groups) > 1 else X * np.eye(len(manifest.roster), dtype=np.float32)
    return rows[manifest.roster.index(site)]


def parts_of(manifest: RunManifest) -> list[tuple[SiteId, ...]]:
    """Who is summed together: the groups of a secure run, or everybody."""
    return [group.sites for group in manifest.groups] or [manifest.roster]


def added_by(manifest: RunManifest, counted: Collection[SiteId]) -> FloatVector:
    """What these sites add together, each once: their mean, and with groups the median of the groups' means, float32 [sites]."""
    present = [[fingerprint(manifest, site) for site in part if site in counted] for part in parts_of(manifest)]
    return np.median([np.mean(deltas, axis=0) for deltas in present if deltas], axis=0)


class FingerprintTrainer:
    """Adds the site's fingerprint."""

    architecture = "fingerprint-v1"

    def __init__(self, manifest: RunManifest, site: SiteId) -> None:
        self.spec: Spec = manifest.spec
        self._index = manifest.roster.index(site)
        self._delta = fingerprint(manifest, site)

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """See LocalTrainer."""
        return LocalScores(1, 1, float(np.clip(vector[self._index], 0, 1)), 0.5, float("nan"), 1)

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        del vector, plan, seed
        if should_stop():
            return None
        return TrainedUpdate(self._delta.copy(), 1000, 0.0)


@dataclass
class Site:
    """One site's disk, clock and line, which outlive its process."""

    name: SiteId
    folder: Path
    federation: Federation
    clock: ManualClock = field(default_factory=ManualClock)
    faults: Faults = field(default_factory=Faults)
    events: list[SessionEvent] = field(default_factory=list)
    outbox: SqliteOutbox | None = None
    memory: SqliteWitnessStore | None = None
    session: Session | None = None
    finished: Finished | None = None
    lives: int = 0

    def turn(self) -> None:
        """Do one thing; start first, if it is not running."""
        if self.finished is not None:
            return
        session = self.session or self._start()
        try:
            self.finished = session.step()
        except Killed:
            self.kill()

    def kill(self) -> None:
        """Lose everything that is not on disk."""
        self.close()
        self.session = None
        self.federation.line_broke(self.name)

    def close(self) -> None:
        """Let go of all files."""
        for store in (self.outbox, self.memory):
            if store is not None:
                store.close()
        self.outbox = self.memory = None

    def disk(self) -> SqliteOutbox:
        """What the site has on disk, whether it is running or not."""
        if self.outbox is None:
            self.outbox = SqliteOutbox(self.folder)
        return self.outbox

    def _start(self) -> Session:
        self.outbox = outbox = SqliteOutbox(self.folder)
        link, secure = DirectLink(self.name, self.federation.service, self.faults, CHUNK_BYTES), self._secure()
        ports = SessionPorts(
            link=link,
            open_mailbox=self._open_mailbox,
            trainer=FingerprintTrainer(self.federation.manifest, self.name),
            outbox=outbox,
            clock=self.clock,
            pause=self.clock.advance,
            jitter=lambda: 0.5,
            stopping=lambda: False,
            observe=self.events.append,
            secure=secure,
            witness=self._witness(link, outbox, secure) if self.federation.audited else None,
        )
        self.session = Session(self.name, ports, SessionPolicy(give_up_seconds=1e9))
        return self.session

    def _secure(self) -> SecurePorts | None:
        if self.federation.manifest.secure is None:
            return None
        self.lives += 1
        entropy = seeded_entropy(self.name.encode(), str(self.lives).encode())
        return SecurePorts(signing_key(self.name), lambda: self.federation.keys.sites, FileMarks(self.folder), entropy)

    def _witness(self, link: DirectLink, outbox: SqliteOutbox, secure: SecurePorts | None) -> Witness:
        self.memory = SqliteWitnessStore(self.folder)

        def sent(ref: RoundRef, digest: Digest) -> bool:
            entry = outbox.find(ref)
            return digest in (entry and entry.header.sha256, secure and secure.marks.uploaded(ref))

        identity = WitnessIdentity(self.name, signing_key(self.name), lambda: self.federation.keys)
        return Witness(identity, WitnessPorts(link, self.memory, sent, self.folder, self.events.append))

    def _open_mailbox(self, stream: Any) -> PolledMailbox:
        self.federation.streams[self.name] = stream
        return PolledMailbox(stream, self.clock)

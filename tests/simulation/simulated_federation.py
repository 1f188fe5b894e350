"""A whole federation in one process, and schedules of faults to run it under; for the simulations beside it.

Real parts: CoordinatorService with its driver, SQLite journal, spool and model store; one Session a site with its SQLite outbox.
Replaced: the network (DirectLink), time (ManualClock, one for the coordinator and one for each site), and the student: site s
adds X at coordinate s and nothing elsewhere, so a published model shows who was counted, and how often.

A schedule is a list of steps: let a site do one thing; let the coordinator go on; lose the next request or reply of a site; cut its
next transfer; kill a site at its next request or reply; kill the coordinator; let time pass. A killed site comes back with a new
session on its old outbox, a killed coordinator with a new engine on its old state folder. After the schedule faults end and
everybody is let go on until the run is over.

What counts as failure:

* F1  a published model in which a site that holds a receipt for the published attempt is missing, or anybody counts twice;
* F2  a published model in which a site counts whose update the coordinator did not accept for that attempt;
* F3  a published model from fewer sites than the quorum;
* F4  a site that finishes the training of one round twice;
* F5  any exception out of a session or the driver other than the kills of the schedule;
* F6  a run that does not end once faults have ended;
* F7  a site that was given a receipt and does not have it on its disk;
* F8  where no time passed, so that no deadline did: a final model that is not, bit for bit, that of the undisturbed run;
* F9  with witnesses: an audit trail that does not hold in the end, or evidence at a site against a coordinator that is honest.

What does not: a run that fails because deadlines passed in all attempts of a round; an accepted update of an attempt that failed.
Nothing here is random but the schedule, which hypothesis prints and shrinks.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from coordinator.app import JOURNAL_FILE, MODELS_FOLDER, Engine, EngineParts, build_engine
from coordinator.audit.notary import Notary
from coordinator.audit.reading import read_trail
from coordinator.phases.phase import PhaseLimits
from coordinator.store.sqlite import SqliteJournal
from fed_node.events import Delivered, SessionEvent, Trained
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
from fedmentor.audit.review import Review, review
from fedmentor.errors import CoordinatorUnreachable
from fedmentor.federation import Finished, Outcome, RoundRef, RunManifest, TrainingPlan
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.models import ModelRecord, digest_of, load_model, save_model
from fedmentor.secagg.plan import plan_secure
from fedmentor.tensors import FloatVector, Spec, TensorSpec
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import DirectLink, LinkFaults
from fedmentor.testing.secagg import seeded_entropy

SITES = tuple(SiteId(name) for name in ("east", "north", "south", "west"))
X = np.float32(0.5)
QUORUM, ROUNDS, ATTEMPTS = 3, 2, 2
COLLECT_SECONDS, GRACE_SECONDS = 60.0, 10.0
START = {"vector": np.zeros(len(SITES), np.float32)}
CHUNK_BYTES = 8
"""Three chunks an update, so that a cut has somewhere to fall."""

STEP_SECONDS = 60.0
"""Of the short steps of secure aggregation."""


def signing_key(site: SiteId) -> Ed25519PrivateKey:
    """A site's key, the same in every run of these tests."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(site.encode()).digest())


COORDINATOR_KEY = signing_key(SiteId("coordinator"))
SIGNING_KEYS = {site: signing_key(site).public_key().public_bytes_raw() for site in SITES}

AUDIT_KEYS = AuditKeys("federation", COORDINATOR_KEY.public_key().public_bytes_raw(), SIGNING_KEYS)

HEALING_TURNS = 300
"""Far more than a run without faults takes (about 30)."""


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


class FingerprintTrainer:
    """Adds X at the site's own coordinate."""

    architecture = "fingerprint-v1"
    spec: Spec = (TensorSpec("vector", (len(SITES),)),)

    def __init__(self, index: int) -> None:
        self._index = index

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """See LocalTrainer."""
        return LocalScores(1, 1, float(np.clip(vector[self._index], 0, 1)), 0.5, float("nan"))

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        del plan, seed
        if should_stop():
            return None
        delta = np.zeros_like(vector)
        delta[self._index] = X
        return TrainedUpdate(delta, 1000, 0.0)


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
            trainer=FingerprintTrainer(SITES.index(self.name)),
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
        return SecurePorts(signing_key(self.name), lambda: SIGNING_KEYS, FileMarks(self.folder), entropy)

    def _witness(self, link: DirectLink, outbox: SqliteOutbox, secure: SecurePorts | None) -> Witness:
        self.memory = SqliteWitnessStore(self.folder)

        def sent(ref: RoundRef, digest: Digest) -> bool:
            entry = outbox.find(ref)
            return digest in (entry and entry.header.sha256, secure and secure.marks.uploaded(ref))

        identity = WitnessIdentity(self.name, signing_key(self.name), lambda: AUDIT_KEYS)
        return Witness(identity, WitnessPorts(link, self.memory, sent, self.folder, self.events.append))

    def _open_mailbox(self, stream: Any) -> PolledMailbox:
        self.federation.streams[self.name] = stream
        return PolledMailbox(stream, self.clock)


class Federation:
    """One coordinator and its sites in one folder; ``audited``: it signs its audit trail, and they are witnesses."""

    def __init__(self, folder: Path, *, secure: bool = False, audited: bool = False) -> None:
        self.audited = audited
        self._model, self.state = folder / "model", folder / "state"
        save_model(self._model, START, ModelRecord(architecture="fingerprint-v1", digest=digest_of(START)))
        self.state.mkdir()
        self.manifest = RunManifest(
            run=RunId("run"),
            roster=SITES,
            rounds=ROUNDS,
            quorum=QUORUM,
            architecture="fingerprint-v1",
            tensors=(("vector", (len(SITES),)),),
            initial_model=digest_of(START),
            collect_seconds=COLLECT_SECONDS,
            evaluate_seconds=COLLECT_SECONDS,
            max_attempts=ATTEMPTS,
            secure=plan_secure(SIGNING_KEYS, quorum=QUORUM, step_seconds=STEP_SECONDS) if secure else None,
        )
        self.entropy = os.urandom
        self.clock = ManualClock()
        self.streams: dict[SiteId, Any] = {}
        self.engine: Engine | None = None
        self.over = False
        self.sites = {name: Site(name, folder / name, self) for name in SITES}

    def service(self) -> Any:
        """What links speak to."""
        if self.engine is None:
            raise CoordinatorUnreachable("there is no coordinator at the moment")
        return self.engine.service

    def drive(self) -> None:
        """Let the coordinator go on until it waits; start it first, if it is not running."""
        if self.engine is None:
            journal = SqliteJournal(self.state / JOURNAL_FILE, self.clock)
            limits = PhaseLimits(gather_s=1e9, straggler_grace_s=GRACE_SECONDS, linger_s=1e9)
            notary = Notary(COORDINATOR_KEY, lambda: AUDIT_KEYS) if self.audited else None
            parts = EngineParts(self.state, journal, self.clock, limits, _ignore, notary, self.entropy)
            self.engine = build_engine(self.manifest, self._model, parts)
        wait_s: float | None = 0.0
        while wait_s == 0.0 and not self.over:
            wait_s = self.engine.driver.step()
            self.over = wait_s is None

    def kill_coordinator(self) -> None:
        """Lose everything that is not on disk; every stream breaks."""
        if self.engine is not None and not self.over:
            self.engine.service.close()
            self.engine.journal.close()
            self.engine = None

    def line_broke(self, site: SiteId) -> None:
        """The coordinator notices that a site's connection is gone."""
        stream = self.streams.pop(site, None)
        if stream is not None:
            stream.cancel()

    def pass_time(self, seconds: float) -> None:
        """For everybody."""
        for clock in (self.clock, *(site.clock for site in self.sites.values())):
            clock.advance(seconds)

    def heal(self) -> None:
        """End all faults and go on until everybody knows that the run is over (F6)."""
        for turn in range(HEALING_TURNS):
            self.drive()
            for site in self.sites.values():
                site.faults.aimed.clear()
                site.faults.cut_after_chunks = None
                site.turn()
            if all(site.finished for site in self.sites.values()):
                return
            if turn > HEALING_TURNS // 2:
                self.pass_time(COLLECT_SECONDS)
        pytest.fail("the run did not end after the faults had ended")

    def published(self) -> list[tuple[RoundRef, FloatVector]]:
        """What each published round added to the model, float32 [sites]."""
        assert self.engine is not None
        rounds = self.engine.journal.run_tx("read", lambda tx: tx.rounds())
        return [
            (RoundRef(self.manifest.run, one.round, one.attempt), self._vector(one.model) - self._vector(one.base_model))
            for one in rounds
        ]

    def accepted(self, ref: RoundRef) -> set[SiteId]:
        """Sites whose update the coordinator has on disk for an attempt."""
        assert self.engine is not None
        return {update.site for update in self.engine.journal.run_tx("read", lambda tx: tx.updates(ref.round, ref.attempt))}

    def final_model(self) -> Digest:
        """Digest of the last model."""
        assert self.engine is not None
        return self.engine.journal.run_tx("read", lambda tx: tx.state()).model

    def close(self) -> None:
        """Let go of all files."""
        for site in self.sites.values():
            site.close()
        if self.engine is not None:
            self.engine.journal.close()

    def _vector(self, model: Digest) -> FloatVector:
        return load_model(self.state / MODELS_FOLDER / model)[0]["vector"]


def _ignore(_event: object) -> None:
    pass


def apply(federation: Federation, step: tuple) -> None:
    """One step of a schedule."""
    match step:
        case ("site", name):
            federation.sites[name].turn()
        case ("drive",):
            federation.drive()
        case ("everybody",):
            federation.drive()
            for site in federation.sites.values():
                site.turn()
        case ("call", name, *aim):
            federation.sites[name].faults.aimed.add(tuple(aim))
        case ("cut", name, chunks):
            federation.sites[name].faults.cut_after_chunks = chunks
        case ("kill site", name):
            federation.sites[name].kill()
        case ("kill coordinator",):
            federation.kill_coordinator()
        case ("time", seconds):
            federation.pass_time(seconds)
        case _:
            raise AssertionError(step)


def check(federation: Federation) -> None:
    """F1 to F4 and F7, from what is on the disks."""
    for ref, added in federation.published():
        counted = {site for site, amount in zip(SITES, added, strict=True) if amount != 0}
        if federation.manifest.secure is not None and not counted:
            continue  # void: the sites had revealed, and what they revealed did not open the sum
        assert len(counted) >= QUORUM, f"F3: {ref} is from {sorted(counted)}"
        for site, amount in zip(SITES, added, strict=True):
            expected = X / len(counted) if site in counted else 0.0
            assert amount == pytest.approx(expected, abs=1e-6), f"F1: {site} counts {amount} in {ref}, expected {expected}"
        receipts = {
            name
            for name, site in federation.sites.items()
            if any(isinstance(event, Delivered) and event.round == ref for event in site.events)
        }
        assert receipts <= counted, f"F1: {sorted(receipts - counted)} hold receipts and are missing in {ref}"
        assert counted == federation.accepted(ref), f"F2: {ref}"
    for name, site in federation.sites.items():
        given = [event.round for event in site.events if isinstance(event, Delivered)]
        if given:
            assert site.disk().last_receipt(federation.manifest.run) == max(given), f"F7: {name}"
        trained = [event.round.round for event in site.events if isinstance(event, Trained)]
        assert len(trained) == len(set(trained)), f"F4: {name} trained rounds {trained}"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, on a fast disk where there is one."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def check_audit(federation: Federation) -> Review:
    """F9, from the journal and the sites' folders."""
    assert federation.engine is not None
    federation.engine.journal.close()
    federation.engine = None
    trail = read_trail(federation.state)
    found = review(trail, AUDIT_KEYS, [])
    assert found.fault is None, f"F9: {found.fault}"
    for site in federation.sites.values():
        assert not list(site.folder.glob("audit-evidence-*")), f"F9: {site.name}"
    return found


def play(schedule: list[tuple], *, secure: bool = False) -> tuple[set[Outcome], Digest]:
    """Run a schedule, heal, check; gives how the sites were told that it ended, and the last model."""
    with scratch() as folder:
        federation = Federation(folder, secure=secure)
        try:
            for step in schedule:
                apply(federation, step)
            federation.heal()
            check(federation)
            return {site.finished.outcome for site in federation.sites.values() if site.finished}, federation.final_model()
        finally:
            federation.close()


names = st.sampled_from(SITES)
MOVES = [st.tuples(st.just("site"), names), st.just(("drive",)), st.just(("everybody",)), st.just(("everybody",))]
CALLS = ("follow", "fetch_model", "report_scores", "send_update", "send_update")
FAULTS = [
    st.tuples(
        st.just("call"), names, st.sampled_from(["request", "reply"]), st.sampled_from(["lose", "kill"]), st.sampled_from(CALLS)
    ),
    st.tuples(st.just("cut"), names, st.integers(0, 2)),
    st.tuples(st.just("kill site"), names),
    st.just(("kill coordinator",)),
]
TIME = [st.tuples(st.just("time"), st.sampled_from([1.0, GRACE_SECONDS, COLLECT_SECONDS]))]
LENGTH = {"min_size": 20, "max_size": 60}
"""Hypothesis aims at twice the least length; an undisturbed run takes about 15 steps of everybody."""

EXAMPLES = os.environ.get("FEDMENTOR_SIMULATION_EXAMPLES")
"""How many schedules to try with fresh randomness; without it a few, the same ones every time."""

CAMPAIGN = settings(
    max_examples=int(EXAMPLES or 30),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
"""Where an fsync costs nothing; what survives the kill of a process is the same there."""

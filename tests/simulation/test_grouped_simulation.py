"""Secure aggregation in groups: sums stay inside a group, the median of the groups' means outvotes a malicious site."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.app import JOURNAL_FILE, MODELS_FOLDER, Engine, EngineParts, build_engine
from coordinator.phases.phase import PhaseLimits
from coordinator.store.sqlite import SqliteJournal
from fed_node.marks import MemoryMarks
from fed_node.outbox import MemoryOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.secure import SecurePorts
from fed_node.session import Session
from fed_node.testing import PolledMailbox
from fed_node.trainer import LocalScores, ShouldStop, TrainedUpdate
from fedmentor.federation import Outcome, RunManifest, TrainingPlan
from fedmentor.ids import RunId, SiteId
from fedmentor.models import ModelRecord, digest_of, load_model, save_model
from fedmentor.secagg.plan import plan_secure
from fedmentor.tensors import FloatVector, Spec, TensorSpec
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import DirectLink
from fedmentor.testing.secagg import seeded_entropy

VALUES = 5
START = {"vector": np.zeros(VALUES, np.float32)}
HONEST, MALICIOUS = np.float32(0.25), np.float32(-1.0)
STEP_SECONDS = 10.0
TURNS = 60


class ConstantTrainer:
    """Adds the same value at every coordinate."""

    architecture = "constant-v1"
    spec: Spec = (TensorSpec("vector", (VALUES,)),)

    def __init__(self, value: np.float32) -> None:
        self._value = value

    def evaluate(self, vector: FloatVector) -> LocalScores:
        """See LocalTrainer."""
        del vector
        return LocalScores(1, 1, 0.5, 0.5, float("nan"), 1)

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        del plan, seed, should_stop
        return TrainedUpdate(np.full_like(vector, self._value), 1000, 0.0)


class Crowd:
    """A coordinator and many sites in one process; the last sites of the roster may be malicious."""

    def __init__(self, folder: Path, sites: int, groups: int, malicious: tuple[str, ...] = ()) -> None:
        save_model(folder / "model", START, ModelRecord(architecture="constant-v1", digest=digest_of(START)))
        self.names = tuple(SiteId(f"site-{number:02d}") for number in range(sites))
        self._keys = {name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()) for name in self.names}
        self._public = {name: key.public_key().public_bytes_raw() for name, key in self._keys.items()}
        self.manifest = RunManifest(
            run=RunId("run"),
            roster=self.names,
            rounds=1,
            architecture="constant-v1",
            tensors=(("vector", (VALUES,)),),
            initial_model=digest_of(START),
            max_attempts=1,
            collect_seconds=STEP_SECONDS,
            evaluate_seconds=STEP_SECONDS,
            secure=plan_secure(self._public, groups=groups, step_seconds=STEP_SECONDS),
        )
        self.clock = ManualClock()
        self._state = folder / "state"
        self._state.mkdir()
        journal = SqliteJournal(self._state / JOURNAL_FILE, self.clock)
        limits = PhaseLimits(gather_s=1e9, straggler_grace_s=1.0, linger_s=1.0)
        parts = EngineParts(self._state, journal, self.clock, limits, lambda _: None)
        self.engine: Engine = build_engine(self.manifest, folder / "model", parts)
        self.links = {name: DirectLink(name, lambda: self.engine.service) for name in self.names}
        self.sessions = {name: self._session(name, MALICIOUS if name in malicious else HONEST) for name in self.names}

    def run(self, gone: frozenset[SiteId] = frozenset(), after: str = "") -> Outcome | None:
        """Let everybody take turns; sites of ``gone`` take none once the run is at the phase ``after``."""
        absent: frozenset[SiteId] = frozenset()
        for _ in range(TURNS):
            while self.engine.driver.step() == 0.0:
                pass
            state = self.engine.journal.run_tx("read", lambda tx: tx.state())
            absent = absent or (gone if state.phase.value == after else frozenset())
            for name, session in self.sessions.items():
                if name not in absent and session.step() is not None:
                    return state.outcome
            self.clock.advance(STEP_SECONDS / 5)
        return None

    def added(self) -> FloatVector:
        """What the run added to the model."""
        model = self.engine.journal.run_tx("read", lambda tx: tx.state()).model
        return load_model(self._state / MODELS_FOLDER / model)[0]["vector"]

    def _session(self, name: SiteId, value: np.float32) -> Session:
        secure = SecurePorts(self._keys[name], lambda: self._public, MemoryMarks(), seeded_entropy(name.encode()))
        ports = SessionPorts(
            link=self.links[name],
            open_mailbox=lambda stream: PolledMailbox(stream, self.clock),
            trainer=ConstantTrainer(value),
            outbox=MemoryOutbox(),
            clock=self.clock,
            pause=lambda _: None,
            jitter=lambda: 0.5,
            stopping=lambda: False,
            observe=lambda _: None,
            secure=secure,
        )
        return Session(name, ports, SessionPolicy(give_up_seconds=1e9))


@contextmanager
def crowd(folder: Path, sites: int, groups: int, malicious: tuple[str, ...] = ()) -> Iterator[Crowd]:
    made = Crowd(folder, sites, groups, malicious)
    try:
        yield made
    finally:
        made.engine.journal.close()


@pytest.mark.parametrize(("sites", "groups"), [(12, 3), (13, 3), (16, 4)])
def test_groups_make_the_model_that_everybody_agrees_on(tmp_path: Path, sites: int, groups: int):
    with crowd(tmp_path, sites, groups) as made:
        assert made.run() is Outcome.COMPLETED
        np.testing.assert_allclose(made.added(), HONEST, atol=1e-6)


def test_a_malicious_site_costs_one_group_and_not_the_model(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "grouped").mkdir()
    with crowd(tmp_path / "one", 12, 1, ("site-05",)) as single:
        assert single.run() is Outcome.COMPLETED
        np.testing.assert_allclose(single.added(), (11 * HONEST + MALICIOUS) / 12, atol=1e-6)
    with crowd(tmp_path / "grouped", 12, 3, ("site-05",)) as grouped:
        assert grouped.run() is Outcome.COMPLETED
        np.testing.assert_allclose(grouped.added(), HONEST, atol=1e-6)


@pytest.mark.parametrize("after", ["share", "collect", "consent", "reveal"])
def test_a_group_that_is_lost_leaves_the_others(tmp_path: Path, after: str):
    with crowd(tmp_path, 16, 4) as made:
        gone = frozenset(made.manifest.groups[1].sites[:2])  # of four sites one may be lost
        for site in gone:
            assert made.manifest.group_of(site).name == "group-2"
        assert made.run(gone, after) is Outcome.COMPLETED
        np.testing.assert_allclose(made.added(), HONEST, atol=1e-6)


def test_two_groups_of_three_make_no_model(tmp_path: Path):
    with crowd(tmp_path, 12, 3) as made:
        gone = frozenset(made.manifest.groups[0].sites[:2])
        assert made.run(gone, "collect") is Outcome.FAILED
        np.testing.assert_array_equal(made.added(), START["vector"])


def test_no_message_of_a_group_goes_to_another(tmp_path: Path):
    with crowd(tmp_path, 12, 3) as made:
        groups = made.manifest.groups
        assert sorted(site for group in groups for site in group.sites) == list(made.names)
        assert len({group.terms.digest for group in groups}) == 3, "contexts of two groups never agree"
        assert [len(group.sites) for group in groups] == [4, 4, 4]

"""A session, and a coordinator that plays a script to it; for the tests of the session beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fed_node.events import SessionEvent
from fed_node.outbox import MemoryOutbox, OutboxEntry
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.rules import PlanLimits
from fed_node.session import Session
from fed_node.testing import PolledMailbox, QuadraticTrainer
from fed_node.trainer import ShouldStop, TrainedUpdate
from fedmentor.errors import CoordinatorUnreachable, FedMentorError
from fedmentor.federation import Directive, Finished, ModelRef, Outcome, RoundRef, RunManifest, Train, TrainingPlan
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.secagg.ring import quantise
from fedmentor.tensors import FloatVector, model_digest, vector_bytes
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import ScriptedLink

SITE = SiteId("north")
TARGET = np.array([0.5, -0.25, 0.125], np.float32)
START = np.zeros(3, np.float32)
NEXT = np.array([0.1, 0.0, 0.0], np.float32)
SPEC = QuadraticTrainer(TARGET).spec
ROSTER = (SITE, SiteId("south"), SiteId("west"))
DONE = Finished(Outcome.COMPLETED, "all rounds are published")
AWAY = CoordinatorUnreachable("connection refused")


def digest_of(vector: FloatVector) -> Digest:
    """Of a model with these values."""
    return model_digest(vector, SPEC)


MANIFEST = RunManifest(
    run=RunId("run"),
    roster=ROSTER,
    rounds=2,
    architecture="quadratic-v1",
    tensors=tuple((tensor.name, tensor.shape) for tensor in SPEC),
    initial_model=digest_of(START),
    training=TrainingPlan(local_epochs=2, learning_rate=0.5),
)


def ref(number: int = 0, attempt: int = 1, run: str = "run") -> RoundRef:
    """A round of the run."""
    return RoundRef(RunId(run), Round(number), Attempt(attempt))


def train(number: int = 0, attempt: int = 1, vector: FloatVector = START, deadline_s: float = 60.0) -> Train:
    """The order to train."""
    return Train(ref(number, attempt), ModelRef(digest_of(vector), 12), deadline_s)


class SlowTrainer(QuadraticTrainer):
    """Before every step something happens outside, e.g. time passes."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__(TARGET)
        self._meanwhile = meanwhile
        self.before_evaluation: Callable[[], None] = lambda: None
        self.evaluations = 0
        self.seeds: list[int] = []

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        self.seeds.append(seed)

        def step() -> bool:
            self._meanwhile()
            return should_stop()

        return super().train(vector, plan, seed, step)

    def evaluate(self, vector: FloatVector):
        """See LocalTrainer."""
        self.evaluations += 1
        self.before_evaluation()
        return super().evaluate(vector)


class QuietMailbox(PolledMailbox):
    """The coordinator says the next thing only when it is listened to."""

    def peek(self) -> None:
        """Nothing, until somebody takes."""


@dataclass
class Bench:
    """One session with everything around it.

    A script is what the coordinator says on one stream: each line when the session comes back to listen, or, with ``hurried``,
    all of it at once.
    """

    scripts: Sequence[Sequence[Directive | FedMentorError]] = ()
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    limits: PlanLimits = field(default_factory=PlanLimits)
    stop: bool = False
    hurried: bool = False

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.events: list[SessionEvent] = []
        self.pauses: list[float] = []
        self.during: Callable[[], None] = lambda: None
        self.trainer = SlowTrainer(self._step)
        models = {digest_of(vector): vector_bytes(vector) for vector in (START, NEXT)}
        self.link = ScriptedLink(SITE, models, self.scripts)

    def _step(self) -> None:
        self.during()

    def session(self) -> Session:
        """A node that was just started."""
        ports = SessionPorts(
            link=self.link,
            open_mailbox=lambda stream: (PolledMailbox if self.hurried else QuietMailbox)(stream, self.clock),
            trainer=self.trainer,
            outbox=self.outbox,
            clock=self.clock,
            pause=self.pause,
            jitter=lambda: 0.5,
            stopping=lambda: self.stop,
            observe=self.events.append,
        )
        return Session(SITE, ports, SessionPolicy(self.limits, give_up_seconds=20, first_retry_seconds=1, longest_retry_seconds=8))

    def pause(self, seconds: float) -> None:
        """Let time pass at once."""
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    def run(self) -> Finished | None:
        """Start a node and let it run."""
        return self.session().run()

    def of(self, kind: type) -> list:
        """Events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def entry(self, number: int = 0) -> OutboxEntry:
        """What the outbox has of a round."""
        entry = self.outbox.find(ref(number))
        assert entry is not None
        return entry


def words_of(target: FloatVector, base: FloatVector, plan: TrainingPlan = MANIFEST.training) -> bytes:
    """What the site must send: the update made by hand."""
    update = QuadraticTrainer(target).train(base, plan, 0, lambda: False)
    assert update is not None
    return quantise(update.delta, update.examples, MANIFEST.ring).astype("<u4").tobytes()

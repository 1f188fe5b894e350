"""The session against a coordinator that plays a script: what it does, refuses, repeats and keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from fed_node.events import Delivered, LinkLost, Scored, SessionEvent, Skipped, Trained, Waiting
from fed_node.outbox import MemoryOutbox, OutboxEntry, UpdateStage
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.rules import PlanLimits
from fed_node.session import Session
from fed_node.testing import PolledMailbox, QuadraticTrainer
from fed_node.trainer import Interrupted, LocalScores, ShouldStop, TrainedUpdate, local_seed
from fedmentor.errors import (
    CoordinatorUnreachable,
    DigestMismatch,
    FedMentorError,
    IdentityRefused,
    PolicyRefusal,
    RoundClosed,
    UpdateConflict,
    UpdateRejected,
    WrongArchitecture,
)
from fedmentor.federation import (
    Directive,
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    Outcome,
    Receipt,
    RoundRef,
    RunManifest,
    Scores,
    Train,
    TrainingPlan,
    UpdateHeader,
    Wait,
)
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.secagg.ring import quantise, weighted_mean
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
    return RoundRef(RunId(run), Round(number), Attempt(attempt))


def train(number: int = 0, attempt: int = 1, vector: FloatVector = START, deadline_s: float = 60.0) -> Train:
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


def test_a_whole_run():
    last = Evaluate(ref(2), ModelRef(digest_of(NEXT), 12), 60.0)
    bench = Bench([[Manifest(MANIFEST), train(), Wait("others train"), train(1, vector=NEXT), last, DONE]])
    assert bench.run() == DONE
    assert [header.round for header, _ in bench.link.sent] == [ref(0), ref(1)]
    assert [words for _, words in bench.link.sent] == [words_of(TARGET, START), words_of(TARGET, NEXT)]
    header = bench.link.sent[0][0]
    assert (header.base_model, header.size_bytes) == (digest_of(START), 16)
    assert [(scores.round, scores.model) for scores in bench.link.scores] == [
        (ref(0), digest_of(START)),
        (ref(1), digest_of(NEXT)),
        (ref(2), digest_of(NEXT)),
    ]
    assert [type(event).__name__ for event in bench.events] == [
        "Joined", "Scored", "Trained", "Delivered", "Waiting", "Scored", "Trained", "Delivered", "Scored", "RunOver",
    ]  # fmt: skip
    assert bench.of(Delivered)[0] == Delivered(ref(0), bytes_down=12, bytes_up=16, seconds=0.0, again=False)
    assert bench.entry(1).words == b"", "nothing derived from patients stays when the run is over"


class EndingLink(ScriptedLink):
    """To a coordinator that has told everybody, and is gone."""

    def report_scores(self, scores: Scores) -> None:
        """See CoordinatorLink."""
        raise CoordinatorUnreachable(f"nobody takes the scores of {scores.round}")


def test_a_coordinator_that_said_the_run_is_over_and_left_is_not_looked_for():
    last = Evaluate(ref(2), ModelRef(digest_of(NEXT), 12), 60.0)
    bench = Bench(hurried=True)
    bench.link = EndingLink(SITE, {digest_of(NEXT): vector_bytes(NEXT)}, [[Manifest(MANIFEST), last, DONE]])
    assert bench.run() == DONE
    assert bench.pauses == []
    assert bench.of(LinkLost) == []


def test_what_is_sent_decodes_to_what_was_trained():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])
    bench.run()
    decoded = weighted_mean(np.frombuffer(bench.link.sent[0][1], "<u4"))
    assert decoded == pytest.approx(0.75 * TARGET, abs=2.0**-16), "weight 10 of 1000 costs seven of the 24 fraction bits"


def test_the_seed_is_that_of_run_site_and_round_whatever_the_attempt():
    bench = Bench([[Manifest(MANIFEST), train(deadline_s=-1), train(attempt=2), train(1, vector=NEXT), DONE]])
    bench.run()
    first, second = local_seed(0, SITE, Round(0)), local_seed(0, SITE, Round(1))
    assert bench.trainer.seeds == [first, first, second]
    assert len({first, second, local_seed(1, SITE, Round(0)), local_seed(0, SiteId("south"), Round(0))}) == 4


# Never twice.


def test_a_lost_reply_is_repaired_from_the_outbox_before_anything_else():
    bench = Bench([[Manifest(MANIFEST), train()], [Manifest(MANIFEST), train(), DONE]])
    bench.link.refusals[ref()] = [AWAY]
    assert bench.run() == DONE
    assert bench.trainer.trainings == 1
    assert bench.link.sent[0] == bench.link.sent[1], "the same bytes under the same header"
    assert len(bench.link.sent) == 2, "the directive that is still in force asks for nothing more"
    assert [event.again for event in bench.of(Delivered)] == [True]


def test_a_restarted_site_sends_what_it_has_and_does_not_train_again():
    bench = Bench([[Manifest(MANIFEST), train()]])
    bench.link.refusals[ref()] = [AWAY] * 100
    with pytest.raises(CoordinatorUnreachable):
        bench.run()
    restarted = Bench([[Manifest(MANIFEST), train(), DONE]], outbox=bench.outbox)
    assert restarted.run() == DONE
    assert restarted.trainer.trainings == 0
    assert restarted.link.sent == [bench.link.sent[0]]


def test_the_outbox_is_emptied_before_the_coordinator_says_anything():
    bench = Bench([[Manifest(MANIFEST), train()], [DONE]])
    bench.link.refusals[ref()] = [AWAY]
    assert bench.run() == DONE
    assert bench.entry().stage is UpdateStage.RECEIPTED


def test_another_attempt_gets_the_same_bytes_under_its_own_number():
    bench = Bench([[Manifest(MANIFEST), train(), train(attempt=2), DONE]])
    assert bench.run() == DONE
    (first, first_words), (second, second_words) = bench.link.sent
    assert (second, second_words) == (replace(first, round=ref(attempt=2)), first_words)
    assert bench.trainer.trainings == 1
    assert bench.outbox.last_receipt(MANIFEST.run) == ref(attempt=2)


def test_an_update_that_came_too_late_is_kept_as_dropped_and_used_by_the_next_attempt():
    bench = Bench([[Manifest(MANIFEST), train(), Wait("aggregating"), train(attempt=2), DONE]])
    bench.link.refusals[ref()] = [RoundClosed("round 0 is closed")]
    session = bench.session()
    while not bench.of(Waiting):
        session.step()
    assert (bench.entry().stage, bench.entry().reason) == (UpdateStage.DROPPED, "round 0 is closed")
    assert bench.of(Skipped) == [Skipped(ref(), "round 0 is closed")]
    assert session.run() == DONE
    assert bench.trainer.trainings == 1
    assert bench.entry().stage is UpdateStage.RECEIPTED


def test_a_rejected_update_is_dropped_and_the_site_stays():
    bench = Bench([[Manifest(MANIFEST), train(), train(1, vector=NEXT), DONE]])
    bench.link.refusals[ref()] = [UpdateRejected("a word is over the clip")]
    assert bench.run() == DONE
    assert bench.entry(0).stage is UpdateStage.DROPPED
    assert bench.entry(1).stage is UpdateStage.RECEIPTED


def test_a_conflict_means_a_second_node_and_ends_this_one():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])
    bench.link.refusals[ref()] = [UpdateConflict("another update is accepted")]
    with pytest.raises(UpdateConflict):
        bench.run()


def test_a_model_is_scored_once_however_often_its_round_is_tried():
    bench = Bench([[Manifest(MANIFEST), train(deadline_s=-1), train(attempt=2), DONE]])
    bench.run()
    assert bench.trainer.evaluations == 1
    assert [scores.round for scores in bench.link.scores] == [ref(attempt=1), ref(attempt=2)]


# Stopping.


def test_training_stops_at_the_deadline_and_says_so():
    bench = Bench([[Manifest(MANIFEST), train(deadline_s=60), DONE]])
    bench.during = lambda: bench.clock.advance(40)
    assert bench.run() == DONE
    assert bench.link.sent == []
    assert bench.of(Skipped) == [Skipped(ref(), "the round's deadline passed before training was done")]
    assert bench.outbox.find(ref()) is None


@pytest.mark.parametrize(
    ("newer", "reason"),
    [
        (train(1, vector=NEXT), "the coordinator went on to round 1"),
        (DONE, "the run is over"),
    ],
)
def test_training_stops_when_nobody_waits_for_it_any_more(newer: Directive, reason: str):
    bench = Bench([[Manifest(MANIFEST), train(), newer, DONE]], hurried=True)
    assert bench.run() == DONE
    assert bench.of(Skipped)[0] == Skipped(ref(), reason)
    assert ref() not in [header.round for header, _ in bench.link.sent]


@pytest.mark.parametrize("newer", [train(attempt=2), Wait("others train"), AWAY])
def test_training_goes_on_when_its_result_is_still_wanted(newer: Directive | FedMentorError):
    bench = Bench([[Manifest(MANIFEST), train(), newer], [Manifest(MANIFEST), DONE]], hurried=True)
    assert bench.run() == DONE
    assert bench.trainer.trainings == 1
    assert bench.link.sent[0][1] == words_of(TARGET, START)


def test_a_stopping_node_leaves_its_outbox_and_no_half_trained_update():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])

    def stop() -> None:
        bench.stop = True

    bench.during = stop
    assert bench.run() is None
    assert bench.of(Skipped) == [Skipped(ref(), "this node is stopping")]
    assert bench.link.sent == []


def test_a_node_that_is_stopped_while_it_scores_ends_without_a_word_to_the_coordinator():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])

    def interrupted(_vector: FloatVector) -> LocalScores:
        raise Interrupted

    bench.trainer.evaluate = interrupted  # type: ignore[method-assign] # this bench's own twin
    assert bench.run() is None
    assert (bench.of(Skipped), bench.of(LinkLost), bench.link.sent) == ([], [], [])


class Diverging(QuadraticTrainer):
    """Its first training ends in NaN."""

    def train(self, vector: FloatVector, plan: TrainingPlan, seed: int, should_stop: ShouldStop) -> TrainedUpdate | None:
        """See LocalTrainer."""
        update = super().train(vector, plan, seed, should_stop)
        return replace(update, delta=update.delta * np.float32("nan")) if update and self.trainings == 1 else update


def test_a_training_that_diverged_is_skipped_and_the_site_stays():
    bench = Bench([[Manifest(MANIFEST), train(), train(1, vector=NEXT), DONE]])
    bench.trainer = Diverging(TARGET)
    assert bench.run() == DONE
    assert bench.of(Skipped) == [Skipped(ref(0), "the update has values that are not finite")]
    assert [header.round for header, _ in bench.link.sent] == [ref(1)]
    assert bench.outbox.find(ref(0)) is None


# Refusals.


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"roster": (SiteId("east"), SiteId("south"), SiteId("west"))}, PolicyRefusal, "not on the roster"),
        ({"architecture": "sm-lite-v9"}, WrongArchitecture, "sm-lite-v9"),
        ({"tensors": (("vector", (4,)),)}, WrongArchitecture, "another version"),
        ({"rounds": 11}, PolicyRefusal, "rounds = 11"),
        ({"training": TrainingPlan(local_epochs=6)}, PolicyRefusal, "local_epochs = 6"),
        ({"quorum": 1}, PolicyRefusal, "at least 2"),
    ],
)
def test_a_manifest_that_this_site_does_not_accept(change: dict, error: type[FedMentorError], match: str):
    bench = Bench([[Manifest(MANIFEST.model_copy(update=change))]], limits=PlanLimits(rounds=10, local_epochs=5, quorum=2))
    with pytest.raises(error, match=match):
        bench.run()
    bench.outbox.pin(MANIFEST)  # nothing was pinned


def test_other_rules_for_a_pinned_run_are_refused():
    changed = MANIFEST.model_copy(update={"clip_norm": 1e6})
    bench = Bench([[Manifest(MANIFEST), AWAY], [Manifest(changed), train(), DONE]])
    with pytest.raises(PolicyRefusal, match="other rules"):
        bench.run()
    assert bench.link.sent == []


def big(directive: Train) -> Train:
    return replace(directive, model=ModelRef(directive.model.digest, 1 << 40))


@pytest.mark.parametrize(
    ("script", "match"),
    [
        ([train()], "before the run's manifest"),
        ([Manifest(MANIFEST), replace(train(), round=ref(run="other"))], "directs run 'other'"),
        ([Manifest(MANIFEST), train(2)], "not one of the 2 rounds"),
        ([Manifest(MANIFEST), big(train())], "1099511627776 bytes"),
        ([Manifest(MANIFEST), train(vector=NEXT)], "another start model"),
        ([Manifest(MANIFEST), train(1, vector=NEXT), train(0)], "holds a receipt for round 1"),
        ([Manifest(MANIFEST), train(1, 2, vector=NEXT), train(1, 1, vector=NEXT)], "attempt 2"),
        ([Manifest(MANIFEST), train(1, vector=NEXT), train(1, 2, vector=START)], "already trained here from another model"),
    ],
)
def test_directives_that_are_refused(script: list[Directive], match: str):
    bench = Bench([script])
    with pytest.raises(PolicyRefusal, match=match):
        bench.run()


def test_a_model_that_is_not_the_one_that_was_named_is_not_trained_from():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])
    bench.link._models = {digest_of(START): vector_bytes(NEXT)}
    with pytest.raises(DigestMismatch):
        bench.run()
    assert (bench.link.scores, bench.link.sent) == ([], [])


class ForgedReceipts(ScriptedLink):
    """Confirms something else than what it was sent."""

    def send_update(self, header: UpdateHeader, words: bytes) -> Receipt:
        """See CoordinatorLink."""
        return replace(super().send_update(header, words), sha256=Digest("f" * 64))


def test_a_receipt_for_something_else_is_refused_and_the_update_stays():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])
    bench.link = ForgedReceipts(SITE, bench.link._models, bench.scripts)
    with pytest.raises(PolicyRefusal, match="not for the update"):
        bench.run()
    assert bench.entry().stage is UpdateStage.READY


def test_an_identity_that_is_refused_is_not_tried_again():
    bench = Bench([[IdentityRefused("not on the roster")], [Manifest(MANIFEST), DONE]])
    with pytest.raises(IdentityRefused):
        bench.run()
    assert bench.pauses == []


# The line breaks.


def test_backoff_doubles_up_to_its_bound_and_starts_again_after_contact():
    bench = Bench([[AWAY], [AWAY], [AWAY], [Manifest(MANIFEST), Wait("others train"), AWAY], [DONE]])
    assert bench.run() == DONE
    assert bench.pauses == [0.75, 1.5, 3.0, 0.75]
    assert [lost.retry_seconds for lost in bench.of(LinkLost)] == bench.pauses


def test_a_coordinator_that_stays_away_ends_the_node():
    bench = Bench([])
    with pytest.raises(CoordinatorUnreachable, match="has not answered for"):
        bench.run()
    assert 20 <= bench.clock.monotonic_s() <= 28
    assert max(bench.pauses) == 6.0, "8 s at most, half of it random"


class Deaf(ScriptedLink):
    """Says for ever what to do, and does nothing itself: every transfer breaks."""

    streams = 0

    def follow(self):
        """See CoordinatorLink."""
        self.streams += 1
        assert self.streams < 100, "the site would go on for ever"
        self._scripts = [[Manifest(MANIFEST), train()]]
        return super().follow()

    def fetch_model(self, model: ModelRef) -> bytes:
        """See CoordinatorLink."""
        raise CoordinatorUnreachable(f"the transfer of {model.digest[:8]} broke")


def test_a_coordinator_that_only_talks_is_away():
    bench = Bench()
    bench.link = Deaf(SITE, {}, [])
    with pytest.raises(CoordinatorUnreachable, match="has not answered for"):
        bench.run()
    assert bench.pauses == [0.75, 1.5, 3.0, 6.0, 6.0, 6.0]


class Forgetful(ScriptedLink):
    """Loses the first scores."""

    def report_scores(self, scores: Scores) -> None:
        """See CoordinatorLink."""
        super().report_scores(scores)
        if len(self.scores) == 1:
            raise AWAY


@pytest.mark.parametrize("slow", ["evaluation", "training"])
def test_long_work_after_a_break_is_not_the_coordinators_absence(slow: str):
    orders = [Manifest(MANIFEST), train(deadline_s=3600), DONE]
    bench = Bench([[AWAY], orders, orders, orders])
    bench.link = Forgetful(SITE, bench.link._models, bench.scripts)

    def long() -> None:
        bench.clock.advance(30)

    if slow == "training":
        bench.during = long
        bench.link.refusals[ref()] = [AWAY]
    else:
        bench.trainer.before_evaluation = long
    assert bench.run() == DONE
    assert bench.entry().stage is UpdateStage.RECEIPTED


def test_a_node_whose_place_was_taken_ends_and_leaves_the_line_to_the_other():
    taken = PolicyRefusal("another node opened the stream of this site")
    bench = Bench([[Manifest(MANIFEST), Wait("others train"), taken], [Manifest(MANIFEST), DONE]])
    with pytest.raises(PolicyRefusal, match="another node"):
        bench.run()
    assert bench.pauses == []


def test_training_goes_on_while_the_line_is_down():
    bench = Bench([[Manifest(MANIFEST), train(), AWAY], [Manifest(MANIFEST), train(), DONE]])
    bench.link.refusals[ref()] = [AWAY]
    assert bench.run() == DONE
    assert bench.trainer.trainings == 1
    assert len(bench.of(Trained)) == len(bench.of(Scored)) == 1

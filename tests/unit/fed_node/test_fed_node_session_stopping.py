"""The session lets go: deadlines, rounds that are over, nodes that are stopped, trainings that diverge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scripted_session import AWAY, DONE, MANIFEST, NEXT, START, TARGET, Bench, ref, train, words_of

from fed_node.events import LinkLost, Skipped
from fed_node.testing import QuadraticTrainer
from fed_node.trainer import Interrupted, LocalScores, ShouldStop, TrainedUpdate
from fedmentor.errors import FedMentorError
from fedmentor.federation import Directive, Manifest, TrainingPlan, Wait
from fedmentor.tensors import FloatVector


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

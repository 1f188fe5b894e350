"""The session and its line: it backs off, comes back, works on meanwhile, and gives up in the end."""

from __future__ import annotations

import pytest
from scripted_session import AWAY, DONE, MANIFEST, SITE, Bench, ref, train

from fed_node.events import LinkLost, Scored, Trained
from fed_node.outbox import UpdateStage
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal
from fedmentor.federation import Manifest, ModelRef, Scores, Wait
from fedmentor.testing.link import ScriptedLink


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

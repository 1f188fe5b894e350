"""The session against a coordinator that plays a script: a whole run, and nothing done or sent twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from scripted_session import AWAY, DONE, MANIFEST, NEXT, SITE, START, TARGET, Bench, digest_of, ref, train, words_of

from fed_node.events import ClockDiffers, Delivered, LinkLost, Skipped, Waiting
from fed_node.outbox import UpdateStage
from fed_node.trainer import local_seed
from fedmentor.errors import CoordinatorUnreachable, RoundClosed, UpdateConflict, UpdateRejected
from fedmentor.federation import Evaluate, Manifest, ModelRef, Scores, Wait
from fedmentor.ids import Round, SiteId
from fedmentor.secagg.ring import weighted_mean
from fedmentor.tensors import vector_bytes
from fedmentor.testing.link import ScriptedLink


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


@pytest.mark.parametrize(("off", "told"), [(299, []), (-299, []), (3600, [3600.0]), (-3600, [-3600.0])])
def test_a_clock_that_is_wrong_is_told_once_and_keeps_nobody_from_taking_part(off, told):
    bench = Bench([[Manifest(MANIFEST), AWAY], [Manifest(MANIFEST), train(), DONE]])
    bench.link.time = bench.clock.now() - timedelta(seconds=off)
    assert bench.run() == DONE
    assert [event.ahead_s for event in bench.of(ClockDiffers)] == told


def test_a_model_is_scored_once_however_often_its_round_is_tried():
    bench = Bench([[Manifest(MANIFEST), train(deadline_s=-1), train(attempt=2), DONE]])
    bench.run()
    assert bench.trainer.evaluations == 1
    assert [(scores.round, scores.hd95_undefined) for scores in bench.link.scores] == [(ref(attempt=1), 1), (ref(attempt=2), 1)]

"""Presence, elapsed time, traffic and directives: what the driver and the sites look at."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from coordinator.directives import directive_for, same_order
from coordinator.presence import Presence
from coordinator.progress import Moment, Progress, TrafficMeter
from coordinator.state import PhaseName, RunState, SiteScores, Traffic
from coordinator.store.memory import MemoryJournal
from coordinator.testing import PARAMETERS, toy_manifest
from fedmentor.federation import Evaluate, Finished, ModelRef, Outcome, RoundRef, Train, Wait
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.testing.clock import ManualClock

DIGEST = Digest("1" * 64)
MANIFEST = toy_manifest(DIGEST)
STATE = RunState(PhaseName.COLLECT, Round(1), Attempt(2), DIGEST, phase_elapsed_s=10.0, round_elapsed_s=20.0)
A, B = SiteId("a"), SiteId("b")
MODEL = ModelRef(DIGEST, 4 * PARAMETERS)
REF = RoundRef(RunId("toy-run"), Round(1), Attempt(2))


def _moment(phase, **changes):
    return Moment(replace(STATE, phase=phase, **changes), 10.0, 20.0, frozenset({A}), frozenset({A}))


def test_absence_counts_from_the_last_sight():
    clock = ManualClock()
    presence = Presence([A, B], clock)
    clock.advance(5)
    presence.arrive(A)
    assert presence.absence_s() == {B: 5.0}
    clock.advance(5)
    presence.leave(A)
    presence.leave(A)
    clock.advance(2)
    assert presence.absence_s() == {A: 2.0, B: 12.0}
    presence.tell(B)
    assert presence.told == {B}


def test_a_refusal_holds_for_its_attempt_only():
    presence = Presence([A, B], ManualClock())
    presence.refuse(A, REF)
    assert presence.refused(REF) == {A}
    assert presence.refused(replace(REF, attempt=Attempt(3))) == frozenset()


def test_time_goes_on_from_what_the_journal_says_and_ignores_the_wall_clock():
    clock = ManualClock()
    journal = MemoryJournal(clock)
    journal.run_tx("begin", lambda tx: tx.put_state(STATE))
    progress = Progress(journal, clock)
    clock.advance(3)
    clock.set_now(clock.now().replace(year=1999))
    moment = progress.now()
    assert (moment.phase_elapsed_s, moment.round_elapsed_s) == (13.0, 23.0)
    assert progress.refresh() == moment
    journal.run_tx("move", lambda tx: tx.put_state(replace(STATE, phase=PhaseName.AGGREGATE, phase_elapsed_s=0.0)))
    assert progress.refresh().phase_elapsed_s == 0.0
    clock.advance(1)
    assert progress.now().phase_elapsed_s == 1.0


class _HeldJournal(MemoryJournal):
    """Reads that wait until they are let go, once ``hold`` is set."""

    def __init__(self, clock):
        super().__init__(clock)
        self.hold = False
        self.reading, self.go = threading.Event(), threading.Event()

    def run_tx(self, name, fn):
        if self.hold:
            self.reading.set()
            assert self.go.wait(20)
        return super().run_tx(name, fn)


def test_a_look_at_the_moment_does_not_wait_for_the_disk():
    journal = _HeldJournal(ManualClock())
    journal.run_tx("begin", lambda tx: tx.put_state(STATE))
    progress = Progress(journal, ManualClock())
    journal.hold = True
    reader = threading.Thread(target=progress.refresh)
    reader.start()
    assert journal.reading.wait(20)
    with ThreadPoolExecutor(1) as pool:
        looked = pool.submit(progress.now)
        try:
            assert looked.result(20).state == STATE
        finally:
            journal.go.set()
            reader.join()


def test_a_look_reads_the_scores_of_one_round_only():
    class OneRound(MemoryJournal):
        def run_tx(self, name, fn):
            def checked(tx):
                scores = tx.scores

                def of_one_round(round_):
                    return scores(round_)

                tx.scores = of_one_round
                return fn(tx)

            return super().run_tx(name, checked)

    journal = OneRound(ManualClock())
    journal.run_tx("begin", lambda tx: tx.put_state(STATE))
    scores = [SiteScores(A, Round(round_), DIGEST, 1, 1, 0.5, 0.5, None) for round_ in (0, 1)]
    journal.run_tx("score", lambda tx: tx.put_scores(scores[0]))
    assert Progress(journal, ManualClock()).now().scored == frozenset()
    journal.run_tx("score", lambda tx: tx.put_scores(scores[1]))
    assert Progress(journal, ManualClock()).now().scored == {A}


def test_traffic_is_drained_once():
    meter = TrafficMeter()
    meter.add(Round(0), A, up=3)
    meter.add(Round(0), A, up=4, down=5)
    assert meter.drain() == (Traffic(Round(0), A, 7, 5),)
    assert meter.drain() == ()


def test_collect_asks_those_who_have_not_delivered():
    assert directive_for(MANIFEST, _moment(PhaseName.COLLECT), B) == Train(REF, MODEL, 50.0)
    assert isinstance(directive_for(MANIFEST, _moment(PhaseName.COLLECT), A), Wait)


def test_evaluate_asks_those_who_have_not_scored():
    assert directive_for(MANIFEST, _moment(PhaseName.EVALUATE), B) == Evaluate(REF, MODEL, 20.0)
    assert isinstance(directive_for(MANIFEST, _moment(PhaseName.EVALUATE), A), Wait)


@pytest.mark.parametrize("phase", [PhaseName.IDLE, PhaseName.OPEN, PhaseName.AGGREGATE, PhaseName.PUBLISH, PhaseName.FAILURE])
def test_other_phases_let_everybody_wait(phase):
    assert isinstance(directive_for(MANIFEST, _moment(phase), B), Wait)


def test_shutdown_says_how_it_ended():
    failed = _moment(PhaseName.SHUTDOWN, outcome=Outcome.FAILED, reason="too few")
    assert directive_for(MANIFEST, failed, A) == Finished(Outcome.FAILED, "too few")
    completed = _moment(PhaseName.SHUTDOWN, outcome=Outcome.COMPLETED)
    assert directive_for(MANIFEST, completed, A) == Finished(Outcome.COMPLETED, "all rounds are done")


def test_only_the_remaining_time_may_differ():
    train = Train(REF, MODEL, 50.0)
    assert same_order(train, replace(train, deadline_s=1.0))
    assert not same_order(train, replace(train, round=replace(REF, attempt=Attempt(3))))
    assert not same_order(None, train)
    assert not same_order(Wait("x"), Wait("y"))

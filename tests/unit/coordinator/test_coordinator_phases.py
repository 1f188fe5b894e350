"""A whole run, how it waits for its sites, and how it ends: idle, evaluate, shutdown, and each bound that fails them."""

from phased_federation import audit_of, evaluating

from coordinator.events import PhaseEntered
from coordinator.phases.driver import PHASES
from coordinator.state import PhaseName
from fedmentor.audit import verify
from fedmentor.federation import Outcome
from fedmentor.models import load_model


def test_every_phase_has_its_function():
    assert set(PHASES) == set(PhaseName)


def test_a_whole_run(federation):
    federation.connect()
    federation.play()
    report = federation.engine.report()
    assert report.outcome == "completed"
    assert [entry.accepted for entry in report.rounds] == [("a", "b", "c"), ("a", "b", "c"), ()]
    assert all(entry.dice == 0.5 for entry in report.rounds)
    _, record = load_model(federation.state / "models" / report.model)
    assert (record.round, record.run, record.parents) == (2, "toy-run", (report.rounds[1].model,))
    assert verify(audit_of(federation)).sound
    phases = [event.state.phase.value for event in federation.events if isinstance(event, PhaseEntered)]
    one_round = ["open", "collect", "aggregate", "publish"]
    assert phases == [*one_round, "idle", *one_round, "evaluate", "shutdown"]


# --- idle ---


def test_idle_waits_for_the_quorum(four):
    assert four.settle() is PhaseName.IDLE
    four.connect("a")
    four.clock.advance(50)
    assert four.settle() is PhaseName.IDLE
    four.connect("b")
    assert four.settle() is PhaseName.COLLECT


def test_idle_gives_absent_sites_a_moment_to_come(four):
    four.connect("a", "b")
    assert four.settle() is PhaseName.IDLE
    four.clock.advance(10)
    assert four.settle() is PhaseName.COLLECT


def test_idle_does_not_wait_when_everybody_is_here(four):
    four.connect()
    assert four.settle() is PhaseName.COLLECT


def test_idle_fails_the_attempt_when_the_quorum_does_not_come(four):
    four.connect("a")
    four.settle()
    four.clock.advance(100)
    assert four.settle() is PhaseName.IDLE
    assert four.moment.state.attempt == 2
    four.clock.advance(100)
    assert four.settle() is PhaseName.SHUTDOWN
    state = four.moment.state
    assert state.outcome is Outcome.FAILED
    assert "1 of 2 needed sites were connected" in state.reason


# --- evaluate and shutdown ---


def test_the_last_models_scores_are_waited_for(federation):
    evaluating(federation)
    federation.score("a")
    federation.score("b")
    federation.clock.advance(29)
    assert federation.settle() is PhaseName.EVALUATE
    federation.score("c")
    assert federation.settle() is PhaseName.SHUTDOWN


def test_a_run_is_complete_without_scores(federation):
    evaluating(federation)
    federation.clock.advance(30)
    assert federation.settle() is PhaseName.SHUTDOWN
    assert federation.moment.state.outcome is Outcome.COMPLETED


def test_absent_sites_do_not_hold_up_the_end(federation):
    evaluating(federation)
    federation.leave("c")
    federation.score("a")
    federation.score("b")
    federation.clock.advance(10)
    assert federation.settle() is PhaseName.SHUTDOWN
    federation.stream("a").poll()
    federation.stream("b").poll()
    assert federation.engine.driver.step() is None


def test_the_end_waits_until_connected_sites_were_told_or_the_time_is_up(federation):
    federation.connect()
    federation.play()
    federation.stream("a").poll()
    assert federation.engine.driver.step() is not None
    federation.clock.advance(20)
    assert federation.engine.driver.step() is None

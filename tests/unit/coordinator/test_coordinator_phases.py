"""Each phase: what ends it, and each bound that fails it. A whole small federation under a clock that is turned by hand."""

import pytest

from coordinator.events import PhaseEntered
from coordinator.phases.driver import CHECKPOINT_S, PHASES
from coordinator.state import PhaseName
from coordinator.testing import ToyFederation, toy_words
from fedmentor.audit import verify
from fedmentor.errors import BrokenStore, CoordinatorUnreachable, PolicyRefusal, RoundClosed, UpdateRejected
from fedmentor.federation import Evaluate, Finished, Manifest, Outcome, Train, Wait
from fedmentor.ids import SiteId
from fedmentor.models import load_model


@pytest.fixture
def federation(tmp_path):
    made = ToyFederation(tmp_path)
    yield made
    made.close()


def _four(tmp_path, **manifest):
    return ToyFederation(tmp_path, sites=("a", "b", "c", "d"), quorum=2, **manifest)


@pytest.fixture
def four(tmp_path):
    made = _four(tmp_path)
    yield made
    made.close()


def _audit(federation):
    return federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())


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
    assert verify(_audit(federation)).sound
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


# --- collect ---


def _collecting(federation):
    federation.connect()
    assert federation.settle() is PhaseName.COLLECT


def test_collect_waits_for_connected_stragglers_until_the_deadline(four):
    _collecting(four)
    for site in ("a", "b", "c"):
        four.send(site)
    four.clock.advance(59)
    assert four.settle() is PhaseName.COLLECT
    four.clock.advance(1)
    assert four.settle() is PhaseName.COLLECT
    assert four.moment.state.round == 1
    assert four.engine.report().rounds[0].accepted == ("a", "b", "c")


def test_collect_goes_on_early_once_the_missing_are_gone_for_the_grace_period(four):
    _collecting(four)
    four.send("a")
    four.leave("c")
    four.leave("d")
    four.clock.advance(9)
    four.send("b")
    assert four.settle() is PhaseName.COLLECT
    assert four.moment.state.round == 0
    four.clock.advance(1)
    assert four.settle() is PhaseName.COLLECT
    assert four.moment.state.round == 1


def test_a_site_that_stays_away_costs_no_time_in_later_rounds(four):
    _collecting(four)
    four.leave("d")
    four.clock.advance(10)
    four.play(["a", "b", "c"])
    assert four.moment.state.phase is PhaseName.SHUTDOWN
    assert four.moment.round_elapsed_s == 0.0


def test_a_site_that_comes_back_is_waited_for_again(four):
    _collecting(four)
    four.leave("d")
    four.clock.advance(20)
    four.connect("d")
    for site in ("a", "b", "c"):
        four.send(site)
    assert four.settle() is PhaseName.COLLECT
    assert four.moment.state.round == 0
    four.send("d")
    four.settle()
    assert four.moment.state.round == 1


def test_a_round_below_its_quorum_is_tried_again_and_then_fails(four):
    _collecting(four)
    four.send("a")
    four.clock.advance(60)
    assert four.settle() is PhaseName.COLLECT
    assert (four.moment.state.round, four.moment.state.attempt) == (0, 2)
    four.clock.advance(60)
    four.settle()
    assert four.moment.state.outcome is Outcome.FAILED
    assert four.moment.state.reason == "round 0 failed 2 times; the last time: 0 of 2 needed updates arrived in time"
    assert four.engine.report().rounds == ()


def test_the_next_attempt_starts_from_the_same_model_and_takes_the_same_bytes(four):
    _collecting(four)
    four.send("a")
    model = four.moment.state.model
    four.clock.advance(60)
    four.settle()
    assert four.moment.state.model == model
    words = toy_words("a", four.ref, four.manifest)
    # The bytes are still here: the offer alone is enough.
    receipt = four.engine.service.offer_update(SiteId("a"), four.header(words))
    assert receipt.round.attempt == 2
    assert four.moment.delivered == {"a"}


def test_a_late_update_is_refused_and_the_round_is_not_changed(four):
    _collecting(four)
    late = four.header(toy_words("d", four.ref, four.manifest))
    for site in ("a", "b", "c"):
        four.send(site)
    four.clock.advance(60)
    four.settle()
    with pytest.raises(RoundClosed):
        four.send("d", toy_words("d", late.round, four.manifest), late)


def _refuse(federation, site):
    with pytest.raises(UpdateRejected):
        federation.send(site, b"1234")


def test_a_site_whose_update_was_refused_is_not_waited_for(four):
    _collecting(four)
    _refuse(four, "d")
    for site in ("a", "b"):
        four.send(site)
    assert four.settle() is PhaseName.COLLECT
    assert four.moment.state.round == 0, "c may still deliver"
    four.send("c")
    four.settle()
    assert four.moment.state.round == 1
    for site in ("a", "b", "c"):
        four.send(site)
    four.settle()
    assert four.moment.state.round == 1, "a new attempt, a new update"


def test_a_refused_site_counts_if_it_delivers_after_all(four):
    _collecting(four)
    _refuse(four, "a")
    for site in four.manifest.roster:
        four.send(site)
    four.settle()
    assert four.engine.report().rounds[0].accepted == ("a", "b", "c", "d")


def test_the_quorum_is_needed_even_of_those_who_are_connected(four):
    _collecting(four)
    four.send("a")
    for site in ("b", "c", "d"):
        four.leave(site)
    four.clock.advance(30)
    assert four.settle() is PhaseName.COLLECT


# --- aggregate and publish ---


def _deliver_all(federation):
    _collecting(federation)
    for site in federation.manifest.roster:
        federation.send(site)


def test_a_bit_that_flipped_on_disk_fails_the_attempt_and_names_the_site(federation):
    _deliver_all(federation)
    (stored,) = (federation.state / "spool" / "b").glob("*.words")
    data = bytearray(stored.read_bytes())
    data[7] ^= 4
    stored.write_bytes(data)
    assert federation.settle() is PhaseName.COLLECT
    assert (federation.moment.state.round, federation.moment.state.attempt) == (0, 2)
    failed = [record for record in _audit(federation) if record.event == "fail_attempt"]
    assert "site b was damaged" in failed[0].fields
    federation.play()
    assert federation.moment.state.outcome is Outcome.COMPLETED


def test_a_spool_file_that_is_gone_fails_the_attempt(federation):
    _deliver_all(federation)
    next((federation.state / "spool" / "a").glob("*.words")).unlink()
    federation.settle()
    assert federation.moment.state.attempt == 2


def _damage_base_model(federation):
    path = federation.state / "models" / federation.moment.state.model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x40
    path.write_bytes(data)


def test_a_bit_that_flipped_in_the_base_model_is_not_averaged(federation):
    _deliver_all(federation)
    _damage_base_model(federation)
    with pytest.raises(BrokenStore, match="damaged on disk"):
        federation.settle()
    assert (federation.moment.state.phase, federation.moment.state.round) == (PhaseName.AGGREGATE, 0)


def test_a_round_does_not_open_on_a_damaged_model(federation):
    federation.connect()
    _damage_base_model(federation)
    with pytest.raises(BrokenStore, match="damaged on disk"):
        federation.settle()
    assert federation.moment.state.phase is PhaseName.OPEN


def test_a_disk_that_refuses_the_model_stops_the_driver_and_loses_nothing(federation):
    _deliver_all(federation)
    federation.engine.driver.step()
    assert federation.moment.state.phase is PhaseName.AGGREGATE
    models = federation.state / "models"
    models.rename(federation.state / "elsewhere")
    with pytest.raises(BrokenStore):
        federation.engine.driver.step()
    (federation.state / "elsewhere").rename(models)
    federation.reopen()
    federation.connect()
    federation.play()
    assert federation.moment.state.outcome is Outcome.COMPLETED


def test_the_spool_is_empty_when_a_round_opens_and_when_the_run_is_over(federation):
    _deliver_all(federation)
    assert federation.settle() is PhaseName.COLLECT
    assert [path for path in (federation.state / "spool").rglob("*") if path.is_file()] == []
    federation.play()
    for site in federation.manifest.roster:
        federation.stream(site).poll()
    assert federation.engine.driver.step() is None
    assert [path for path in (federation.state / "spool").rglob("*") if path.is_file()] == []


# --- evaluate and shutdown ---


def _evaluating(federation):
    federation.connect()
    for _ in range(federation.manifest.rounds):
        federation.settle()
        for site in federation.manifest.roster:
            federation.send(site)
    assert federation.settle() is PhaseName.EVALUATE


def test_the_last_models_scores_are_waited_for(federation):
    _evaluating(federation)
    federation.score("a")
    federation.score("b")
    federation.clock.advance(29)
    assert federation.settle() is PhaseName.EVALUATE
    federation.score("c")
    assert federation.settle() is PhaseName.SHUTDOWN


def test_a_run_is_complete_without_scores(federation):
    _evaluating(federation)
    federation.clock.advance(30)
    assert federation.settle() is PhaseName.SHUTDOWN
    assert federation.moment.state.outcome is Outcome.COMPLETED


def test_absent_sites_do_not_hold_up_the_end(federation):
    _evaluating(federation)
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


# --- what sites see, and time ---


def test_a_site_is_told_each_thing_once(federation):
    federation.connect("a", "b")
    manifest, waiting = federation.stream("a").poll()
    assert isinstance(manifest, Manifest)
    assert isinstance(waiting, Wait)
    federation.connect("c")
    federation.settle()
    (train,) = federation.stream("a").poll()
    assert isinstance(train, Train)
    federation.clock.advance(3)
    assert federation.stream("a").poll() == []
    federation.send("a")
    (waiting,) = federation.stream("a").poll()
    assert isinstance(waiting, Wait)


def test_a_site_that_reconnects_is_told_again_with_the_time_that_is_left(federation):
    _collecting(federation)
    federation.clock.advance(15)
    old = federation.stream("a")
    federation.connect("a")
    _, train = federation.stream("a").poll()
    assert train.deadline_s == 45.0
    with pytest.raises(PolicyRefusal, match="another node of site a"):
        old.poll()
    old.close()  # the end of the old stream is not the end of the site
    federation.clock.advance(30)
    federation.send("b")
    federation.send("c")
    assert federation.settle() is PhaseName.COLLECT
    assert federation.moment.state.round == 0


def test_the_last_directives_are_evaluate_and_finished(federation):
    _evaluating(federation)
    assert isinstance(federation.stream("a").poll()[-1], Evaluate)
    federation.clock.advance(30)
    federation.settle()
    assert federation.stream("a").poll() == [Finished(Outcome.COMPLETED, "all rounds are done")]


def test_the_round_time_runs_from_opening_to_publication(federation):
    federation.connect("a")
    federation.settle()
    federation.clock.advance(7)
    federation.connect("b", "c")
    federation.settle()
    federation.clock.advance(4)
    for site in "abc":
        federation.send(site)
    federation.settle()
    assert federation.engine.report().rounds[0].seconds == 4.0


def test_elapsed_time_is_checkpointed_and_survives_a_restart(federation):
    _collecting(federation)
    federation.clock.advance(CHECKPOINT_S + 1)
    federation.engine.driver.step()
    federation.clock.advance(CHECKPOINT_S - 1)  # not yet due
    federation.engine.driver.step()
    federation.clock.advance(1000)  # no coordinator runs
    federation.reopen()
    assert federation.moment.phase_elapsed_s == CHECKPOINT_S + 1
    federation.connect()
    assert federation.stream("a").poll()[-1].deadline_s == 60 - (CHECKPOINT_S + 1)


def test_a_closed_service_ends_its_streams(federation):
    federation.connect()
    federation.engine.service.close()
    with pytest.raises(CoordinatorUnreachable, match="stopping"):
        federation.stream("a").poll()
    with pytest.raises(CoordinatorUnreachable, match="stopping"):
        federation.connect("a")

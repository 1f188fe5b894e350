"""What sites are told in each phase, and the time that phases and rounds take."""

import pytest
from phased_federation import collecting, evaluating

from coordinator.phases.driver import CHECKPOINT_S
from coordinator.state import PhaseName
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal
from fedmentor.federation import Evaluate, Finished, Manifest, Outcome, Train, Wait


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
    collecting(federation)
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
    evaluating(federation)
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
    collecting(federation)
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

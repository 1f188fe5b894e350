"""The phase collect: who is waited for, how long, and what becomes of a round without its quorum."""

import pytest
from phased_federation import collecting

from coordinator.state import PhaseName
from coordinator.testing import toy_words
from fedmentor.errors import RoundClosed, UpdateRejected
from fedmentor.federation import Outcome
from fedmentor.ids import SiteId


def test_collect_waits_for_connected_stragglers_until_the_deadline(four):
    collecting(four)
    for site in ("a", "b", "c"):
        four.send(site)
    four.clock.advance(59)
    assert four.settle() is PhaseName.COLLECT
    four.clock.advance(1)
    assert four.settle() is PhaseName.COLLECT
    assert four.moment.state.round == 1
    assert four.engine.report().rounds[0].accepted == ("a", "b", "c")


def test_collect_goes_on_early_once_the_missing_are_gone_for_the_grace_period(four):
    collecting(four)
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
    collecting(four)
    four.leave("d")
    four.clock.advance(10)
    four.play(["a", "b", "c"])
    assert four.moment.state.phase is PhaseName.SHUTDOWN
    assert four.moment.round_elapsed_s == 0.0


def test_a_site_that_comes_back_is_waited_for_again(four):
    collecting(four)
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
    collecting(four)
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
    collecting(four)
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
    collecting(four)
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
    collecting(four)
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
    collecting(four)
    _refuse(four, "a")
    for site in four.manifest.roster:
        four.send(site)
    four.settle()
    assert four.engine.report().rounds[0].accepted == ("a", "b", "c", "d")


def test_the_quorum_is_needed_even_of_those_who_are_connected(four):
    collecting(four)
    four.send("a")
    for site in ("b", "c", "d"):
        four.leave(site)
    four.clock.advance(30)
    assert four.settle() is PhaseName.COLLECT

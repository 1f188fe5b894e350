"""The model gate: candidates are scored before they are published, and bad ones never are."""

from __future__ import annotations

import pytest

from coordinator.directives import directive_for
from coordinator.state import PhaseName
from coordinator.testing import ToyFederation
from fedmentor.errors import RoundClosed, UpdateRejected
from fedmentor.federation import Evaluate, ModelRef, Outcome, Scores, Train, Wait
from fedmentor.gate import GatePlan
from fedmentor.ids import Digest, Round, SiteId

SITES = ("a", "b", "c", "d")
PLAN = GatePlan(max_dice_drop=0.05, min_sites=3, seconds=40.0)


@pytest.fixture
def toys(tmp_path):
    federation = ToyFederation(tmp_path, sites=SITES, gate=PLAN)
    federation.connect()
    yield federation
    federation.close()


def to_gate(toys, base=0.5):
    """Bring the round in force to its gate; gives the candidate."""
    toys.settle()
    for site in toys.manifest.roster:
        toys.score(site, base)
        toys.send(site)
    assert toys.settle() is PhaseName.GATE
    return toys.moment.state.pending


def judge(toys, dice):
    for site, value in zip(toys.manifest.roster, dice, strict=True):
        toys.score_candidate(site, value)
    return toys.settle()


def audited(toys, event):
    return [record for record in toys.engine.journal.run_tx("read", lambda tx: tx.audit_records()) if record.event == event]


def published(toys):
    return toys.engine.journal.run_tx("read", lambda tx: tx.rounds())


def test_sites_are_asked_to_score_the_candidate_as_the_model_it_would_become(toys):
    candidate = to_gate(toys)
    directive = directive_for(toys.manifest, toys.moment, SiteId("a"))
    assert isinstance(directive, Evaluate)
    assert (directive.round.round, directive.model.digest, directive.deadline_s) == (1, candidate, 40.0)
    assert candidate != toys.moment.state.model
    toys.score_candidate("a")
    assert isinstance(directive_for(toys.manifest, toys.moment, SiteId("a")), Wait)


def test_the_candidate_is_served_in_the_gate_and_nowhere_else(toys):
    candidate = to_gate(toys)
    model = ModelRef(candidate, 4 * 38)
    assert sum(map(len, toys.engine.service.fetch_model(SiteId("a"), model, 0))) == 4 * 38
    assert judge(toys, [0.0] * 4) is PhaseName.COLLECT
    with pytest.raises(RoundClosed):
        next(toys.engine.service.fetch_model(SiteId("a"), model, 0))


def test_a_good_candidate_is_published_with_its_scores(toys):
    candidate = to_gate(toys)
    assert judge(toys, [0.6, 0.7, 0.5, 0.6]) is PhaseName.COLLECT
    state = toys.moment.state
    assert (state.round, state.model) == (1, candidate)
    assert toys.moment.scored == frozenset(SITES), "the candidate's scores are the next round's"
    assert [(one.base_model == one.model) for one in published(toys)] == [False]
    assert isinstance(directive_for(toys.manifest, toys.moment, SiteId("a")), Train)


def test_a_bad_candidate_is_never_published_and_the_next_round_starts_from_the_last_good_model(toys):
    base = toys.moment.state.model
    to_gate(toys)
    assert judge(toys, [0.40, 0.44, 0.41, 0.9]) is PhaseName.COLLECT
    state = toys.moment.state
    assert (state.round, state.attempt, state.model) == (1, 1, base)
    (void,) = published(toys)
    assert void.model == void.base_model == base
    assert toys.moment.scored == frozenset()
    (record,) = audited(toys, "void_round")
    assert "the median of 4 sites loses 0.0750 Dice" in record.fields
    report = toys.engine.report()
    assert report.rounds[0].gate is not None
    assert not report.rounds[0].gate.passed
    assert report.rounds[0].accepted == ()


def test_as_many_void_rounds_in_a_row_as_attempts_end_the_run_with_the_last_good_model(tmp_path):
    toys = ToyFederation(tmp_path, sites=SITES, gate=PLAN, rounds=5, max_attempts=2)
    toys.connect()
    to_gate(toys)
    judge(toys, [0.6] * 4)
    good = toys.moment.state.model
    for _ in range(2):
        to_gate(toys, 0.6)
        judge(toys, [0.1] * 4)
    state = toys.moment.state
    assert (state.phase, state.outcome, state.model, state.pending) == (PhaseName.SHUTDOWN, Outcome.FAILED, good, None)
    assert "2 rounds in a row were void" in state.reason
    toys.close()


def test_one_liar_of_four_neither_stops_a_good_model_nor_lets_a_bad_one_through(toys):
    to_gate(toys)
    assert judge(toys, [0.5, 0.51, 0.49, 0.0]) is PhaseName.COLLECT
    assert published(toys)[-1].model != published(toys)[-1].base_model
    to_gate(toys, 0.5)
    assert judge(toys, [0.1, 0.2, 0.1, 1.0]) is PhaseName.EVALUATE
    assert published(toys)[-1].model == published(toys)[-1].base_model


def test_too_few_scores_by_the_deadline_void_the_round(toys):
    to_gate(toys)
    toys.score_candidate("a")
    toys.score_candidate("b")
    assert toys.settle() is PhaseName.GATE
    toys.clock.advance(PLAN.seconds)
    assert toys.settle() is PhaseName.COLLECT
    assert published(toys)[0].model == published(toys)[0].base_model
    (record,) = audited(toys, "void_round")
    assert "2 of the 3 sites that the model gate needs" in record.fields


def test_a_site_that_is_gone_is_not_waited_for(toys):
    to_gate(toys)
    for site in SITES[:3]:
        toys.score_candidate(site, 0.6)
    toys.leave("d")
    toys.clock.advance(10.0)
    assert toys.settle() is PhaseName.COLLECT
    assert toys.moment.state.round == 1


def test_scores_of_another_model_are_refused_and_the_site_is_named(toys):
    to_gate(toys)
    directive = directive_for(toys.manifest, toys.moment, SiteId("a"))
    for _ in range(20):
        with pytest.raises(UpdateRejected):
            toys.engine.service.report_scores(SiteId("a"), Scores(directive.round, Digest("0" * 64), 4, 5, 0.5, 0.4, 1.0))
    records = audited(toys, "refuse_scores")
    assert {record.actor for record in records} == {"site a"}
    assert len(records) == 8, "a flood does not fill the disk"
    assert SiteId("a") not in toys.moment.scored


def test_scores_that_come_after_the_gate_count_for_the_round_that_follows(toys):
    candidate = to_gate(toys)
    directive = directive_for(toys.manifest, toys.moment, SiteId("d"))
    for site in SITES[:3]:
        toys.score_candidate(site, 0.6)
    toys.clock.advance(PLAN.seconds)
    toys.settle()
    toys.engine.service.report_scores(SiteId("d"), Scores(directive.round, candidate, 4, 5, 0.7, 0.6, 1.0))
    assert toys.moment.scored == frozenset(SITES)


@pytest.mark.parametrize("scored", range(5))
@pytest.mark.parametrize("dice", [0.6, 0.1])
def test_a_kill_at_any_moment_of_the_gate_changes_nothing(tmp_path, scored, dice):
    toys = ToyFederation(tmp_path, sites=SITES, gate=PLAN)
    toys.connect()
    base, candidate = toys.moment.state.model, to_gate(toys)
    for site in SITES[:scored]:
        toys.score_candidate(site, dice)
    toys.reopen()
    toys.connect()
    assert toys.moment.state.pending == candidate
    for site in SITES[scored:]:
        toys.score_candidate(site, dice)
    while toys.moment.state.phase is not PhaseName.IDLE:  # a kill after every step of the way
        toys.engine.driver.step()
        toys.reopen()
        toys.connect()
    state = toys.moment.state
    assert (state.model, state.round, state.pending) == (candidate if dice > 0.5 else base, 1, None)
    assert len(toys.engine.journal.run_tx("read", lambda tx: tx.gate_records())) == 1
    toys.close()


def test_a_whole_run_with_a_gate_ends_with_every_model_published(toys):
    toys.play()
    state = toys.moment.state
    assert (state.phase, state.outcome) == (PhaseName.SHUTDOWN, Outcome.COMPLETED)
    assert [record.passed for record in toys.engine.journal.run_tx("read", lambda tx: tx.gate_records())] == [True, True]
    assert Round(2) in {one.round for one in toys.engine.journal.run_tx("read", lambda tx: tx.scores())}


def test_without_a_gate_no_round_trip_is_added(tmp_path):
    toys = ToyFederation(tmp_path, sites=SITES)
    toys.connect()
    toys.play()
    assert "gate" not in {event.state.phase.value for event in toys.events if hasattr(event, "state")}
    toys.close()

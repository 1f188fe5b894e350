"""Flags, strikes, who is set aside; and a run in which sites misbehave."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coordinator.app import MODELS_FOLDER
from coordinator.conduct import SiteFlag, Standing, strikes, to_set_aside
from coordinator.directives import directive_for
from coordinator.state import PhaseName
from coordinator.store.models import ModelStore
from coordinator.testing import PARAMETERS, ToyFederation
from fedmentor.cli import run
from fedmentor.errors import RoundClosed, UpdateRejected
from fedmentor.federation import Outcome, Receipt, Wait
from fedmentor.ids import Attempt, Round, SiteId
from fedmentor.models import load_record
from fedmentor.robust import CoordinateMedian, Flag, Krum, NormClipping, RobustPlan
from fedmentor.secagg.ring import quantise

SITES = ("a", "b", "c", "d", "e")
CLIP = RobustPlan(rule=NormClipping(), set_aside_after=2)


def flag(round_, site, kind=Flag.ZERO, attempt=1):
    return SiteFlag(Round(round_), Attempt(attempt), SiteId(site), kind)


def standing(*active, needed=1):
    return Standing(frozenset(map(SiteId, active)), needed)


def test_several_flags_of_a_round_are_one_strike():
    flags = [flag(0, "a"), flag(0, "a", Flag.COPY), flag(0, "a", attempt=2), flag(3, "a"), flag(3, "b", Flag.LEFT_OUT)]
    assert strikes(CLIP, flags) == {"a": 2}


def test_what_counts_is_the_manifests_to_say():
    plan = RobustPlan(rule=NormClipping(), set_aside_after=1, strikes=(Flag.LEFT_OUT,))
    assert to_set_aside(plan, [flag(0, "a"), flag(0, "b", Flag.LEFT_OUT)], standing("a", "b", "c")) == ("b",)


def test_nobody_is_set_aside_where_the_manifest_only_flags():
    plan = RobustPlan(rule=NormClipping())
    assert to_set_aside(plan, [flag(number, "a") for number in range(9)], standing("a", "b")) == ()


def test_never_more_are_set_aside_than_a_round_can_do_without():
    flags = [flag(number, site) for number in range(2) for site in "abc"] + [flag(2, "b")]
    assert to_set_aside(CLIP, flags, standing("a", "b", "c", "d", "e", needed=3)) == ("b", "a")
    assert to_set_aside(CLIP, flags, standing("a", "b", "c", needed=3)) == ()


def test_who_is_away_already_is_not_set_aside_again():
    assert to_set_aside(CLIP, [flag(0, "a"), flag(1, "a")], standing("b", "c")) == ()


@pytest.fixture
def toys(tmp_path):
    federation = ToyFederation(tmp_path, sites=SITES, rounds=4, robust=CLIP)
    federation.connect()
    yield federation
    federation.close()


def words(toys, delta, examples=100):
    return (
        quantise(np.broadcast_to(np.asarray(delta, np.float32), PARAMETERS), examples, toys.manifest.ring).astype("<u4").tobytes()
    )


def play_round(toys, **liars):
    """One round in which some sites send words of their own making."""
    toys.settle()
    asked = set(toys.manifest.roster) - toys.moment.set_aside
    for site in sorted(asked):
        toys.score(site)
        assert isinstance(toys.send(site, liars.get(site)), Receipt)
    return toys.settle()


def audited(toys, event):
    records = toys.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    return [(record.actor, json.loads(record.fields)) for record in records if record.event == event]


def test_a_free_rider_is_flagged_named_and_set_aside_for_the_rounds_that_follow(toys):
    for number in range(2):
        play_round(toys, b=words(toys, 0.0, examples=number + 1))
    assert [(one["round"], one["site"], one["flag"]) for _, one in audited(toys, "flag_site")] == [
        (0, "b", "zero"),
        (1, "b", "zero"),
    ]
    assert [one for _, one in audited(toys, "set_aside_site")] == [{"round": 1, "site": "b"}]
    assert toys.moment.set_aside == {"b"}
    assert isinstance(directive_for(toys.manifest, toys.moment, SiteId("b")), Wait)
    with pytest.raises(RoundClosed, match="set aside"):
        toys.send("b")
    assert play_round(toys) is PhaseName.COLLECT, "nobody waits for it"
    report = toys.engine.report()
    assert report.set_aside == ("b",)
    assert [entry.flags.get("b") for entry in report.rounds[:3]] == [("zero",), ("zero",), None]
    assert [len(entry.accepted) for entry in report.rounds[:3]] == [5, 5, 4]


def test_the_same_words_twice_and_an_echo_are_flagged(toys):
    same = words(toys, np.linspace(-0.1, 0.1, PARAMETERS))
    play_round(toys, a=same, b=same)
    echo = toys.engine.journal.run_tx("read", lambda tx: tx.rounds())[0]
    store = ModelStore(toys.state / MODELS_FOLDER, toys.manifest.spec)
    models = [store.open(digest).parameters(0, PARAMETERS) for digest in (echo.base_model, echo.model)]
    play_round(toys, a=same, c=words(toys, models[1] - models[0]))
    flags = toys.engine.journal.run_tx("read", lambda tx: tx.flags())
    assert [(one.round, one.site, one.flag) for one in flags] == [
        (0, "a", Flag.COPY),
        (0, "b", Flag.COPY),
        (1, "a", Flag.COPY),
        (1, "c", Flag.ECHO),
    ]


def test_refused_updates_are_strikes_and_the_site_is_named(toys):
    for _ in range(2):
        toys.settle()
        for site in SITES[1:]:
            toys.send(site)
        bad = np.full(PARAMETERS + 1, 2**30, np.uint32)
        with pytest.raises(UpdateRejected):
            toys.send("a", bad.astype("<u4").tobytes())
        toys.engine.driver.step()
    toys.settle()
    assert {actor for actor, _ in audited(toys, "refuse_update")} == {"site a"}
    assert toys.moment.set_aside == {"a"}


def test_a_flood_of_refusals_leaves_a_bounded_trace(toys):
    toys.settle()
    bad = np.full(PARAMETERS + 1, 2**30, np.uint32).astype("<u4").tobytes()
    for _ in range(30):
        with pytest.raises(UpdateRejected):
            toys.send("a", bad)
    assert len(audited(toys, "refuse_update")) == 8
    assert len(toys.engine.journal.run_tx("read", lambda tx: tx.flags())) == 1


def test_who_was_set_aside_stays_so_after_a_restart(toys):
    for number in range(2):
        play_round(toys, b=words(toys, 0.0, examples=number + 1))
    toys.reopen()
    toys.connect()
    assert toys.moment.set_aside == {"b"}
    toys.play(["a", "c", "d", "e"])
    state = toys.moment.state
    assert (state.phase, state.outcome) == (PhaseName.SHUTDOWN, Outcome.COMPLETED)


def test_what_krum_leaves_out_is_told_but_no_strike(tmp_path):
    plan = RobustPlan(rule=Krum(malicious=1), set_aside_after=1)
    toys = ToyFederation(tmp_path, sites=SITES, quorum=5, robust=plan)
    toys.connect()
    play_round(toys, e=words(toys, 1.0))
    report = toys.engine.report().rounds[0]
    assert report.flags == {"e": ("left-out",)}
    assert report.accepted == ("a", "b", "c", "d")
    assert report.weights == pytest.approx(dict.fromkeys("abcd", 0.25))
    assert toys.moment.set_aside == frozenset()
    (_, said) = audited(toys, "store_aggregate")[0]
    assert said["left_out"] == "e"
    toys.close()


def test_a_robust_run_killed_in_the_middle_makes_the_undisturbed_models(tmp_path):
    final = []
    for disturbed in (False, True):
        toys = ToyFederation(tmp_path / str(disturbed), sites=SITES, robust=RobustPlan(rule=CoordinateMedian()))
        toys.connect()
        for site in SITES:
            toys.settle()
            toys.send(site)
            if disturbed:
                toys.reopen()
                toys.connect()
        toys.play()
        final.append(toys.moment.state.model)
        toys.close()
    assert final[0] == final[1]


def test_status_says_who_is_set_aside_and_a_model_names_its_rule(toys, capsys):
    for number in range(2):
        play_round(toys, b=words(toys, 0.0, examples=number + 1))
    assert run(["coordinator", "status", "--state", str(toys.state)]) == 0
    assert "set aside for the rest of the run: b" in capsys.readouterr().out
    assert load_record(toys.state / MODELS_FOLDER / toys.moment.state.model).details["rule"]["rule"] == "clip"

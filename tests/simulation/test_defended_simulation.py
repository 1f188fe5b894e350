"""A robust rule, a model gate and central noise under random schedules of faults: the models are those of the undisturbed run.

simulated_federation.py says what counts as failure. Central noise comes from entropy that counts its calls, so noise that was drawn
twice for one sum would show as another model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simulated_federation import COLLECT_SECONDS, ROUNDS, Federation
from simulated_schedules import CAMPAIGN, EXAMPLES, FAULTS, LENGTH, MOVES, TIME, apply, scratch

from coordinator.app import MODELS_FOLDER
from fedmentor.federation import Outcome
from fedmentor.gate import GatePlan
from fedmentor.ids import Digest
from fedmentor.models import load_record
from fedmentor.privacy.central import plan_central_privacy
from fedmentor.robust import Flag, NormClipping, RobustPlan

DEFENCES: dict[str, dict[str, Any]] = {
    "clip and gate": {
        # Without COPY: the student of the simulation learns the same in every round.
        "robust": RobustPlan(rule=NormClipping(), set_aside_after=1, strikes=(Flag.REFUSED, Flag.ZERO, Flag.ECHO)),
        "gate": GatePlan(min_sites=3, seconds=COLLECT_SECONDS),
    },
    "central noise": {"central_privacy": plan_central_privacy((8.0, 1e-3), 1.0, ROUNDS)},
}
SECURE_GATE = "secure aggregation and gate"
SHORTER = settings(CAMPAIGN, max_examples=int(EXAMPLES or 12))
EVERYTHING_DIES = [step for _ in range(8) for step in (("everybody",), ("kill coordinator",))]


def counted() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


@contextmanager
def defended(defence: str) -> Iterator[Federation]:
    """A federation with one of DEFENCES."""
    with scratch() as folder:
        federation = Federation(folder, secure=defence == SECURE_GATE)
        federation.entropy = counted()
        federation.manifest = type(federation.manifest)(
            **{**dict(federation.manifest), **DEFENCES.get(defence, {"gate": GatePlan(min_sites=3, seconds=COLLECT_SECONDS)})}
        )
        try:
            yield federation
        finally:
            federation.close()


def play(defence: str, schedule: list[tuple]) -> tuple[set[Outcome], list[Digest], set[str]]:
    """Run a schedule and heal; gives how it ended, the published models in order, and every model on disk."""
    with defended(defence) as federation:
        for step in schedule:
            apply(federation, step)
        federation.heal()
        assert federation.engine is not None
        rounds = federation.engine.journal.run_tx("read", lambda tx: tx.rounds())
        outcomes = {site.finished.outcome for site in federation.sites.values() if site.finished}
        on_disk = {path.name for path in (federation.state / MODELS_FOLDER).iterdir()}
        assert federation.engine.journal.run_tx("read", lambda tx: tx.set_aside()) == (), "nobody misbehaved"
        made = [one for one in rounds if one.model != one.base_model]
        assert all(load_record(federation.state / MODELS_FOLDER / one.model).round == one.round + 1 for one in made)
        return outcomes, [one.model for one in rounds], on_disk


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[Digest]]:
    found = {}
    for defence in DEFENCES:
        outcomes, models, _ = play(defence, [])
        assert outcomes == {Outcome.COMPLETED}
        assert len(set(models)) == ROUNDS
        found[defence] = models
    return found


@pytest.mark.parametrize("defence", DEFENCES)
@SHORTER
@given(schedule=st.lists(st.one_of(MOVES + FAULTS), **LENGTH))
@example(schedule=EVERYTHING_DIES)
def test_faults_without_time_change_nothing(undisturbed: dict[str, list[Digest]], defence: str, schedule: list[tuple]):
    outcomes, models, on_disk = play(defence, schedule)
    assert (outcomes, models) == ({Outcome.COMPLETED}, undisturbed[defence]), "F8"
    assert len(on_disk) == ROUNDS + 1, "every sum has one version"


@pytest.mark.parametrize("defence", [*DEFENCES, SECURE_GATE])
@SHORTER
@given(schedule=st.lists(st.one_of(MOVES + FAULTS + TIME), **LENGTH))
def test_with_deadlines_everybody_is_told_the_same(defence: str, schedule: list[tuple]):
    outcomes, _models, _ = play(defence, schedule)
    assert len(outcomes) == 1


def test_a_gate_in_a_secure_run_publishes_what_a_plain_run_does(undisturbed: dict[str, list[Digest]]):
    outcomes, models, _ = play(SECURE_GATE, [])
    assert (outcomes, models) == ({Outcome.COMPLETED}, undisturbed["clip and gate"])


def test_a_gate_that_nobody_answers_publishes_nothing_and_ends_the_run():
    with defended("clip and gate") as federation:
        for _ in range(200):
            federation.drive()
            for site in federation.sites.values():
                site.faults.aimed.add(("request", "lose", "report_scores"))
                site.turn()
            federation.pass_time(COLLECT_SECONDS / 4)
            if all(site.finished for site in federation.sites.values()):
                break
        assert {site.finished.outcome for site in federation.sites.values() if site.finished} == {Outcome.FAILED}
        assert federation.final_model() == federation.manifest.initial_model

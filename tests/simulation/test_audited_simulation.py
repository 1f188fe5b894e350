"""Witnesses in a federation under random schedules of faults: an honest coordinator is never accused, and its trail always holds.

simulated_federation.py says what counts as failure. The dishonest coordinators at the end are made from honest ones: a state folder
that was copied goes on twice (a fork), or comes back (a rollback).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from simulated_federation import Federation, check, check_audit
from simulated_schedules import CAMPAIGN, FAULTS, LENGTH, MOVES, TIME, apply, names, scratch
from simulated_site import SITES

from fed_node.events import Unwitnessed, Witnessed
from fedmentor.audit.review import Review
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import Outcome

AUDIT_FAULTS = [
    st.tuples(
        *(st.just("call"), names, st.sampled_from(["request", "reply"]), st.sampled_from(["lose", "kill"])),
        st.sampled_from(["fetch_audit", "countersign", "countersign"]),
    )
]

KILLED_AROUND_EVERY_SIGNATURE = [
    step for way in ("request", "reply") for name in SITES for step in (("call", name, way, "kill", "countersign"), ("everybody",))
]
NOBODY_IS_HEARD = [
    step for _ in range(4) for name in SITES for step in (("call", name, "request", "lose", "fetch_audit"), ("drive",))
]


def play_audited(schedule: list[tuple], *, secure: bool = False) -> tuple[Review, list[object]]:
    """Run a schedule, heal, check; gives the review of the trail and what the sites saw."""
    with scratch() as folder:
        federation = Federation(folder, secure=secure, audited=True)
        try:
            for step in schedule:
                apply(federation, step)
            federation.heal()
            check(federation)
            return check_audit(federation), [event for site in federation.sites.values() for event in site.events]
        finally:
            federation.close()


@pytest.mark.parametrize("secure", [False, True])
def test_an_undisturbed_run_is_signed_by_everybody_to_its_end(*, secure: bool):
    found, events = play_audited([], secure=secure)
    assert len(found.checkpoints) == 3, "two rounds and the end"
    assert found.countersigned[found.checkpoints[-1]] == tuple(sorted(SITES))
    assert len([event for event in events if isinstance(event, Witnessed)]) == 3 * len(SITES)
    assert not [event for event in events if isinstance(event, Unwitnessed)]


@CAMPAIGN
@given(st.lists(st.one_of(MOVES + FAULTS + AUDIT_FAULTS + TIME), **LENGTH))
@example(KILLED_AROUND_EVERY_SIGNATURE)
@example(NOBODY_IS_HEARD)
def test_an_honest_coordinator_is_never_accused(schedule: list[tuple]):
    play_audited(schedule)


@CAMPAIGN
@given(st.lists(st.one_of(MOVES + FAULTS + AUDIT_FAULTS), **LENGTH))
def test_nor_is_one_that_aggregates_securely(schedule: list[tuple]):
    play_audited(schedule, secure=True)


# --- coordinators that are not honest ---


def until_published(federation: Federation, rounds: int) -> None:
    """Go on until so many rounds are published."""
    for _ in range(200):
        apply(federation, ("everybody",))
        if len(federation.published()) >= rounds:
            return
    pytest.fail("the round was not published")


def until_signed(federation: Federation, checkpoints: int) -> None:
    """Go on until every site has signed so many checkpoints."""
    for _ in range(20):
        if all(sum(isinstance(event, Witnessed) for event in site.events) >= checkpoints for site in federation.sites.values()):
            return
        apply(federation, ("everybody",))
    pytest.fail("the checkpoints were not signed")


def copied(federation: Federation, name: str) -> Path:
    """A copy of the coordinator's state folder, as a backup or another machine has it."""
    federation.kill_coordinator()
    copy = federation.state.with_name(name)
    shutil.copytree(federation.state, copy)
    return copy


def evidence(federation: Federation) -> list[Path]:
    """What the sites have written down against the coordinator."""
    return [path for site in federation.sites.values() for path in site.folder.glob("audit-evidence-*")]


def exchange(federation: Federation, state: Path) -> None:
    """Another coordinator with the same keys answers from now on, on another state folder."""
    federation.kill_coordinator()
    federation.state = state
    for name, site in federation.sites.items():
        federation.line_broke(name)
        site.kill()


def test_a_coordinator_that_was_set_back_is_refused(tmp_path: Path):
    federation = Federation(tmp_path, audited=True)
    try:
        until_published(federation, 1)
        backup = copied(federation, "backup")
        until_published(federation, 2)
        until_signed(federation, 2)
        exchange(federation, backup)
        with pytest.raises(PolicyRefusal, match="the coordinator's audit trail does not hold"):
            federation.heal()
        assert evidence(federation)
    finally:
        federation.close()


def test_a_coordinator_that_tells_two_stories_is_refused_by_who_hears_both(tmp_path: Path):
    federation = Federation(tmp_path, audited=True)
    try:
        apply(federation, ("everybody",))
        other = copied(federation, "other")
        until_published(federation, 1)
        until_signed(federation, 1)
        assert not evidence(federation), "so far there was one story"
        federation.clock.advance(1.0)
        exchange(federation, other)
        with pytest.raises(PolicyRefusal, match="the coordinator's audit trail does not hold"):
            federation.heal()
        assert evidence(federation)
    finally:
        federation.close()


def test_without_faults_the_outcome_is_what_it_always_was(tmp_path: Path):
    federation = Federation(tmp_path, audited=True)
    try:
        federation.heal()
        assert {site.finished.outcome for site in federation.sites.values() if site.finished} == {Outcome.COMPLETED}
    finally:
        federation.close()

"""One suite, every LedgerStore, under the privacy ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_bench import DELTA, OTHER, PATIENTS, RUN, STEP, WORDS, Bench, epsilon, spend, take

from fed_node.ledger.ledger import CRASHED, BudgetPolicy
from fed_node.ledger.sqlite import SqliteStore
from fed_node.ledger.store import MemoryAnchor, MemoryStore
from fedmentor.audit import Head
from fedmentor.errors import BrokenStore, BudgetExhausted, ConfigError, DataError, PolicyRefusal
from fedmentor.ids import Digest, Round
from fedmentor.privacy.accounting import Segment
from fedmentor.privacy.events import Stage


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    if request.param == "memory":
        kept = MemoryStore()
        return Bench(lambda: kept)
    return Bench(lambda: SqliteStore(tmp_path / "state"))


def test_a_new_ledger_has_its_budget_and_nothing_spent(bench: Bench):
    ledger = bench.open(BudgetPolicy(3.0, DELTA))
    assert (ledger.budget.epsilon, ledger.budget.delta, ledger.budget.unit) == (3.0, DELTA, "patient")
    assert ledger.spent().epsilon == 0
    assert ledger.head.records == 1
    ledger.close()


def test_rounds_and_runs_compose_for_the_same_patients(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0))
    take(ledger, spend(1))
    take(ledger, spend(0, OTHER, Segment(2.0, 0.2, 5)))
    assert ledger.spent().epsilon == pytest.approx(epsilon(STEP, STEP, Segment(2.0, 0.2, 5)), abs=1e-9)
    ledger.close()


def test_everything_is_there_after_a_restart(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0))
    before = (ledger.head, ledger.state, ledger.spent())
    ledger.close()
    again = bench.open()
    assert (again.head, again.state, again.spent()) == before
    again.close()


def test_the_budget_cannot_be_passed_and_a_refusal_changes_nothing(bench: Bench):
    ledger = bench.open(BudgetPolicy(epsilon(STEP, STEP) + 1e-6, DELTA))
    take(ledger, spend(0))
    take(ledger, spend(1))
    before = ledger.head
    with pytest.raises(BudgetExhausted, match="round 2 of run 'run'") as refused:
        ledger.reserve(spend(2))
    assert refused.value.exit_code == 4
    with pytest.raises(BudgetExhausted):
        ledger.reserve(spend(0, OTHER, Segment(1.0, 0.1, 1)))
    assert ledger.head == before
    ledger.close()


def test_an_open_reservation_counts_in_full(bench: Bench):
    ledger = bench.open(BudgetPolicy(epsilon(STEP) + 1e-6, DELTA))
    held = ledger.reserve(spend(0))
    with pytest.raises(BudgetExhausted):
        ledger.reserve(spend(1))
    ledger.void(held, "training was stopped")
    take(ledger, spend(1))
    ledger.close()


def test_only_steps_that_were_taken_stay_spent(bench: Bench):
    ledger = bench.open()
    ledger.commit(ledger.reserve(spend(0)), 3, WORDS)
    assert ledger.spent().epsilon == pytest.approx(epsilon(Segment(1.0, 0.1, 3)), abs=1e-9)
    with pytest.raises(DataError):
        ledger.commit(ledger.reserve(spend(1)), STEP.steps + 1, WORDS)
    ledger.close()


def test_other_patients_have_a_budget_of_their_own(bench: Bench):
    ledger = bench.open(BudgetPolicy(epsilon(STEP) + 1e-6, DELTA))
    take(ledger, spend(0, patients=PATIENTS[:4]))
    take(ledger, spend(1, patients=PATIENTS[4:]))
    assert ledger.spent().epsilon == pytest.approx(epsilon(STEP), abs=1e-9)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(spend(2, patients=PATIENTS[3:5]))
    ledger.close()


def test_a_patient_in_two_data_sets_is_charged_for_both(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0, patients=PATIENTS[:5]))
    take(ledger, spend(0, OTHER, patients=PATIENTS[4:]))
    assert ledger.spent().epsilon == pytest.approx(epsilon(STEP, STEP), abs=1e-9)
    ledger.close()


def test_the_order_of_patients_makes_no_new_cohort(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0))
    take(ledger, spend(1, patients=PATIENTS[::-1]))
    assert list(ledger.state.cohorts.values()) == [len(PATIENTS)]
    ledger.close()


def test_nobody_is_not_a_cohort(bench: Bench):
    ledger = bench.open()
    with pytest.raises(DataError, match="no patients"):
        ledger.reserve(spend(patients=()))
    ledger.close()


def test_only_what_was_committed_is_released_and_a_retry_is_free(bench: Bench):
    ledger = bench.open()
    with pytest.raises(PolicyRefusal, match="knows no update"):
        ledger.release(RUN, Round(0), WORDS)
    held = ledger.reserve(spend(0))
    with pytest.raises(PolicyRefusal, match="knows no update"):
        ledger.release(RUN, Round(0), WORDS)
    ledger.commit(held, STEP.steps, WORDS)
    for wrong in [(OTHER, 0, WORDS), (RUN, 1, WORDS), (RUN, 0, Digest("e" * 64))]:
        with pytest.raises(PolicyRefusal, match="knows no update"):
            ledger.release(*wrong)
    ledger.release(RUN, Round(0), WORDS)
    before = ledger.head, ledger.spent()
    ledger.release(RUN, Round(0), WORDS)
    assert (ledger.head, ledger.spent()) == before
    ledger.close()


def test_a_reservation_is_decided_once(bench: Bench):
    ledger = bench.open()
    held = ledger.reserve(spend(0))
    ledger.void(held, "stopped")
    for again in (lambda: ledger.commit(held, 1, WORDS), lambda: ledger.void(held, "twice")):
        with pytest.raises(DataError):
            again()
    with pytest.raises(PolicyRefusal):
        ledger.release(RUN, Round(0), WORDS)
    ledger.close()


def test_a_reservation_of_a_process_that_died_is_void_and_says_so(bench: Bench):
    ledger = bench.open()
    held = ledger.reserve(spend(0))
    ledger.close()
    again = bench.open()
    assert again.state.reservations[held.number].stage is Stage.VOID
    assert again.spent().epsilon == 0
    assert bench.store is not None
    assert CRASHED in bench.store.load().records[-1].fields
    again.close()


def test_a_commit_without_a_release_stays_spent(bench: Bench):
    ledger = bench.open()
    ledger.commit(ledger.reserve(spend(0)), STEP.steps, WORDS)
    ledger.close()
    again = bench.open()
    assert again.spent().epsilon == pytest.approx(epsilon(STEP), abs=1e-9)
    again.release(RUN, Round(0), WORDS)
    again.close()


def test_a_new_cap_is_noted_and_in_force(bench: Bench):
    bench.open(BudgetPolicy(1.0, DELTA)).close()
    wider = bench.open(BudgetPolicy(2.0, DELTA))
    assert (wider.budget.epsilon, wider.head.records) == (2.0, 2)
    wider.close()


def test_delta_and_key_are_fixed_with_the_first_entry(bench: Bench):
    bench.open().close()
    with pytest.raises(ConfigError, match="begun with delta"):
        bench.open(BudgetPolicy(100.0, 1e-6))
    with pytest.raises(ConfigError, match="another key"):
        bench.open(key=bytes(32))


def test_a_ledger_that_fell_behind_what_others_saw_is_refused(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0))
    seen = ledger.head
    ledger.close()
    bench.open(noted=[seen]).close()
    for other in (Head(seen.records + 1, Digest("a" * 64)), Head(seen.records, Digest("a" * 64))):
        with pytest.raises(PolicyRefusal, match="not the one that was last seen"):
            bench.open(noted=[other])
        bench.anchor = MemoryAnchor(other)
        with pytest.raises(PolicyRefusal, match="not the one that was last seen"):
            bench.open()
        bench.anchor = MemoryAnchor(seen)


class FailingAnchor(MemoryAnchor):
    """The other disk is full."""

    failing = False

    def write(self, head: Head) -> None:
        """See Anchor."""
        if self.failing:
            raise BrokenStore("no space left")
        super().write(head)


def test_after_a_failure_nothing_more_is_granted_until_a_restart(bench: Bench):
    bench.anchor = FailingAnchor()
    ledger = bench.open()
    held = ledger.reserve(spend(0))
    bench.anchor.failing = True
    with pytest.raises(BrokenStore, match="no space"):
        ledger.commit(held, STEP.steps, WORDS)
    bench.anchor.failing = False
    with pytest.raises(BrokenStore, match="failed before"):
        ledger.commit(held, STEP.steps, WORDS)
    ledger.close()
    again = bench.open()
    assert again.spent().epsilon == pytest.approx(epsilon(STEP), abs=1e-9), "the commit had reached the disk"
    again.close()


def test_a_chain_that_was_edited_is_refused(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0))
    assert bench.store is not None
    stored = bench.store.load()
    ledger.close()
    for number in range(len(stored.records)):
        gap = [*stored.records[:number], *stored.records[number + 1 :]]
        forged = MemoryStore()
        forged.append(gap, stored.members)
        last = number == len(stored.records) - 1
        with pytest.raises(PolicyRefusal if last else DataError):
            Bench(lambda store=forged: store).open(noted=[ledger.head])


def test_members_of_a_cohort_cannot_be_changed(bench: Bench):
    ledger = bench.open()
    take(ledger, spend(0))
    assert bench.store is not None
    stored = bench.store.load()
    ledger.close()
    ((cohort, tags),) = stored.members.items()
    for members in ({}, {cohort: frozenset(sorted(tags)[1:])}, {cohort: tags, Digest("f" * 64): tags}):
        forged = MemoryStore()
        forged.append(stored.records, members)
        with pytest.raises(DataError, match="members of a cohort"):
            Bench(lambda store=forged: store).open()

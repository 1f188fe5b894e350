"""What a ledger says, for people and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fed_node.ledger.ledger import check_chain, worst_cost
from fed_node.ledger.store import Stored
from fedmentor.audit import Head
from fedmentor.errors import DataError
from fedmentor.privacy.accounting import Cost, TightEpsilon
from fedmentor.privacy.events import Budget, LedgerState, Reservation, replay


@dataclass(frozen=True)
class LedgerReport:
    """A checked ledger.

    Attributes:
        state: every reservation and cohort.
        budget: in force.
        spent: of the patient who was charged most.
        patients: different patients ever charged.
        head: of the chain.
    """

    state: LedgerState
    budget: Budget
    spent: Cost
    patients: int
    head: Head

    @property
    def lines(self) -> tuple[Reservation, ...]:
        """Reservations in order."""
        return tuple(self.state.reservations.values())

    def json(self) -> dict[str, Any]:
        """One JSON object."""
        return {
            "budget": {"unit": self.budget.unit, "epsilon": self.budget.epsilon, "delta": self.budget.delta},
            "spent": {
                "epsilon": self.spent.epsilon,
                "accountant": self.spent.accountant,
                "rdp": self.spent.rdp,
                "prv": self.spent.prv,
            },
            "patients": self.patients,
            "head": {"records": self.head.records, "hash": self.head.hash},
            "entries": [_entry(item, self.state) for item in self.lines],
        }


def read_report(stored: Stored, tight: TightEpsilon, noted: Sequence[Head] = ()) -> LedgerReport:
    """Check a ledger and sum it up.

    Raises:
        DataError: it was changed, or holds nothing.
        PolicyRefusal: it is behind a noted head.
    """
    head = check_chain(stored, noted)
    state = replay(stored.records)
    if state.budget is None:
        raise DataError("the privacy ledger holds no entry yet")
    everybody = frozenset[str]().union(*stored.members.values())
    spent = worst_cost(state, stored.members, everybody, (), tight)
    return LedgerReport(state, state.budget, spent, len(everybody), head)


def _entry(item: Reservation, state: LedgerState) -> dict[str, Any]:
    return {
        "number": item.number,
        "utc": item.utc,
        "run": item.run,
        "round": item.round,
        "patients": state.cohorts[item.cohort],
        "noise_multiplier": item.segment.noise_multiplier,
        "sampling_rate": item.segment.sampling_rate,
        "steps": item.segment.steps,
        "stage": item.stage.value,
        "released": item.released,
        "release": item.release,
        "epsilon_after": item.cost.epsilon,
        "accountant": item.cost.accountant,
    }

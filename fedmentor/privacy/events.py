"""The privacy ledger as a sequence of frozen events on a hash chain, and what the sequence says. Pure: no clock, no disk.

An entry is a record of fedmentor.audit whose event is one of those below; numbers that a bound depends on are kept as hexadecimal
floats, exact to the last bit. The meaning of an event never changes; an unknown one is refused, never skipped::

    budget    what may be spent: epsilon at delta for each patient. A later one replaces the cap alone
    cohort    a set of patients took part for the first time; only a keyed digest and a count stand in the chain
    reserve   steps that are about to be taken on a cohort, counted in full from here on
    commit    the steps that were taken and the SHA-256 of what may leave; counted for ever
    void      nothing of a reservation left this site, so it counts no longer
    release   what was committed was handed to the network for the first time

A patient's history is every reservation, open or committed, of every cohort that holds the patient: over rounds and over runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from fedmentor.audit import AuditRecord, Fields
from fedmentor.errors import DataError
from fedmentor.ids import Digest, Round, RunId
from fedmentor.privacy.accounting import Cost, History, Segment, compose

UNIT = "patient"


@dataclass(frozen=True)
class Budget:
    """What the patients of a site may be charged.

    Attributes:
        epsilon: most that any patient may spend, over all runs.
        delta: at which epsilon is computed.
        key_check: digest that recognises the site's key, without which patients cannot be told again.
        unit: whose budget it is.
    """

    epsilon: float
    delta: float
    key_check: Digest
    unit: str = UNIT

    def fields(self) -> Fields:
        """As an entry's fields."""
        return {"epsilon": self.epsilon.hex(), "delta": self.delta.hex(), "key_check": self.key_check, "unit": self.unit}


class Stage(Enum):
    """Where a reservation stands."""

    OPEN = "open"
    COMMITTED = "committed"
    VOID = "void"


@dataclass(frozen=True)
class Reservation:
    """Steps on a cohort.

    Attributes:
        number: sequence number of its entry; its name.
        run, round: what for.
        cohort: whose patients.
        segment: the mechanism and its steps: the reserved ones while open, the taken ones once committed.
        cost: of the patients' whole history with it, when it was reserved.
        utc: when it was reserved.
        stage: where it stands.
        release: SHA-256 of what may leave, where it is committed.
        released: whether that was handed to the network.
    """

    number: int
    run: RunId
    round: Round
    cohort: Digest
    segment: Segment
    cost: Cost
    utc: str
    stage: Stage = Stage.OPEN
    release: Digest | None = None
    released: bool = False

    @property
    def counted(self) -> Segment | None:
        """What it adds to its patients' history; None once it is void."""
        return None if self.stage is Stage.VOID else self.segment

    def fields(self, code_version: str) -> Fields:
        """As an entry's fields."""
        return {
            "run": self.run,
            "round": self.round,
            "cohort": self.cohort,
            "sigma": self.segment.noise_multiplier.hex(),
            "q": self.segment.sampling_rate.hex(),
            "steps": self.segment.steps,
            "eps_rdp": self.cost.rdp,
            "eps_prv": self.cost.prv,
            "code_version": code_version,
        }


@dataclass(frozen=True)
class LedgerState:
    """What a sequence of events adds up to.

    Attributes:
        budget: None before the first event.
        cohorts: patients of each cohort, by its digest.
        reservations: by number, in order.
    """

    budget: Budget | None = None
    cohorts: Mapping[Digest, int] = field(default_factory=dict)
    reservations: Mapping[int, Reservation] = field(default_factory=dict)

    @property
    def open(self) -> tuple[Reservation, ...]:
        """Reservations that are neither committed nor void."""
        return tuple(item for item in self.reservations.values() if item.stage is Stage.OPEN)

    def of_round(self, run: RunId, number: Round) -> tuple[Reservation, ...]:
        """Every reservation for one round."""
        return tuple(item for item in self.reservations.values() if (item.run, item.round) == (run, number))


def history_of(state: LedgerState, cohorts: Iterable[Digest]) -> History:
    """The composition of everything that counts for patients who are in exactly these cohorts."""
    chosen = frozenset(cohorts)
    counted = (item.counted for item in state.reservations.values() if item.cohort in chosen)
    return compose(segment for segment in counted if segment is not None)


def replay(records: Iterable[AuditRecord], state: LedgerState | None = None) -> LedgerState:
    """What records say, one after the other, after ``state``.

    Raises:
        DataError: an unknown or impossible event; the message names its sequence number.
    """
    now = state or LedgerState()
    for record in records:
        try:
            now = _APPLY[record.event](now, record.seq, _Fields(record))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"ledger entry {record.seq} is not one that this program knows", cure="use a newer version") from error
    return now


class _Fields:
    """Typed access to an entry's fields; a missing or mistyped one raises KeyError, TypeError or ValueError."""

    def __init__(self, record: AuditRecord) -> None:
        self._values: dict[str, Any] = json.loads(record.fields)
        self.utc = record.utc

    def text(self, name: str) -> str:
        value = self._values[name]
        if not isinstance(value, str):
            raise TypeError(name)
        return value

    def count(self, name: str) -> int:
        value = self._values[name]
        if type(value) is not int or value < 0:
            raise TypeError(name)
        return value

    def exact(self, name: str) -> float:
        return float.fromhex(self.text(name))

    def optional(self, name: str) -> float | None:
        value = self._values[name]
        return None if value is None else float(value)


def _budget(state: LedgerState, _number: int, fields: _Fields) -> LedgerState:
    budget = Budget(fields.exact("epsilon"), fields.exact("delta"), Digest(fields.text("key_check")), fields.text("unit"))
    if state.budget is not None and replace(state.budget, epsilon=budget.epsilon) != budget:
        raise ValueError("only the cap may change")
    return replace(state, budget=budget)


def _cohort(state: LedgerState, _number: int, fields: _Fields) -> LedgerState:
    return replace(state, cohorts={**state.cohorts, Digest(fields.text("cohort")): fields.count("patients")})


def _reserve(state: LedgerState, number: int, fields: _Fields) -> LedgerState:
    cohort = Digest(fields.text("cohort"))
    if cohort not in state.cohorts:
        raise ValueError("a cohort that nobody announced")
    segment = Segment(fields.exact("sigma"), fields.exact("q"), fields.count("steps"))
    cost = Cost(fields.optional("eps_rdp"), fields.optional("eps_prv"))
    place = RunId(fields.text("run")), Round(fields.count("round"))
    return _put(state, Reservation(number, *place, cohort, segment, cost, fields.utc))


def _commit(state: LedgerState, _number: int, fields: _Fields) -> LedgerState:
    held, taken = _held(state, fields, Stage.OPEN), fields.count("steps")
    if taken > held.segment.steps:
        raise ValueError("more steps than were reserved")
    segment = replace(held.segment, steps=taken)
    return _put(state, replace(held, segment=segment, stage=Stage.COMMITTED, release=Digest(fields.text("release"))))


def _void(state: LedgerState, _number: int, fields: _Fields) -> LedgerState:
    return _put(state, replace(_held(state, fields, Stage.OPEN), stage=Stage.VOID))


def _release(state: LedgerState, _number: int, fields: _Fields) -> LedgerState:
    return _put(state, replace(_held(state, fields, Stage.COMMITTED), released=True))


def _held(state: LedgerState, fields: _Fields, stage: Stage) -> Reservation:
    reservation = state.reservations[fields.count("reservation")]
    if reservation.stage is not stage:
        raise ValueError(f"reservation {reservation.number} is {reservation.stage.value}")
    return reservation


def _put(state: LedgerState, reservation: Reservation) -> LedgerState:
    return replace(state, reservations={**state.reservations, reservation.number: reservation})


_APPLY = {
    "budget": _budget,
    "cohort": _cohort,
    "reserve": _reserve,
    "commit": _commit,
    "void": _void,
    "release": _release,
}

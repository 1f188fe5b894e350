"""Where the run stands right now: the journal's state, and how long it has been so. Shared by the driver and the service.

Deadlines run on monotonic time. What has elapsed is kept in the journal at every checkpoint, so a restart goes on with the time
that was left; time in which no coordinator ran does not count, and the wall clock is never asked.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from coordinator.state import PhaseName, RunState, Traffic
from coordinator.store.journal import Journal, Transaction
from fedmentor.clock import Clock
from fedmentor.federation import StepName
from fedmentor.ids import Round, SiteId

STEP_OF: Final[Mapping[PhaseName, StepName]] = {
    PhaseName.ADVERTISE: StepName.ADVERTISE,
    PhaseName.SHARE: StepName.SHARE,
    PhaseName.COLLECT: StepName.UPLOAD,
    PhaseName.CONSENT: StepName.CONSENT,
    PhaseName.REVEAL: StepName.REVEAL,
}
"""What sites say in which phase of secure aggregation, in the order of the protocol."""

SHORT_STEPS: Final[Mapping[PhaseName, StepName]] = {
    phase: step for phase, step in STEP_OF.items() if phase is not PhaseName.COLLECT
}
"""The same without the uploads, which are asked for with the order to train."""


@dataclass(frozen=True)
class Moment:
    """A consistent look at the run.

    Attributes:
        state: as in the journal.
        phase_elapsed_s: running time of the phase until now.
        round_elapsed_s: running time of the round until now.
        delivered: sites whose update is accepted in this attempt.
        scored: sites that have scored this round's model; in the gate phase, the candidate for the next one.
        answered: sites that have said what a short step of secure aggregation asks of them; empty in other phases.
        set_aside: sites that have no part in the run any more.
    """

    state: RunState
    phase_elapsed_s: float
    round_elapsed_s: float
    delivered: frozenset[SiteId]
    scored: frozenset[SiteId]
    answered: frozenset[SiteId] = frozenset()
    set_aside: frozenset[SiteId] = frozenset()


class Progress:
    """The latest Moment; safe to share between threads."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._lock = threading.Lock()
        # Readers of the journal go one after another, so that none puts an older look over a newer one. Apart from the other lock:
        # whoever asks for now() may be an event loop, and does not wait for the disk.
        self._reading = threading.Lock()
        self._anchor_s = clock.monotonic_s()
        self._latest = journal.run_tx("read_progress", _look)

    def refresh(self) -> Moment:
        """Read the journal again."""
        with self._reading:
            self._take(self._journal.run_tx("read_progress", _look))
        return self.now()

    def now(self) -> Moment:
        """What was read last, with the times of now."""
        with self._lock:
            passed_s = self._clock.monotonic_s() - self._anchor_s
            latest = self._latest
        return replace(latest, phase_elapsed_s=latest.phase_elapsed_s + passed_s, round_elapsed_s=latest.round_elapsed_s + passed_s)

    def _take(self, latest: Moment) -> None:
        with self._lock:
            if latest.state != self._latest.state:
                self._anchor_s = self._clock.monotonic_s()
            self._latest = latest


def _look(tx: Transaction) -> Moment:
    state = tx.state()
    step = SHORT_STEPS.get(state.phase)
    gate = state.phase is PhaseName.GATE
    scores = tx.candidate_scores(Round(state.round + 1), state.attempt) if gate else tx.scores(state.round)
    return Moment(
        state=state,
        phase_elapsed_s=state.phase_elapsed_s,
        round_elapsed_s=state.round_elapsed_s,
        delivered=frozenset(update.site for update in tx.updates(state.round, state.attempt)),
        scored=frozenset(one.site for one in scores),
        answered=tx.answered(state.round, state.attempt, step) if step else frozenset(),
        set_aside=frozenset(entry.site for entry in tx.set_aside()),
    )


class TrafficMeter:
    """Counts payload bytes in memory until a transaction takes them along; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[Round, SiteId], Traffic] = {}

    def add(self, round_: Round, site: SiteId, *, up: int = 0, down: int = 0) -> None:
        """Count bytes."""
        with self._lock:
            old = self._counts.get((round_, site), Traffic(round_, site))
            self._counts[round_, site] = replace(old, bytes_up=old.bytes_up + up, bytes_down=old.bytes_down + down)

    def drain(self) -> tuple[Traffic, ...]:
        """What was counted since the last call."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return tuple(counts.values())

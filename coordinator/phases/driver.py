"""The one driver of the state machine: step, tell everybody, step again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from coordinator.events import Observer, PhaseEntered
from coordinator.phases.advertise import advertise
from coordinator.phases.aggregate import aggregate
from coordinator.phases.collect import collect
from coordinator.phases.consent import consent
from coordinator.phases.evaluate_last import evaluate_last
from coordinator.phases.failure import failure
from coordinator.phases.gate import gate
from coordinator.phases.idle import idle
from coordinator.phases.open_round import open_round
from coordinator.phases.phase import Context, Moved, Over, Phase
from coordinator.phases.publish import publish
from coordinator.phases.reveal import reveal
from coordinator.phases.share import share
from coordinator.phases.shutdown import shutdown
from coordinator.progress import Moment, Progress
from coordinator.state import PhaseName
from coordinator.store.journal import Transaction
from fedmentor.errors import BrokenStore

PHASES: Final[Mapping[PhaseName, Phase]] = {
    PhaseName.IDLE: idle,
    PhaseName.OPEN: open_round,
    PhaseName.ADVERTISE: advertise,
    PhaseName.SHARE: share,
    PhaseName.COLLECT: collect,
    PhaseName.CONSENT: consent,
    PhaseName.REVEAL: reveal,
    PhaseName.AGGREGATE: aggregate,
    PhaseName.GATE: gate,
    PhaseName.PUBLISH: publish,
    PhaseName.EVALUATE: evaluate_last,
    PhaseName.FAILURE: failure,
    PhaseName.SHUTDOWN: shutdown,
}

CHECKPOINT_S = 5.0
"""How often elapsed time is written down: a restart may give a phase this much extra time, and no more."""


class Driver:
    """Moves one run from phase to phase. ``step`` and ``drive`` belong to one thread, ``stop`` and ``fail`` to any.

    Args:
        context: the world.
        progress: where the run stands.
        notify: called after every transition, when the sites' directives may have changed.
        observe: is told every transition.
        woken: set by anyone when something happened that a phase may be waiting for.
    """

    def __init__(
        self, context: Context, progress: Progress, notify: Callable[[], None], observe: Observer, woken: threading.Event
    ) -> None:
        self._context = context
        self._progress = progress
        self._notify = notify
        self._observe = observe
        self._woken = woken
        self._stopped = False
        self._failure: BrokenStore | None = None

    def step(self) -> float | None:
        """Call the phase in force once.

        Returns:
            Seconds after which to call again at the latest (0: at once); None once the run is over.

        Raises:
            BrokenStore: the disk failed; what is in the journal holds, and a restart goes on from there.
        """
        moment = self._progress.refresh()
        match PHASES[moment.state.phase](self._context, moment):
            case Moved():
                self._observe(PhaseEntered(self._context.manifest.run, self._progress.refresh().state))
                self._notify()
                return 0.0
            case Over():
                return None
            case stay:
                self._checkpoint_when_due(moment)
                return min(stay.seconds, CHECKPOINT_S)

    def drive(self) -> bool:
        """Step until the run is over (True) or ``stop`` was called (False); raises what ``step`` raises or ``fail`` was given."""
        while not self._stopped:
            self._woken.clear()
            wait_s = self.step()
            if wait_s is None:
                return True
            if wait_s > 0 and not self._stopped:
                self._woken.wait(wait_s)
        if self._failure is not None:
            raise self._failure
        return False

    def stop(self) -> None:
        """Leave ``drive`` after the current step; nothing is lost by it."""
        self._stopped = True
        self._woken.set()

    def fail(self, error: BrokenStore) -> None:
        """Leave ``drive`` after the current step with an error that somebody else ran into."""
        self._failure = self._failure or error
        self.stop()

    def _checkpoint_when_due(self, moment: Moment) -> None:
        if moment.phase_elapsed_s - moment.state.phase_elapsed_s < CHECKPOINT_S:
            return
        traffic = self._context.meter.drain()

        def write(tx: Transaction) -> None:
            for counted in traffic:
                tx.add_traffic(counted)
            tx.put_state(replace(tx.state(), phase_elapsed_s=moment.phase_elapsed_s, round_elapsed_s=moment.round_elapsed_s))

        self._context.journal.run_tx("checkpoint_time", write)
        self._progress.refresh()

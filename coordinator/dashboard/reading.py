"""What the dashboard takes from the journal, in one read-only transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coordinator.conduct import SetAside, SiteFlag
from coordinator.progress import SHORT_STEPS
from coordinator.report import RunReport, read_report
from coordinator.state import PhaseName, RunState
from coordinator.store.journal import Transaction
from fedmentor.audit.checkpoint import Checkpoint
from fedmentor.federation import RunManifest, StepName
from fedmentor.ids import Round, SiteId

STEP_BEFORE: Final[Mapping[PhaseName, StepName]] = {
    PhaseName.SHARE: StepName.ADVERTISE,
    PhaseName.COLLECT: StepName.SHARE,
    PhaseName.REVEAL: StepName.CONSENT,
}
"""In a secure run, whoever answered this step is asked in that phase; in the consent phase, whoever delivered."""


@dataclass(frozen=True)
class Reading:
    """A consistent look at a journal.

    Attributes:
        asked: sites of which the phase in force asks something.
        done: those of them that have done it.
        delivered: sites whose update is accepted in this attempt.
        flags: of the whole run.
        checkpoint: the newest one.
        signers: who has countersigned it.
    """

    manifest: RunManifest
    state: RunState
    report: RunReport
    asked: frozenset[SiteId]
    done: frozenset[SiteId]
    delivered: frozenset[SiteId]
    flags: tuple[SiteFlag, ...]
    set_aside: tuple[SetAside, ...]
    checkpoint: Checkpoint | None
    signers: tuple[SiteId, ...]


def read(tx: Transaction) -> Reading | None:
    """Look at a journal; None where it holds no run yet. For run_tx.

    Raises:
        BrokenStore: the journal is damaged.
    """
    manifest = tx.manifest()
    if manifest is None:
        return None
    state, signed = tx.state(), tx.checkpoint()
    delivered = frozenset(update.site for update in tx.updates(state.round, state.attempt))
    asked = _asked(tx, manifest, state, delivered)
    return Reading(
        manifest=manifest,
        state=state,
        report=read_report(tx),
        asked=asked,
        done=asked & _done(tx, state, delivered),
        delivered=delivered,
        flags=tx.flags(),
        set_aside=tx.set_aside(),
        checkpoint=signed.checkpoint if signed else None,
        signers=tuple(one.site for one in tx.countersignatures(signed.records)) if signed else (),
    )


def _asked(tx: Transaction, manifest: RunManifest, state: RunState, delivered: frozenset[SiteId]) -> frozenset[SiteId]:
    taking_part = frozenset(manifest.roster) - {entry.site for entry in tx.set_aside()}
    before = STEP_BEFORE.get(state.phase)
    if manifest.secure is not None and before is not None:
        return taking_part & tx.answered(state.round, state.attempt, before)
    match state.phase:
        case PhaseName.CONSENT:
            return taking_part & delivered
        case PhaseName.IDLE | PhaseName.ADVERTISE | PhaseName.SHARE | PhaseName.COLLECT | PhaseName.GATE:
            return taking_part
        case PhaseName.EVALUATE if manifest.reports_scores:
            return taking_part
        case _:
            return frozenset()


def _done(tx: Transaction, state: RunState, delivered: frozenset[SiteId]) -> frozenset[SiteId]:
    step = SHORT_STEPS.get(state.phase)
    if step is not None:
        return tx.answered(state.round, state.attempt, step)
    match state.phase:
        case PhaseName.COLLECT:
            return delivered
        case PhaseName.GATE:
            return frozenset(one.site for one in tx.candidate_scores(Round(state.round + 1), state.attempt))
        case PhaseName.EVALUATE:
            return frozenset(one.site for one in tx.scores(state.round))
        case _:
            return frozenset()

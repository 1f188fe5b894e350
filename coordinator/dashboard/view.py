"""From a look at the journal, and what the process knows beside it, to what the dashboard shows: a pure function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from coordinator.dashboard.reading import Reading
from coordinator.dashboard.sightings import UNSEEN, Sighting
from coordinator.dashboard.sites import site_statuses
from coordinator.dashboard.status import (
    MAX_ROUNDS_SHOWN,
    AuditStatus,
    GateRule,
    GateStatus,
    PrivacyStatus,
    ProgressStatus,
    RoundStatus,
    RunStatus,
    Status,
)
from coordinator.dashboard.wording import (
    PATIENT_MECHANISM,
    PHASE_WORDS,
    SITE_MECHANISM,
    finite,
    headline,
    mode,
    shown_text,
    who_sees,
)
from coordinator.progress import SHORT_STEPS
from coordinator.report import GateReport, RoundReport
from coordinator.state import PhaseName, RunState
from fedmentor.federation import RunManifest
from fedmentor.ids import SiteId


@dataclass(frozen=True)
class Live:
    """What is known beside the journal.

    Attributes:
        now: of the clock; timezone-aware.
        state, phase_elapsed_s: the state that the process is in, and for how long; None where nobody drives the run.
        sightings: of each site on the roster; a site that is not in it was never seen.
        approved: whether the registrar signed the manifest.
        signs: whether this coordinator signs checkpoints.
        gather_s: the operator's bound on waiting for a quorum.
    """

    now: datetime
    state: RunState | None = None
    phase_elapsed_s: float = 0.0
    sightings: Mapping[SiteId, Sighting] = field(default_factory=dict)
    approved: bool = False
    signs: bool = False
    gather_s: float | None = None


def status_of(reading: Reading | None, live: Live) -> Status:
    """What the dashboard shows; the same for the same arguments."""
    if reading is None:
        return Status(utc=live.now.isoformat())
    rounds = reading.report.rounds[-MAX_ROUNDS_SHOWN:]
    return Status(
        utc=live.now.isoformat(),
        run=_run(reading.manifest, approved=live.approved),
        progress=_progress(reading, live),
        rounds=tuple(_round(reading.manifest, entry) for entry in rounds),
        rounds_left_out=len(reading.report.rounds) - len(rounds),
        sites=site_statuses(reading, live.sightings),
        privacy=_privacy(reading),
        gate=_gate_rule(reading.manifest),
        audit=_audit(reading, signs=live.signs),
    )


def _run(manifest: RunManifest, *, approved: bool) -> RunStatus:
    return RunStatus(
        name=manifest.run,
        manifest=manifest.digest,
        approved=approved,
        rounds=manifest.rounds,
        sites=len(manifest.roster),
        quorum=manifest.needed,
        architecture=shown_text(manifest.architecture),
        initialisation=shown_text(manifest.initialisation),
        mode=mode(manifest),
        who_sees=who_sees(manifest),
    )


def _progress(reading: Reading, live: Live) -> ProgressStatus:
    state, manifest = reading.state, reading.manifest
    elapsed_s, limit_s = _elapsed_s(state, live), _limit_s(manifest, state.phase, live)
    done, asked = len(_done(reading, live)), len(reading.asked)
    return ProgressStatus(
        headline=headline(state, manifest.rounds, done, asked),
        phase=state.phase.value,
        phase_words=PHASE_WORDS[state.phase],
        round=state.round,
        attempt=state.attempt,
        max_attempts=manifest.max_attempts,
        outcome=state.outcome.value if state.outcome else None,
        reason=shown_text(state.reason),
        model=state.model,
        elapsed_s=elapsed_s,
        left_s=None if limit_s is None else max(0.0, limit_s - elapsed_s),
        done=done,
        asked=asked,
    )


def _elapsed_s(state: RunState, live: Live) -> float:
    """Of the journal's state; the process may be a transition further, or behind."""
    same = live.state is not None and _place(live.state) == _place(state)
    return max(0.0, finite(live.phase_elapsed_s if same else state.phase_elapsed_s) or 0.0)


def _place(state: RunState) -> tuple[object, ...]:
    return state.phase, state.round, state.attempt


def _limit_s(manifest: RunManifest, phase: PhaseName, live: Live) -> float | None:
    if phase in SHORT_STEPS:
        return manifest.secure.step_seconds if manifest.secure else None
    match phase:
        case PhaseName.IDLE:
            return live.gather_s
        case PhaseName.COLLECT:
            return manifest.collect_seconds
        case PhaseName.GATE:
            return manifest.gate.seconds if manifest.gate else None
        case PhaseName.EVALUATE:
            return manifest.evaluate_seconds
        case _:
            return None


def _done(reading: Reading, live: Live) -> frozenset[SiteId]:
    if reading.state.phase is not PhaseName.IDLE:
        return reading.done
    return frozenset(site for site in reading.asked if live.sightings.get(site, UNSEEN).connected)


def _round(manifest: RunManifest, entry: RoundReport) -> RoundStatus:
    published = entry.published is not None
    spent = manifest.privacy_spent(entry.round + 1) if published else None
    return RoundStatus(
        round=entry.round,
        dice=finite(entry.dice),
        iou=finite(entry.iou),
        hd95=finite(entry.hd95),
        hd95_undefined=entry.hd95_undefined,
        worst_dice=finite(entry.worst_dice),
        worst_site=entry.worst_site,
        scored=len(entry.sites),
        published=published,
        void=entry.published == entry.model,
        accepted=len(entry.accepted),
        attempt=entry.attempt,
        seconds=finite(entry.seconds),
        bytes_up=sum(entry.bytes_up.values()),
        bytes_down=sum(entry.bytes_down.values()),
        flagged=tuple(sorted(entry.flags)),
        gate=_gate(entry.gate),
        epsilon=finite(spent.epsilon) if spent else None,
    )


def _gate(gate: GateReport | None) -> GateStatus | None:
    return None if gate is None else GateStatus(passed=gate.passed, sites=gate.sites, dice_drop=finite(gate.dice_drop) or 0.0)


def _privacy(reading: Reading) -> PrivacyStatus | None:
    manifest = reading.manifest
    plan = manifest.privacy or manifest.central_privacy
    if plan is None:
        return None
    spent = reading.report.privacy
    return PrivacyStatus(
        unit=plan.unit,
        mechanism=PATIENT_MECHANISM if plan.unit == "patient" else SITE_MECHANISM,
        delta=plan.delta,
        epsilon_cap=plan.epsilon,
        epsilon_spent=finite(spent.epsilon) or 0.0 if spent else 0.0,
        scores_reported=manifest.reports_scores,
    )


def _gate_rule(manifest: RunManifest) -> GateRule | None:
    gate = manifest.gate
    return None if gate is None else GateRule(max_dice_drop=gate.max_dice_drop, min_sites=gate.min_sites)


def _audit(reading: Reading, *, signs: bool) -> AuditStatus:
    checkpoint = reading.checkpoint
    return AuditStatus(
        records=reading.report.audit_records,
        head=reading.report.audit_head,
        signs=signs,
        checkpoint_records=checkpoint.records if checkpoint else None,
        checkpoint_head=checkpoint.head if checkpoint else None,
        checkpoint_utc=checkpoint.utc if checkpoint else None,
        countersigned=reading.signers,
    )

"""What a run has done so far, as one frozen value, written as JSON. Round r is about model r and the training from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from coordinator.state import AcceptedUpdate, PhaseName, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.journal import Transaction
from fedmentor.errors import BrokenStore
from fedmentor.federation import RunManifest
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.models import PrivacySpent, write_atomically

REPORT_FILE = "report.json"

MAX_SCORE_WEIGHT = 1000
"""Held-out patients above which a site gains no more weight in the means; what ``max_weight`` is by default for updates."""

Row = TypeVar("Row", SiteScores, Traffic)


class SiteReport(BaseModel):
    """One site's scores of one model.

    Attributes:
        hd95: pixels at 256 x 256; None where it is undefined for every image.
        hd95_undefined: images that ``hd95`` leaves out, because mask or prediction is empty; None where the site did not say.
    """

    model_config = ConfigDict(frozen=True)

    patients: int
    images: int
    dice: float
    iou: float
    hd95: float | None
    hd95_undefined: int | None = None


class GateReport(BaseModel):
    """What the model gate said of the round's model; see fedmentor.gate."""

    model_config = ConfigDict(frozen=True)

    passed: bool
    sites: int
    dice_drop: float


class RoundReport(BaseModel):
    """Model r on the sites, and the training from it.

    Attributes:
        round: r; the last entry of a finished run has no training.
        model: digest of model r.
        dice, iou, hd95: means over sites, weighted by held-out patients (see patient_mean); None before any site reported.
        hd95_undefined: images that ``hd95`` leaves out, of all sites; None where a site did not say.
        worst_site, worst_dice: the site on which the model does worst.
        sites: scores of each site.
        attempt: the attempt that succeeded.
        accepted: sites whose update is in model r + 1; none where the round is void.
        weights: share of each of them; the shares sum to 1. Empty in a secure run, where they are under the mask.
        published: digest of model r + 1.
        seconds: running time from opening to publication.
        bytes_up, bytes_down: payload of each site.
        gate: what the model gate said; None where the manifest has none.
        flags: why sites were flagged in the attempt; see fedmentor.robust.Flag.
    """

    model_config = ConfigDict(frozen=True)

    round: Round
    model: Digest
    dice: float | None = None
    iou: float | None = None
    hd95: float | None = None
    hd95_undefined: int | None = None
    worst_site: SiteId | None = None
    worst_dice: float | None = None
    sites: dict[SiteId, SiteReport] = {}
    attempt: Attempt | None = None
    accepted: tuple[SiteId, ...] = ()
    weights: dict[SiteId, float] = {}
    published: Digest | None = None
    seconds: float | None = None
    bytes_up: dict[SiteId, int] = {}
    bytes_down: dict[SiteId, int] = {}
    gate: GateReport | None = None
    flags: dict[SiteId, tuple[str, ...]] = {}


class RunReport(BaseModel):
    """A run so far.

    Attributes:
        phase, round, attempt: what is in force.
        outcome: ``completed`` or ``failed``; None while the run goes on.
        reason: why an attempt or the run failed.
        model: digest of the model in force.
        audit_records, audit_head: length and last hash of the audit chain, to be noted elsewhere.
        rounds: finished rounds, then the one in force.
        set_aside: sites that have no part in the run any more.
        privacy: what the model in force claims; None where the run promises nothing.
    """

    model_config = ConfigDict(frozen=True)

    run: RunId
    manifest: Digest
    roster: tuple[SiteId, ...]
    quorum: int
    total_rounds: int
    phase: str
    round: Round
    attempt: Attempt
    outcome: str | None
    reason: str
    model: Digest
    audit_records: int
    audit_head: Digest | None
    rounds: tuple[RoundReport, ...]
    set_aside: tuple[SiteId, ...] = ()
    privacy: PrivacySpent | None = None


def read_report(tx: Transaction) -> RunReport:
    """The report of the run in a journal; for run_tx.

    Raises:
        BrokenStore: the journal holds no run.
    """
    manifest = tx.manifest()
    if manifest is None:
        raise BrokenStore("the journal holds no run yet")
    state, scores, traffic = tx.state(), _by_round(tx.scores()), _by_round(tx.traffic())
    conduct = _conduct(tx)
    rounds = [
        _with_conduct(
            round_report(
                done.round, done.base_model, scores[done.round], traffic[done.round], done, tx.updates(done.round, done.attempt)
            ),
            tx.shares(done.round, done.attempt),
            conduct.get((done.round, done.attempt), _NOTHING_SAID),
        )
        for done in tx.rounds()
    ]
    if state.phase is not PhaseName.SHUTDOWN or scores[state.round]:
        rounds.append(round_report(state.round, state.model, scores[state.round], traffic[state.round]))
    audit = tx.audit_head()
    return RunReport(
        **_run_fields(manifest, state),
        audit_records=audit.records,
        audit_head=audit.hash if audit.records else None,
        set_aside=tuple(entry.site for entry in tx.set_aside()),
        privacy=manifest.privacy_spent(state.round) if state.round else None,
        rounds=tuple(rounds),
    )


def round_report(
    round_: Round,
    model: Digest,
    scores: Iterable[SiteScores],
    traffic: Iterable[Traffic],
    done: PublishedRound | None = None,
    updates: Sequence[AcceptedUpdate] = (),
) -> RoundReport:
    """One round out of the journal's rows; rows of other rounds are skipped."""
    mine = {score.site: score for score in scores if score.round == round_}
    bytes_ = [counted for counted in traffic if counted.round == round_]
    worst = min(mine.values(), key=lambda score: (score.dice, score.site), default=None)
    total = sum(update.weight_word for update in updates)
    return RoundReport(
        round=round_,
        model=model,
        dice=patient_mean({site: score.dice for site, score in mine.items()}, mine),
        iou=patient_mean({site: score.iou for site, score in mine.items()}, mine),
        hd95=patient_mean({site: score.hd95 for site, score in mine.items()}, mine),
        hd95_undefined=_undefined(mine.values()),
        worst_site=worst.site if worst else None,
        worst_dice=worst.dice if worst else None,
        sites={site: _site_report(score) for site, score in mine.items()},
        attempt=done.attempt if done else None,
        accepted=done.sites if done else (),
        weights={update.site: update.weight_word / total for update in updates} if total else {},
        published=done.model if done else None,
        seconds=done.seconds if done else None,
        bytes_up={counted.site: counted.bytes_up for counted in bytes_},
        bytes_down={counted.site: counted.bytes_down for counted in bytes_},
    )


def _site_report(score: SiteScores) -> SiteReport:
    return SiteReport(
        patients=score.patients,
        images=score.images,
        dice=score.dice,
        iou=score.iou,
        hd95=score.hd95,
        hd95_undefined=score.hd95_undefined,
    )


def _undefined(scores: Iterable[SiteScores]) -> int | None:
    """How many images the mean of HD95 leaves out; None where nobody scored, or one did not say."""
    counts = [score.hd95_undefined for score in scores]
    told = [count for count in counts if count is not None]
    return sum(told) if told and len(told) == len(counts) else None


@dataclass(frozen=True)
class _Conduct:
    """What the journal says about the sites' conduct in one attempt."""

    gate: GateReport | None = None
    flags: Mapping[SiteId, tuple[str, ...]] = field(default_factory=dict)


_NOTHING_SAID = _Conduct()


def _conduct(tx: Transaction) -> dict[tuple[Round, Attempt], _Conduct]:
    gates = {
        (one.round, one.attempt): GateReport(passed=one.passed, sites=one.sites, dice_drop=one.drop) for one in tx.gate_records()
    }
    flags: defaultdict[tuple[Round, Attempt], dict[SiteId, tuple[str, ...]]] = defaultdict(dict)
    for one in tx.flags():
        mine = flags[one.round, one.attempt]
        mine[one.site] = (*mine.get(one.site, ()), one.flag.value)
    return {key: _Conduct(gates.get(key), flags.get(key, {})) for key in gates.keys() | flags.keys()}


def _with_conduct(report: RoundReport, shares: Mapping[SiteId, float], conduct: _Conduct) -> RoundReport:
    """The report of a finished round with what its rule and its gate did; of a void one, nobody's update is in the model."""
    void = report.published == report.model
    weights = shares or report.weights
    accepted = tuple(site for site in report.accepted if site in weights) if weights else report.accepted
    changes = {"gate": conduct.gate, "flags": dict(conduct.flags)}
    return report.model_copy(update={**changes, "accepted": () if void else accepted, "weights": {} if void else dict(weights)})


def patient_mean(values: Mapping[SiteId, float | None], scores: Mapping[SiteId, SiteScores]) -> float | None:
    """Mean over sites weighted by held-out patients, leaving out sites without a value; None if none has one.

    A site counts MAX_SCORE_WEIGHT patients at most: how many it has is its own word.
    """
    known = [(value, min(scores[site].patients, MAX_SCORE_WEIGHT)) for site, value in values.items() if value is not None]
    patients = sum(count for _, count in known)
    return sum(value * count for value, count in known) / patients if patients else None


def write_report(folder: Path, report: RunReport) -> None:
    """Replace ``report.json`` in the state folder."""
    write_atomically(folder / REPORT_FILE, (report.model_dump_json(indent=2) + "\n").encode())


def round_line(report: RoundReport, total_rounds: int) -> str:
    """One line for people: round, sites, Dice, worst site, bytes up, seconds."""
    parts = [f"round {report.round}/{total_rounds}"]
    if report.published == report.model:
        parts.append("void")
    elif report.published:
        parts.append(f"{len(report.accepted)} sites")
    if report.dice is not None:
        parts += [f"Dice {report.dice:.4f}", f"worst {report.worst_dice:.4f} ({report.worst_site})"]
    else:
        parts.append("no scores")
    if report.published:
        parts += [f"{sum(report.bytes_up.values()) / 1e6:.1f} MB up", f"{report.seconds:.1f} s"]
    return "  ".join(parts)


def _by_round(rows: Iterable[Row]) -> defaultdict[Round, list[Row]]:
    """Grouped once: a search of all rows for each round would grow with the square of the run's length."""
    groups: defaultdict[Round, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.round].append(row)
    return groups


def _run_fields(manifest: RunManifest, state: RunState) -> dict[str, object]:
    return {
        "run": manifest.run,
        "manifest": manifest.digest,
        "roster": manifest.roster,
        "quorum": manifest.quorum,
        "total_rounds": manifest.rounds,
        "phase": state.phase.value,
        "round": state.round,
        "attempt": state.attempt,
        "outcome": state.outcome.value if state.outcome else None,
        "reason": state.reason,
        "model": state.model,
    }

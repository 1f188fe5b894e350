"""Sentences of the dashboard: what a phase is, who can see what, how privacy is kept. Pure; for people who did not write it."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Final

from coordinator.dashboard.status import MAX_REASON_CHARACTERS
from coordinator.progress import SHORT_STEPS
from coordinator.state import PhaseName, RunState
from fedmentor.federation import Outcome, RunManifest
from fedmentor.ids import Round

PHASE_WORDS: Final[Mapping[PhaseName, str]] = {
    PhaseName.IDLE: "waiting for sites to connect",
    PhaseName.OPEN: "the round begins",
    PhaseName.ADVERTISE: "sites exchange keys, so that updates can be masked",
    PhaseName.SHARE: "sites share what the masks are made of",
    PhaseName.COLLECT: "sites train and send their updates",
    PhaseName.CONSENT: "sites agree on whose updates are summed",
    PhaseName.REVEAL: "sites take the masks off the sum",
    PhaseName.AGGREGATE: "the next model is made",
    PhaseName.GATE: "sites try the next model before it is published",
    PhaseName.PUBLISH: "the next model is published",
    PhaseName.EVALUATE: "sites score the last model",
    PhaseName.FAILURE: "the attempt failed",
    PhaseName.SHUTDOWN: "the run is over",
}

PATIENT_MECHANISM = (
    "Each site clips and adds noise while it trains (DP-SGD). Epsilon bounds what all that leaves a site tells about one patient."
)
SITE_MECHANISM = (
    "The coordinator clips each update and adds noise to their sum (DP-FedAvg). Epsilon bounds what the models tell about one site."
)


def headline(state: RunState, rounds: int, done: int, asked: int) -> str:
    """Where a run stands, in one sentence.

    Args:
        rounds: of the whole run.
        done, asked: see ProgressStatus.
    """
    if state.outcome is Outcome.COMPLETED:
        return f"The run is complete: {counted(rounds, 'round')}"
    if state.outcome is Outcome.FAILED:
        return f"The run failed in round {state.round}"
    if state.phase in SHORT_STEPS:
        return f"Round {state.round}: {done} of {counted(asked, 'site')} {'has' if done == 1 else 'have'} answered"
    match state.phase:
        case PhaseName.IDLE:
            return f"Round {state.round}: {done} of {counted(asked, 'site')} connected"
        case PhaseName.COLLECT:
            return f"Round {state.round}: {done} of {counted(asked, 'update')} here"
        case PhaseName.GATE:
            return f"Round {state.round}: its model was tried by {done} of {counted(asked, 'site')}"
        case PhaseName.EVALUATE:
            return f"The last model was scored by {done} of {counted(asked, 'site')}"
        case phase:
            return f"Round {state.round}: {PHASE_WORDS[phase]}"


def mode(manifest: RunManifest) -> str:
    """How updates are combined, by the name that `coordinator manifest --aggregation` gives it."""
    if manifest.secure is None:
        return "plain" if manifest.robust is None else "plain+robust"
    return "secagg" if manifest.secure.groups == 1 else "secagg-grouped"


def who_sees(manifest: RunManifest) -> tuple[str, ...]:
    """Who can see what in a run, one sentence each."""
    return (
        "Images never leave their site.",
        _coordinator_sees(manifest),
        "Sites see the published models and the audit trail, never another site's update.",
        "Of each model, sites report the mean scores over their held-out patients, and how many these are."
        if manifest.reports_scores
        else "Sites report no scores: a mean over patients is not covered by the noise.",
    )


def _coordinator_sees(manifest: RunManifest) -> str:
    if manifest.secure is None:
        rule = f" Its rule against malicious sites: {manifest.robust.rule.rule}." if manifest.robust else ""
        return f"The coordinator sees the update of every single site.{rule}"
    if manifest.secure.groups == 1:
        return f"The coordinator sees only sums over {manifest.smallest_sum} sites or more, never the update of a single site."
    groups = f"{manifest.secure.groups} groups of {manifest.smallest_sum} sites or more"
    return f"The coordinator sees only the sum of each of {groups}; the median of the groups makes the model."


def shown_text(text: str) -> str:
    """Text from outside, fit to be shown: printable characters only (no line ends, no marks that turn the writing round), cut."""
    printable = "".join(character if character.isprintable() else " " for character in text[: 2 * MAX_REASON_CHARACTERS])
    return printable if len(printable) <= MAX_REASON_CHARACTERS else f"{printable[: MAX_REASON_CHARACTERS - 1]}…"


def counted(number: int, noun: str) -> str:
    """``1 site``, ``2 sites``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def set_aside_reason(flagged: Mapping[str, tuple[Round, ...]]) -> str:
    """Why a site has no part in the run any more.

    Args:
        flagged: the rounds in which it was flagged, by flag.
    """
    return "; ".join(f"{flag} in round {', '.join(map(str, rounds))}" for flag, rounds in flagged.items())


def finite(value: float | None) -> float | None:
    """A number that JSON knows, which has no NaN and no infinity; None for anything else."""
    return value if value is not None and isfinite(value) else None

"""What a check found, and what a command ends with because of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from fedmentor.errors import EXIT_CONFIG, EXIT_OK, EXIT_PEER, EXIT_POLICY, FedMentorError


class Level(Enum):
    """How serious a finding is."""

    GOOD = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        check: what was looked at, one word.
        level: how serious it is; only a fault keeps the node from running.
        what: one sentence about what is.
        cure: what to do; may be empty.
        exit_code: of a fault; see fedmentor.errors.
    """

    check: str
    level: Level
    what: str
    cure: str = ""
    exit_code: int = EXIT_CONFIG


def good(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Level.GOOD, what)


def note(check: str, what: str, cure: str = "") -> Finding:
    """Good to know."""
    return Finding(check, Level.NOTE, what, cure)


def warning(check: str, what: str, cure: str) -> Finding:
    """The node runs, but somebody should look at this."""
    return Finding(check, Level.WARNING, what, cure)


def fault(check: str, what: str, cure: str, exit_code: int = EXIT_CONFIG) -> Finding:
    """The node will not run, or not do its part."""
    return Finding(check, Level.FAULT, what, cure, exit_code)


def fault_of(check: str, error: FedMentorError) -> Finding:
    """An error that the node itself would end with."""
    return fault(check, error.message, error.cure or "see docs/hospital.md, Troubleshooting", error.exit_code)


def exit_code(findings: Iterable[Finding]) -> int:
    """What the command ends with: 3 before 4 before 5, as a node would meet them; 0 without a fault."""
    codes = {finding.exit_code for finding in findings if finding.level is Level.FAULT}
    return next((code for code in (EXIT_CONFIG, EXIT_POLICY, EXIT_PEER) if code in codes), max(codes, default=EXIT_OK))

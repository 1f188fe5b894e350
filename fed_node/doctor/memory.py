"""What the node remembers: outbox and privacy ledger, looked at without changing a byte."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fed_node.doctor.finding import Finding, fault, fault_of, good, note, warning
from fed_node.ledger.report import LedgerReport, read_report
from fed_node.ledger.sqlite import DATABASE_FILE as LEDGER_FILE
from fed_node.ledger.sqlite import FileAnchor, SqliteStore
from fed_node.outbox_store import DATABASE_FILE as OUTBOX_FILE
from fed_node.outbox_store import LOCK_FILE, SCHEMA_VERSION
from fedmentor.errors import EXIT_BUG, EXIT_POLICY, FedMentorError
from fedmentor.privacy.accounting import TightEpsilon

BUDGET_WARNING_SHARE = 0.8
"""Of the budget: with more than this spent the site will soon have to leave."""


@dataclass(frozen=True)
class OutboxFacts:
    """What lies in the outbox.

    Attributes:
        version: of the schema.
        runs: joined so far.
        ready: updates that wait for their receipt.
        receipts: updates that were acknowledged.
        last_receipt: when the newest of those was; None without one.
    """

    version: int
    runs: int
    ready: int
    receipts: int
    last_receipt: datetime | None


def outbox(facts: OutboxFacts | None, *, running: bool) -> list[Finding]:
    """Whether the outbox is one that this version can use."""
    busy = [note("outbox", "a node works in this state folder now")] if running else []
    if facts is None:
        return [*busy, good("outbox", "empty: no node has run here yet")]
    if facts.version != SCHEMA_VERSION:
        cure = "use the version that made it, or a new state folder"
        return [*busy, fault("outbox", "it was written by another version of this program", cure)]
    said = f"{facts.runs} runs joined, {facts.receipts} updates acknowledged"
    if facts.ready:
        return [*busy, note("outbox", f"{said}, {facts.ready} waiting to be sent", "start the node: it sends them first")]
    return [*busy, good("outbox", f"{said}, nothing waiting")]


def ledger(report: LedgerReport | None, max_epsilon: float) -> list[Finding]:
    """How much of the patients' privacy is spent."""
    if report is None:
        return [good("ledger", "there is none: this site never joined a private run")]
    spent, budget = report.spent.epsilon, min(report.budget.epsilon, max_epsilon)
    chain = f"head {report.head.hash[:12]} after {report.head.records} records"
    said = f"epsilon {spent:.3f} of {budget:g} spent on {report.patients} patients; {chain}"
    if spent >= budget:
        return [warning("ledger", said, "private runs will be refused for these patients; see docs/privacy.md")]
    if spent > budget * BUDGET_WARNING_SHARE:
        return [warning("ledger", said, "plan the last private runs of these patients")]
    return [good("ledger", said)]


def outbox_findings(state: Path) -> tuple[list[Finding], OutboxFacts | None]:
    """Look at the outbox of a state folder."""
    running = is_locked(state / LOCK_FILE, _proc_locks())
    try:
        facts = read_outbox(state / OUTBOX_FILE)
    except sqlite3.Error as error:
        cure = "check the disk of the state folder; keep the file, and use a new state folder"
        return [fault("outbox", f"{state / OUTBOX_FILE} cannot be read: {error}", cure, EXIT_BUG)], None
    return outbox(facts, running=running), facts


def ledger_findings(state: Path, anchor: Path | None, max_epsilon: float, tight: Callable[[], TightEpsilon]) -> list[Finding]:
    """Look at the ledger of a state folder.

    Args:
        state: the folder.
        anchor: file that notes the ledger's head, or None.
        max_epsilon: of the settings.
        tight: gives the tighter accountant; called where there is a ledger only, because it takes seconds to import.
    """
    try:
        noted = FileAnchor(anchor).read() if anchor is not None else None
        if not (state / LEDGER_FILE).is_file():
            if noted is not None:
                cure = "restore the state folder; a node with a new one would spend the patients' privacy twice"
                return [fault("ledger", f"there is none in {state}, but {anchor} notes one", cure, EXIT_POLICY)]
            return ledger(None, max_epsilon)
        with closing(SqliteStore(state, read_only=True)) as store:
            stored = store.load()
        return (
            ledger(read_report(stored, tight(), [] if noted is None else [noted]), max_epsilon)
            if stored.records
            else ledger(None, max_epsilon)
        )
    except FedMentorError as error:
        return [fault_of("ledger", error)]


def read_outbox(path: Path) -> OutboxFacts | None:
    """Count what lies in an outbox; None where there is none. Makes no file.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    if not path.is_file():
        return None
    mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            return None if version == 0 else OutboxFacts(version, 0, 0, 0, None)
        (runs,) = database.execute("SELECT count(*) FROM manifest").fetchone()
        (ready,) = database.execute("SELECT count(*) FROM update_entry WHERE stage = 'ready' AND length(words) > 0").fetchone()
        receipts, last = database.execute("SELECT count(*), max(accepted_utc) FROM receipt").fetchone()
    return OutboxFacts(version, runs, ready, receipts, datetime.fromisoformat(last) if last else None)


def is_locked(path: Path, proc_locks: str) -> bool:
    """Whether some process holds a file's lock, from the text of /proc/locks: trying it could keep a node from starting."""
    try:
        status = path.stat()
    except OSError:
        return False
    name = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(name in line.split() for line in proc_locks.splitlines())


def _proc_locks() -> str:
    try:
        return Path("/proc/locks").read_text()
    except OSError:
        return ""

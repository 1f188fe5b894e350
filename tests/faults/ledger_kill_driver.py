"""Kills a site's process around reserve, commit and release until it has died so many times; prints what it found as JSON.

    python ledger_kill_driver.py FOLDER KILLS SEED [BUG]

Each life is a forked process that opens the ledger, sends what the last life left in its outbox, and goes on with rounds. It dies
by SIGKILL at the n-th failpoint that it passes, n at random. What it sent is in ``world``, appended and fsynced: the truth about
what left the site. After every death:

    I1  every update that left was committed before, with its content and at least its steps
    I2  the steps that count are at least the steps that left
    I3  the chain is sound and not behind its anchor
    I4  nobody is over the budget; a life that is refused ends cleanly, and the next site begins

A BUG turns the order of two steps round: ``send-first`` sends before it commits, ``forget`` voids what it has sent.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger, Spend
from fed_node.ledger.report import read_report
from fed_node.ledger.sqlite import FileAnchor, SqliteStore, site_key
from fedmentor.audit import Head
from fedmentor.clock import SystemClock
from fedmentor.errors import BudgetExhausted
from fedmentor.ids import Digest, Round, RunId, SiteId
from fedmentor.privacy.accounting import Segment, no_tight_bound
from fedmentor.privacy.events import Stage
from fedmentor.tensors import sha256_hex

RUN = RunId("run")
STEP = Segment(1.0, 0.1, 5)
POLICY = BudgetPolicy(4.0, 1e-5)
PATIENTS = [f"patient-{number}" for number in range(6)]
ROUNDS_A_LIFE = 2
REFUSED, DONE = 4, 0
FAILPOINTS_A_LIFE = 34


@dataclass
class Found:
    """Counts over all lives."""

    kills: int = 0
    sites: int = 0
    left: int = 0
    refused: int = 0
    undercounted: int = 0
    places: Counter[str] = field(default_factory=Counter)


class Death:
    """Counts failpoints down to this life's end; says where it was."""

    def __init__(self, after: int, note: Path) -> None:
        self._left, self._note = after, note
        self.doing = "open"

    def __call__(self, place: str) -> None:
        """One failpoint."""
        self._left -= 1
        if self._left == 0:
            self._note.write_text(f"{self.doing}: {place}")
            os.kill(os.getpid(), signal.SIGKILL)


class MortalAnchor(FileAnchor):
    """An anchor with a failpoint on both sides."""

    def __init__(self, path: Path, death: Callable[[str], None]) -> None:
        super().__init__(path)
        self._death = death

    def write(self, head: Head) -> None:
        """See Anchor."""
        self._death("before anchor")
        super().write(head)
        self._death("after anchor")


def append(path: Path, line: dict[str, object]) -> None:
    """A line that is on disk when this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, json.dumps(line).encode() + b"\n")
    os.fsync(handle)
    os.close(handle)


def lines(path: Path) -> list[dict[str, object]]:
    """What append() wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def live(site: Path, death: Death, bug: str) -> int:
    """One life of a site."""
    store = SqliteStore(site / "state", failpoint=death)
    ports = LedgerPorts(store, site_key(site / "state"), SystemClock(), no_tight_bound, MortalAnchor(site / "anchor", death))
    ledger = PrivacyLedger(SiteId("north"), POLICY, ports)
    for entry in lines(site / "outbox"):
        if entry not in lines(site / "world"):
            send(site, ledger, entry, death)
    first = len(lines(site / "outbox"))
    for number in range(first, first + ROUNDS_A_LIFE):
        try:
            one_round(site, ledger, number, death, bug)
        except BudgetExhausted:
            return REFUSED
    ledger.close()
    return DONE


def one_round(site: Path, ledger: PrivacyLedger, number: int, death: Death, bug: str) -> None:
    """Reserve, train, commit, outbox, release, send."""
    death.doing = "reserve"
    reservation = ledger.reserve(Spend(RUN, Round(number), STEP, PATIENTS))
    death("after reserve")
    entry = {"round": number, "sha256": sha256_hex([os.urandom(16)]), "steps": STEP.steps}
    if bug == "send-first":
        append(site / "world", entry)
    death.doing = "commit"
    death("before commit call")
    if bug == "forget":
        append(site / "world", entry)
        ledger.void(reservation, "a planted bug")
        return
    ledger.commit(reservation, STEP.steps, Digest(str(entry["sha256"])))
    death("after commit call")
    append(site / "outbox", entry)
    death("after outbox")
    if bug != "send-first":
        send(site, ledger, entry, death)


def send(site: Path, ledger: PrivacyLedger, entry: dict[str, object], death: Death) -> None:
    """The gate, and the network behind it."""
    death.doing = "release"
    ledger.release(RUN, Round(int(str(entry["round"]))), Digest(str(entry["sha256"])))
    death("after release")
    append(site / "world", entry)
    death("after send")


def check(site: Path, found: Found) -> None:
    """The invariants, on what is on disk now."""
    if not (site / "state" / "ledger.sqlite").exists():
        return
    store = SqliteStore(site / "state", read_only=True)
    stored = store.load()
    store.close()
    noted = FileAnchor(site / "anchor").read()
    if not stored.records:
        if noted is not None or lines(site / "world"):
            found.undercounted += 1
        return
    report = read_report(stored, no_tight_bound, [] if noted is None else [noted])  # I3
    committed = {item.release: item.segment.steps for item in report.lines if item.stage is Stage.COMMITTED}
    left = lines(site / "world")
    counted = sum(item.counted.steps for item in report.lines if item.counted is not None)
    whole = all(committed.get(Digest(str(entry["sha256"])), -1) >= int(str(entry["steps"])) for entry in left)  # I1
    enough = counted >= sum(int(str(entry["steps"])) for entry in left)  # I2
    within = report.spent.epsilon <= POLICY.epsilon  # I4
    found.undercounted += not (whole and enough and within)


def one_life(site: Path, after: int, bug: str, found: Found) -> bool:
    """Fork, wait, check; False when the site's budget is used up."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(live(site, Death(after, site / "death"), bug))
        except BaseException:  # noqa: BLE001 - the child must never return into the parent's code
            sys.excepthook(*sys.exc_info())
            os._exit(70)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        found.kills += 1
        found.places[(site / "death").read_text()] += 1
    elif os.WEXITSTATUS(status) not in (DONE, REFUSED):
        raise SystemExit(f"a life ended with {os.WEXITSTATUS(status)}")
    check(site, found)
    return not (os.WIFEXITED(status) and os.WEXITSTATUS(status) == REFUSED)


def main(folder: Path, kills: int, seed: int, bug: str = "") -> Found:
    """Kill until it is enough."""
    dice, found = random.Random(seed), Found()
    while found.kills < kills:
        site = folder / f"site-{found.sites}"
        site.mkdir()
        found.sites += 1
        while found.kills < kills and one_life(site, dice.randint(1, FAILPOINTS_A_LIFE), bug, found):
            pass
        found.refused += found.kills < kills
        found.left += len(lines(site / "world"))
    return found


if __name__ == "__main__":
    result = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:5])
    sys.stdout.write(json.dumps(vars(result)) + "\n")

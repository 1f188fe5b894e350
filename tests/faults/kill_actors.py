"""The processes of kill_driver.py: a coordinator or a site in a process of its own, and the places where it can die.

A process dies by SIGKILL at the n-th time that it passes a named place. Places are before, inside (at COMMIT) and after every named
transaction of the journal, the outbox and the witness's store; before and after every fsync; before every file that is opened for
writing, renamed or removed. Reading transactions have none. Ports and the standard library are wrapped in these processes only.

Planted bugs: ``outbox-in-memory`` and ``marks-in-memory`` are what they say; ``spool-in-memory`` loses what is spooled.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import simulated_site
from simulated_federation import GRACE_SECONDS, Federation
from simulated_site import COORDINATOR_KEY, Site

from coordinator.app import JOURNAL_FILE, SPOOL_FOLDER, EngineParts, build_engine
from coordinator.audit.notary import Notary
from coordinator.phases.phase import PhaseLimits
from coordinator.store.sqlite import SqliteJournal
from fed_node.marks import MemoryMarks
from fed_node.outbox import MemoryOutbox
from fed_node.outbox_store import SqliteOutbox
from fed_node.witness_store import SqliteWitnessStore
from fedmentor import errors
from fedmentor.errors import CoordinatorUnreachable, FedMentorError
from fedmentor.federation import Directive
from fedmentor.testing.clock import ManualClock

READS = frozenset(
    {"close", "memory", "uploaded", "find", "ready", "last_receipt", "pinned", "noted", "hash_of", "knows", "model_before"}
)
"""Methods of a site's stores that write nothing."""

_VARYING = re.compile(r"[0-9a-f]{64}|(?<=\.draft-)\w+|(?<=\.json\.)\w+|(?<=spool/)\w+")
"""What differs between files that are written at the same place of the program: digests, sites, random names."""


@dataclass(frozen=True)
class Life:
    """One life of a process.

    Attributes:
        number: the how-manieth it is.
        now_s: how much time has passed for everybody.
        target: where it is to die, by the place's name, and at which passing; None for nowhere.
        bug: a planted one; empty for none.
    """

    number: int
    now_s: float
    target: tuple[str, int] | None
    bug: str = ""


@dataclass
class Places:
    """Counts the places that a process passes, and kills it at one of them.

    Attributes:
        target: name of the place, and at which passing; None for nowhere.
        passed: how often each place was passed.
    """

    target: tuple[str, int] | None
    passed: Counter[str] = field(default_factory=Counter)

    def __call__(self, place: str) -> None:
        """One place."""
        self.passed[place] += 1
        if self.target is not None and self.target == (place, self.passed[place]):
            os.kill(os.getpid(), signal.SIGKILL)


def watch_files(places: Places, folder: Path) -> None:
    """Make places of what this process does to files below a folder, its databases excepted."""
    fsync = os.fsync

    def named(path: object) -> str | None:
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(str(folder)) or ".sqlite" in text or text.endswith(".lock"):
            return None
        return _VARYING.sub("#", str(Path(text).relative_to(folder)))

    def watched(handle: int) -> None:
        name = named(str(Path(f"/proc/self/fd/{handle}").readlink())) or "?"
        places(f"before fsync {name}")
        fsync(handle)
        places(f"after fsync {name}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.mkdir") and (name := named(arguments[0])):
            places(f"before {event[3:]} {name}")
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and (name := named(arguments[0])):
            places(f"before open {name}")

    os.fsync = watched
    sys.addaudithook(hook)


class MortalJournal:
    """A journal with places around its writing transactions; see coordinator.store.journal.Journal."""

    def __init__(self, inner: SqliteJournal, places: Places) -> None:
        self._inner, self._places = inner, places

    def run_tx(self, name: str, fn: Callable[[Any], Any]) -> Any:
        """See Journal."""
        if name.startswith(("read_", "check_")):
            return self._inner.run_tx(name, fn)

        def body(tx: Any) -> Any:
            result = fn(tx)
            self._places(f"inside {name}")
            return result

        self._places(f"before {name}")
        result = self._inner.run_tx(name, body)
        self._places(f"after {name}")
        return result

    def close(self) -> None:
        """See Journal."""
        self._inner.close()


class MortalStore:
    """A site's store with places around what it writes."""

    def __init__(self, inner: Any, places: Places) -> None:
        self._inner, self._places = inner, places
        self._kind = type(inner).__name__
        for name in ("_database", "_connection"):
            if hasattr(inner, name):
                getattr(inner, name).set_trace_callback(self._statement)
        self._doing = ""

    def _statement(self, statement: str) -> None:
        if statement == "COMMIT" and self._doing:
            self._places(f"inside {self._kind}.{self._doing}")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name in READS:
            return method

        def watched(*arguments: Any, **more: Any) -> Any:
            self._places(f"before {self._kind}.{name}")
            self._doing = name
            result = method(*arguments, **more)
            self._doing = ""
            self._places(f"after {self._kind}.{name}")
            return result

        return watched


# --- what the processes say to each other, through the parent ---


def answered(work: Callable[[], Any]) -> tuple[str, Any]:
    """A result, or an error by name: not every error of ours can be rebuilt from its text alone."""
    try:
        return "result", work()
    except FedMentorError as error:
        kind = next(one.__name__ for one in type(error).__mro__ if one.__module__ == errors.__name__)
        return "error", (kind, error.message)


def result_of(answer: tuple[str, Any]) -> Any:
    """Undo ``answered``."""
    if answer[0] == "error":
        kind, message = answer[1]
        raise getattr(errors, kind)(message)
    return answer[1]


# --- the coordinator ---


def live_as_coordinator(line: Connection, federation: Federation, life: Life) -> None:
    """The coordinator's process: answer the parent until it hangs up."""
    if life.bug == "spool-in-memory":
        shutil.rmtree(federation.state / SPOOL_FOLDER, ignore_errors=True)
    places = Places(life.target)
    watch_files(places, federation.state)
    clock = ManualClock()
    clock.advance(life.now_s)
    journal = MortalJournal(SqliteJournal(federation.state / JOURNAL_FILE, clock), places)
    limits = PhaseLimits(gather_s=1e9, straggler_grace_s=GRACE_SECONDS, linger_s=1e9)
    notary = Notary(COORDINATOR_KEY, lambda: federation.keys)
    parts = EngineParts(federation.state, journal, clock, limits, lambda _event: None, notary)
    engine = build_engine(federation.manifest, federation._model, parts)
    streams: dict[tuple[int, int], Any] = {}

    def drive() -> bool:
        wait_s: float | None = 0.0
        while wait_s == 0.0:
            wait_s = engine.driver.step()
        return wait_s is None

    def subscribe(site: Any) -> tuple[int, int]:
        number = (os.getpid(), len(streams))
        streams[number] = engine.service.subscribe(site, lambda: None)
        return number

    def stream(number: tuple[int, int]) -> Any:
        if number not in streams:
            raise CoordinatorUnreachable("that stream was of an earlier life")
        return streams[number]

    def call(name: str, *arguments: Any, **more: Any) -> Any:
        found = getattr(engine.service, name)(*arguments, **more)
        return list(found) if name.startswith("fetch") else found

    commands: dict[str, Callable[..., Any]] = {
        "drive": drive,
        "advance": clock.advance,
        "subscribe": subscribe,
        "poll": lambda number: stream(number).poll(),
        "close": lambda number: stream(number).close(),
        "call": call,
        "passed": lambda: dict(places.passed),
    }
    serve(line, commands)
    journal.close()


def serve(line: Connection, commands: dict[str, Callable[..., Any]]) -> None:
    """Carry out commands until the parent hangs up."""
    while True:
        try:
            name, arguments, more = line.recv()
        except EOFError:
            return
        line.send(("done", answered(lambda: commands[name](*arguments, **more))))  # noqa: B023 - called at once


# --- a site ---


class RoutedSubscription:
    """A subscription in the coordinator's process."""

    def __init__(self, ask: Callable[..., Any], number: tuple[int, int]) -> None:
        self._ask, self._number = ask, number

    def poll(self) -> list[Directive]:
        """See fedmentor.testing.link.DirectSubscription."""
        return self._ask("poll", self._number)

    def close(self) -> None:
        """See DirectSubscription."""
        with suppress(CoordinatorUnreachable):
            self._ask("close", self._number)


class RoutedService:
    """The coordinator's service as a site's process sees it: calls go to the parent, which asks the coordinator's process."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def subscribe(self, site: Any, _wake: Any) -> RoutedSubscription:
        """See fedmentor.testing.link.DirectService."""
        return RoutedSubscription(self._ask, self._ask("subscribe", site))

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **more: self._ask("call", name, *arguments, **more)

    def _ask(self, *arguments: Any, **more: Any) -> Any:
        self._line.send(("ask", (arguments, more)))
        return result_of(self._line.recv())


class Around:
    """What a Site of simulated_site.py asks of its federation."""

    audited = True

    def __init__(self, federation: Federation, line: Connection) -> None:
        self.manifest, self.keys = federation.manifest, federation.keys
        self.streams: dict[Any, Any] = {}
        self._service = RoutedService(line)

    def service(self) -> RoutedService:
        """What links speak to."""
        return self._service

    def line_broke(self, site: Any) -> None:
        """Nothing: the parent notices."""


def live_as_site(line: Connection, federation: Federation, name: Any, life: Life) -> None:
    """A site's process: one step of its session whenever the parent says so."""
    places = Places(life.target)
    site = Site(name, federation.sites[name].folder, Around(federation, line))  # type: ignore[arg-type]
    site.folder.mkdir(exist_ok=True)
    watch_files(places, site.folder)
    # The stores are exchanged in this process only.
    outbox = (lambda _: MemoryOutbox()) if life.bug == "outbox-in-memory" else SqliteOutbox
    simulated_site.SqliteOutbox = lambda folder: MortalStore(outbox(folder), places)
    simulated_site.SqliteWitnessStore = lambda folder: MortalStore(SqliteWitnessStore(folder), places)
    if life.bug == "marks-in-memory":
        simulated_site.FileMarks = lambda _: MemoryMarks()
    site.lives = life.number
    site.clock.advance(life.now_s)

    def turn() -> Any:
        site.turn()
        return site.finished

    serve(line, {"turn": turn, "advance": site.clock.advance, "passed": lambda: dict(places.passed)})
    site.close()

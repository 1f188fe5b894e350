"""Kills a federation's processes at every step that they persist; prints what it found as JSON.

    python kill_driver.py FOLDER plain|secure|grouped each|chained|RUNS SEED [BUG]

The coordinator and four sites (grouped: four groups of four) are processes of their own (kill_actors.py); this one is the network
between them and starts again what has died. A first run goes on undisturbed, and every place that its processes pass is written
down. ``each`` then kills once at every place of the coordinator and of a site, a run for each; where there are groups, two sites of
one die at the same place, which loses the group. ``chained`` does the same with several kills a run, one after another. RUNS is a
number of runs in each of which processes die at random places, and so do their next lives. A BUG (see kill_actors.py) is planted;
the campaign then ends with the first failure. kill_checks.py says what is checked after every run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "simulation"))

from kill_actors import Life, answered, live_as_coordinator, live_as_site, result_of
from kill_checks import check
from simulated_federation import COLLECT_SECONDS, Federation
from simulated_site import parts_of

from fedmentor.errors import CoordinatorUnreachable
from fedmentor.federation import Finished, Receipt, RoundRef, StepName

TURNS = 400
MODES: dict[str, dict[str, Any]] = {"plain": {}, "secure": {"secure": True}, "grouped": {"secure": True, "groups": 4}}
CHAINS = {"each": 1, "chained": 8}
COORDINATOR = "coordinator"
Target = tuple[str, int]


class Died(Exception):
    """A process is gone."""


class FoundOut(Exception):
    """A planted bug was."""


@dataclass
class Process:
    """One process and the line to it."""

    pid: int
    line: Connection

    def ask(self, name: str, *arguments: Any, **more: Any) -> Any:
        """Let it carry out a command.

        Raises:
            Died: it died on the way.
        """
        try:
            self.line.send((name, arguments, more))
            return result_of(self.line.recv()[1])
        except (EOFError, ConnectionError, BrokenPipeError) as error:
            raise Died(name) from error

    def end(self) -> int:
        """Hang up and wait; the status."""
        self.line.close()
        return os.waitpid(self.pid, 0)[1]


def started(life: Callable[[Connection], None]) -> Process:
    """Fork a process."""
    ours, theirs = Pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            ours.close()
            life(theirs)
            code = 0
        except BaseException:  # noqa: BLE001 - the child must never return into the parent's code
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    theirs.close()
    return Process(pid, ours)


@dataclass
class Run:
    """One run of the federation, and who is to be killed where.

    Attributes:
        targets: for each victim the places of its lives, one after another.
        receipts: what was acknowledged, whether it arrived or not.
        said: what sites said in secure aggregation, by site, round, attempt and step.
        lost_groups: how often a group was missing in a model.
    """

    folder: Path
    mode: str
    targets: dict[str, list[Target]] = field(default_factory=dict)
    bug: str = ""
    fired: list[Target] = field(default_factory=list)
    victims: set[str] = field(default_factory=set)
    current: dict[str, Target | None] = field(default_factory=dict)
    model: str = ""
    processes: dict[str, Process] = field(default_factory=dict)
    lives: Counter[str] = field(default_factory=Counter)
    finished: dict[str, Finished] = field(default_factory=dict)
    receipts: set[tuple[RoundRef, str]] = field(default_factory=set)
    said: defaultdict[tuple[str, int, int, StepName], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    streams: dict[str, tuple[int, int]] = field(default_factory=dict)
    passed: dict[str, Counter[str]] = field(default_factory=dict)
    now_s: float = 0.0
    lost_groups: int = 0

    def __post_init__(self) -> None:
        self.federation = Federation(self.folder, audited=True, **MODES[self.mode])
        self.secure = self.federation.manifest.secure is not None
        self.sites = self.federation.manifest.roster
        if self.secure:
            # A site that is killed sits its attempt out, and a run with many kills needs many attempts.
            self.federation.manifest = self.federation.manifest.model_copy(update={"max_attempts": 100})

    def play(self) -> None:
        """Go on until everybody knows that the run is over (K1)."""
        for turn in range(TURNS):
            self.to(COORDINATOR, "drive")
            for site in self.sites:
                if site not in self.finished:
                    self.turn(site)
            if len(self.finished) == len(self.sites):
                self.ended()
                return
            if turn % 40 == 39:
                self.now_s += COLLECT_SECONDS
                for name in list(self.processes):
                    self.to(name, "advance", COLLECT_SECONDS)
        raise AssertionError("K1: the run did not end")

    def to(self, name: str, *command: Any) -> Any:
        """A command to a process, which is started if it is not running; None where it died."""
        try:
            return self.process(name).ask(*command)
        except Died:
            self.died(name)
            return None

    def process(self, name: str) -> Process:
        """A running process."""
        if name not in self.processes:
            self.lives[name] += 1
            waiting = self.targets.get(name, [])
            life = Life(self.lives[name], self.now_s, waiting.pop(0) if waiting else None, self.bug)
            self.current[name] = life.target
            others = list(self.processes.values())

            def live(line: Connection) -> None:
                for other in others:  # or their ends would never be noticed
                    other.line.close()
                if name == COORDINATOR:
                    live_as_coordinator(line, self.federation, life)
                else:
                    live_as_site(line, self.federation, name, life)

            self.processes[name] = started(live)
        return self.processes[name]

    def died(self, name: str) -> None:
        """Bury a process; if it was not killed it must not have died."""
        status = self.processes.pop(name).end()
        target = self.current[name]
        assert os.WIFSIGNALED(status), f"{name} ended by itself with {os.WEXITSTATUS(status)}"
        assert target is not None, f"{name} was killed by nobody"
        self.fired.append(target)
        self.victims.add(name)
        if name == COORDINATOR:
            self.streams.clear()
        elif name in self.streams and COORDINATOR in self.processes:
            self.to(COORDINATOR, "close", self.streams.pop(name))

    def turn(self, site: str) -> None:
        """One step of a site's session, and every call that it makes on the way."""
        process = self.process(site)
        try:
            process.line.send(("turn", (), {}))
            while True:
                kind, content = process.line.recv()
                if kind == "done":
                    finished = result_of(content)
                    if finished is not None:
                        self.finished[site] = finished
                    return
                process.line.send(answered(lambda content=content: self.routed(site, *content)))
        except (EOFError, ConnectionError, BrokenPipeError):
            self.died(site)

    def routed(self, site: str, arguments: tuple[Any, ...], more: dict[str, Any]) -> Any:
        """A site's call on its way to the coordinator."""
        if COORDINATOR not in self.processes:
            raise CoordinatorUnreachable("there is no coordinator at the moment")
        if arguments[:2] == ("call", "answer_step"):
            answer = arguments[3]
            self.said[site, answer.round.round, answer.round.attempt, answer.step].add(answer.message)
        if arguments[:2] == ("call", "offer_update") and self.secure:
            header = arguments[3]
            self.said[site, header.round.round, header.round.attempt, StepName.UPLOAD].add(header.sha256.encode())
        try:
            found = self.processes[COORDINATOR].ask(*arguments, **more)
        except Died as error:
            self.died(COORDINATOR)
            raise CoordinatorUnreachable("the coordinator died") from error
        if arguments[0] == "subscribe":
            self.streams[site] = found
        if isinstance(found, Receipt):
            self.receipts.add((found.round, site))
        return found

    def ended(self) -> None:
        """Let every process end by itself."""
        for name, process in list(self.processes.items()):
            try:
                self.passed[name] = Counter(process.ask("passed"))
            except Died:  # a target at the very end
                continue
        for name, process in list(self.processes.items()):
            status = process.end()
            assert status == 0 or os.WIFSIGNALED(status), f"{name} ended with {os.WEXITSTATUS(status)}"
            if os.WIFSIGNALED(status):
                self.fired.extend(filter(None, [self.current[name]]))
        self.processes.clear()

    def clean(self) -> None:
        """After a failure: leave no process behind."""
        for process in self.processes.values():
            process.end()


@dataclass
class Found:
    """Counts over all runs.

    Attributes:
        places: of the coordinator and of those who are killed besides.
        lost_groups: how often a group was missing in a model.
        missed: places at which no kill could be brought about.
    """

    mode: str
    bug: str = ""
    runs: int = 0
    kills: int = 0
    places: int = 0
    lost_groups: int = 0
    failures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def one_run(folder: Path, found: Found, targets: dict[str, list[Target]], undisturbed: str | None) -> Run:
    """Play a run under these kills and check it; a failure says how to see it again."""
    place = folder / f"run-{found.runs}"
    place.mkdir()
    found.runs += 1
    planned = json.dumps(targets)
    run = Run(place, found.mode, targets, found.bug)
    try:
        run.play()
        run.model = check(run, undisturbed)
    except Exception as error:  # noqa: BLE001 - a campaign goes on and tells in the end
        found.failures.append(f"{type(error).__name__}: {error}; killed at {planned}")
    finally:
        run.clean()
        shutil.rmtree(place)
    found.kills += len(run.fired)
    found.lost_groups += run.lost_groups
    if found.bug and found.failures:
        raise FoundOut
    return run


def every_place(folder: Path, found: Found, first: Run, victims: tuple[str, ...], chain: int) -> None:
    """Kill all of these at every place, so many places in a run; where a chain does not come to all of its places, one by one."""
    places = [(place, 1) for place in first.passed[victims[0]]]
    for start in range(0, len(places), chain):
        tried = places[start : start + chain]
        again = missed(folder, found, first, victims, tried)
        alone = [target for target in again if len(tried) == 1 or missed(folder, found, first, victims, [target])]
        found.missed.extend(f"{' and '.join(victims)}: {target[0]}" for target in alone)


def missed(folder: Path, found: Found, first: Run, victims: tuple[str, ...], tried: list[Target]) -> list[Target]:
    """Kill at these places, one after another, in one run; where not all died."""
    fired = one_run(folder, found, {victim: list(tried) for victim in victims}, first.model).fired
    return [target for target in tried if fired.count(target) < len(victims)]


def random_run(folder: Path, found: Found, first: Run, dice: random.Random) -> None:
    """Up to three processes die at random, up to three times each; of sites those of one group, so that it is lost at times."""
    targets: defaultdict[str, list[Target]] = defaultdict(list)
    sites = dice.choice(parts_of(first.federation.manifest))
    for victim in dice.choices((COORDINATOR, *sites), weights=(4, 1, 1, 1, 1), k=dice.randint(1, 3)):
        for _life in range(dice.randint(1, 3)):
            place = dice.choice(sorted(first.passed[victim]))
            targets[victim].append((place, dice.randint(1, first.passed[victim][place])))
    one_run(folder, found, dict(targets), first.model)


def campaign(folder: Path, mode: str, size: str, seed: int, bug: str = "") -> Found:
    """See the module."""
    found = Found(mode, bug)
    with suppress(FoundOut):
        fill(folder, found, size, random.Random(seed))
    return found


def fill(folder: Path, found: Found, size: str, dice: random.Random) -> None:
    """The runs of a campaign."""
    first = one_run(folder, found, {}, None)
    if found.failures:
        return
    part = dice.choice(parts_of(first.federation.manifest))
    parties = [(COORDINATOR,), tuple(dice.sample(part, k=2 if len(part) < len(first.sites) else 1))]
    found.places = sum(len(first.passed[party[0]]) for party in parties)
    if size in CHAINS:
        for party in parties:
            every_place(folder, found, first, party, CHAINS[size])
    else:
        for _ in range(int(size)):
            random_run(folder, found, first, dice)


if __name__ == "__main__":
    result = campaign(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:6])
    sys.stdout.write(json.dumps(vars(result)) + "\n")

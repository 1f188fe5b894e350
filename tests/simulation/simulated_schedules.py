"""Schedules of faults to run the simulated federation under.

A schedule is a list of steps: let a site do one thing; let the coordinator go on; lose the next request or reply of a site; cut its
next transfer; kill a site at its next request or reply; kill the coordinator; let time pass. A killed site comes back with a new
session on its old outbox, a killed coordinator with a new engine on its old state folder. After the schedule faults end and
everybody is let go on until the run is over.

Nothing here is random but the schedule, which hypothesis prints and shrinks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from simulated_federation import COLLECT_SECONDS, GRACE_SECONDS, Federation, check
from simulated_site import SITES

from fedmentor.federation import Outcome
from fedmentor.ids import Digest


def apply(federation: Federation, step: tuple) -> None:
    """One step of a schedule."""
    match step:
        case ("site", name):
            federation.sites[name].turn()
        case ("drive",):
            federation.drive()
        case ("everybody",):
            federation.drive()
            for site in federation.sites.values():
                site.turn()
        case ("call", name, *aim):
            federation.sites[name].faults.aimed.add(tuple(aim))
        case ("cut", name, chunks):
            federation.sites[name].faults.cut_after_chunks = chunks
        case ("kill site", name):
            federation.sites[name].kill()
        case ("kill coordinator",):
            federation.kill_coordinator()
        case ("time", seconds):
            federation.pass_time(seconds)
        case _:
            raise AssertionError(step)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards, on a fast disk where there is one."""
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def play(schedule: list[tuple], *, secure: bool = False) -> tuple[set[Outcome], Digest]:
    """Run a schedule, heal, check; gives how the sites were told that it ended, and the last model."""
    with scratch() as folder:
        federation = Federation(folder, secure=secure)
        try:
            for step in schedule:
                apply(federation, step)
            federation.heal()
            check(federation)
            return {site.finished.outcome for site in federation.sites.values() if site.finished}, federation.final_model()
        finally:
            federation.close()


names = st.sampled_from(SITES)
MOVES = [st.tuples(st.just("site"), names), st.just(("drive",)), st.just(("everybody",)), st.just(("everybody",))]
CALLS = ("follow", "fetch_model", "report_scores", "send_update", "send_update")
FAULTS = [
    st.tuples(
        st.just("call"), names, st.sampled_from(["request", "reply"]), st.sampled_from(["lose", "kill"]), st.sampled_from(CALLS)
    ),
    st.tuples(st.just("cut"), names, st.integers(0, 2)),
    st.tuples(st.just("kill site"), names),
    st.just(("kill coordinator",)),
]
TIME = [st.tuples(st.just("time"), st.sampled_from([1.0, GRACE_SECONDS, COLLECT_SECONDS]))]
LENGTH = {"min_size": 20, "max_size": 60}
"""Hypothesis aims at twice the least length; an undisturbed run takes about 15 steps of everybody."""

EXAMPLES = os.environ.get("FEDMENTOR_SIMULATION_EXAMPLES")
"""How many schedules to try with fresh randomness; without it a few, the same ones every time."""

CAMPAIGN = settings(
    max_examples=int(EXAMPLES or 30),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
"""Where an fsync costs nothing; what survives the kill of a process is the same there."""

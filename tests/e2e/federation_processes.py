"""Real processes on loopback for the tests beside it: one coordinator, four nodes, mutual TLS, SM-lite on small phantoms."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from coordinator.manifests import make_manifest, with_aggregation
from fed_node.data.dataset import open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.cli import cli
from fedmentor.identity.authority import throwaway
from fedmentor.identity.roster import read_roster
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from study.processes import Child, Children, children, wait_for_file

FEDMENTOR = (sys.executable, "-m", "fedmentor")
SITES = tuple(SiteId(name) for name in ("east", "north", "south", "west"))
IMAGES_PER_SITE, HELD_OUT_PER_SITE = 5, 1
ROUNDS = 2
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PATIENCE_S = 120.0


def write_sites(folder: Path, sites: Sequence[SiteId]) -> None:
    """Write data of each site (an image a patient), model 0 and certificates."""
    write_phantoms(folder / "all", len(sites) * IMAGES_PER_SITE, seed=0, side=128)
    dataset = open_dataset(folder / "all")
    ids = [sample.id for sample in dataset]
    for index, site in enumerate(sites):
        mine = ids[index :: len(sites)]
        write_subset(dataset, mine, folder / "data" / site, held_out=mine[:HELD_OUT_PER_SITE])
    tensors = student_tensors(new_student(0))
    save_model(folder / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors), seed=0))
    throwaway(folder / "certificates", "e2e", sites, ["localhost"])


def prepare(folder: Path) -> None:
    """Write data of each site, model 0, certificates, and the manifests of a plain and of a secure run."""
    write_sites(folder, SITES)
    options = {"rounds": ROUNDS, "local_epochs": 2, "batch_images": 2}
    for mode in ("plain", "secagg"):
        chosen = with_aggregation(options, mode, SITES, lambda: read_roster(folder / "certificates").signing_keys)
        (folder / f"{mode}.json").write_bytes(make_manifest(folder / "model", "run", SITES, chosen).to_bytes())


@dataclass
class Run:
    """One federation's processes and where they write."""

    prepared: Path
    folder: Path
    processes: Children
    coordinator: Child
    address: str
    arguments: list[str]

    def kill_coordinator(self) -> None:
        """Kill the coordinator and start it again on the same address and state folder."""
        self.coordinator.process.kill()
        assert self.coordinator.process.wait() == -signal.SIGKILL
        arguments = [*self.arguments, "--listen", self.address]
        self.coordinator = self.processes.start("coordinator-again", arguments, self.folder / "logs", ENVIRONMENT)

    def node(self, site: SiteId, name: str = "", environment: Mapping[str, str] | None = None, more: Sequence[str] = ()) -> Child:
        """Start a site's node, perhaps with more options; a second one of a site needs a name of its own."""
        arguments = ["node", "run", "--json", "--site", site, "--coordinator", self.address]
        arguments += ["--certificates", str(self.prepared / "certificates"), "--data", str(self.prepared / "data" / site)]
        arguments += ["--state", str(self.folder / "state" / site), *more]
        return self.processes.start(name or site, arguments, self.folder / "logs", {**ENVIRONMENT, **(environment or {})})

    def report(self) -> dict:
        """The coordinator's last report."""
        return json.loads((self.folder / "coordinator" / "report.json").read_text())


@contextmanager
def federation(prepared: Path, folder: Path, grace_s: float, mode: str = "plain") -> Iterator[Run]:
    """A running coordinator; everything is stopped at the end."""
    ready = folder / "ready"
    arguments = ["coordinator", "run", "--manifest", str(prepared / f"{mode}.json"), "--model", str(prepared / "model")]
    arguments += ["--state", str(folder / "coordinator"), "--certificates", str(prepared / "certificates")]
    arguments += ["--ready-file", str(ready), "--straggler-grace", str(grace_s)]
    with children() as processes:
        coordinator = processes.start("coordinator", [*arguments, "--listen", "localhost:0"], folder / "logs", ENVIRONMENT)
        address = wait_for_file(ready, coordinator, PATIENCE_S)
        yield Run(prepared, folder, processes, coordinator, address, arguments)


def check_audit(run: Run) -> None:
    """Every site has witnessed the run's audit trail to its end, and what each one noted is in it."""
    command, notes = CliRunner(), []
    for site in SITES:
        noted = command.invoke(cli, ["node", "checkpoint", "--state", str(run.folder / "state" / site)], catch_exceptions=False)
        (run.folder / f"{site}.jsonl").write_text(noted.stdout)
        notes += ["--checkpoints", str(run.folder / f"{site}.jsonl")]
    arguments = ["audit", "verify", str(run.folder / "coordinator"), "--certificates", str(run.prepared / "certificates"), "--json"]
    found = json.loads(command.invoke(cli, [*arguments, *notes], standalone_mode=False, catch_exceptions=False).stdout)
    assert (found["sound"], found["signatures_checked"], found["noted_elsewhere"]) == (True, True, len(SITES)), found["reason"]
    assert len(found["checkpoints"]) == ROUNDS + 1
    assert found["countersigned"][str(found["checkpoints"][-1])] == list(SITES)


def wait_for(condition: Callable[[], object], watched: list[Child]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, [child.log.read_text() for child in watched]
        for child in watched:
            assert not child.failed(), child.log.read_text()
        time.sleep(0.05)


def says(child: Child, pattern: str) -> bool:
    return re.search(pattern, child.log.read_text()) is not None


def lines(child: Child) -> list[dict]:
    """The JSON lines of a node."""
    return [json.loads(line) for line in child.out.read_text().splitlines()]

"""A federation of real processes on loopback: one coordinator, four nodes, mutual TLS, SM-lite on small phantoms.

Three runs with the same seed: undisturbed; with a site that is killed and started again; with a site that is killed and stays away.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator.manifests import make_manifest
from fed_node.data.dataset import open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.student.sm_lite import ARCHITECTURE, new_student, student_tensors
from fedmentor.identity.authority import throwaway
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from study.processes import Child, Children, children, wait_for_file

pytestmark = pytest.mark.e2e

SITES = tuple(SiteId(name) for name in ("east", "north", "south", "west"))
IMAGES_PER_SITE, HELD_OUT_PER_SITE = 5, 1
ROUNDS = 2
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of each site, model 0, manifest and certificates."""
    folder = tmp_path_factory.mktemp("federation")
    write_phantoms(folder / "all", len(SITES) * IMAGES_PER_SITE, seed=0, side=128)
    dataset = open_dataset(folder / "all")
    ids = [sample.id for sample in dataset]
    for index, site in enumerate(SITES):
        mine = ids[index :: len(SITES)]
        write_subset(dataset, mine, folder / "data" / site, held_out=mine[:HELD_OUT_PER_SITE])
    tensors = student_tensors(new_student(0))
    save_model(folder / "model", tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors), seed=0))
    made = make_manifest(folder / "model", "run", SITES, {"rounds": ROUNDS, "local_epochs": 2, "batch_images": 2})
    (folder / "manifest.json").write_bytes(made.to_bytes())
    throwaway(folder / "certificates", "e2e", SITES, ["localhost"])
    return folder


@dataclass
class Run:
    """One federation's processes and where they write."""

    prepared: Path
    folder: Path
    processes: Children
    coordinator: Child
    address: str

    def node(self, site: SiteId, name: str = "") -> Child:
        """Start a site's node; a second one of a site needs a name of its own."""
        arguments = ["node", "run", "--json", "--site", site, "--coordinator", self.address]
        arguments += ["--certificates", str(self.prepared / "certificates"), "--data", str(self.prepared / "data" / site)]
        arguments += ["--state", str(self.folder / "state" / site)]
        return self.processes.start(name or site, arguments, self.folder / "logs", ENVIRONMENT)

    def report(self) -> dict:
        """The coordinator's last report."""
        return json.loads((self.folder / "coordinator" / "report.json").read_text())


@contextmanager
def federation(prepared: Path, folder: Path, grace_s: float) -> Iterator[Run]:
    """A running coordinator; everything is stopped at the end."""
    ready = folder / "ready"
    arguments = ["coordinator", "run", "--manifest", str(prepared / "manifest.json"), "--model", str(prepared / "model")]
    arguments += ["--state", str(folder / "coordinator"), "--certificates", str(prepared / "certificates")]
    arguments += ["--listen", "localhost:0", "--ready-file", str(ready), "--straggler-grace", str(grace_s)]
    with children() as processes:
        coordinator = processes.start("coordinator", arguments, folder / "logs", ENVIRONMENT)
        address = wait_for_file(ready, coordinator, PATIENCE_S)
        yield Run(prepared, folder, processes, coordinator, address)


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


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict[SiteId, list[dict]]]:
    """Report and the nodes' lines of a run in which nothing happens."""
    with federation(prepared, tmp_path_factory.mktemp("undisturbed"), grace_s=60) as run:
        nodes = {site: run.node(site) for site in SITES}
        for child in (run.coordinator, *nodes.values()):
            assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()
        return run.report(), {site: lines(child) for site, child in nodes.items()}


def test_four_sites_train_two_rounds(undisturbed: tuple[dict, dict[SiteId, list[dict]]]):
    report, said = undisturbed
    assert report["outcome"] == "completed"
    for site_lines in said.values():
        assert [(line["round"], line["status"]) for line in site_lines[:-1]] == [(0, "sent"), (1, "sent"), (2, "scored")]
        assert site_lines[-1]["outcome"] == "completed"
        assert all(0 <= line["dice"] <= 1 for line in site_lines[:-1])
        assert site_lines[0]["bytes_up"] == site_lines[0]["bytes_down"] + 4, "four bytes a parameter and the weight word"


def test_a_site_that_is_killed_and_comes_back_changes_no_bit(
    prepared: Path, tmp_path: Path, undisturbed: tuple[dict, dict[SiteId, list[dict]]]
):
    with federation(prepared, tmp_path, grace_s=60) as run:
        nodes = {site: run.node(site) for site in SITES}
        victim = nodes[SITES[0]]
        wait_for(lambda: says(victim, "event=scored .*round=0"), list(nodes.values()))
        victim.process.kill()
        assert victim.process.wait() == -signal.SIGKILL
        again = run.node(SITES[0], "again")
        for child in (run.coordinator, again, *(nodes[site] for site in SITES[1:])):
            assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()
        assert run.report()["model"] == undisturbed[0]["model"]


def test_a_site_that_is_killed_and_stays_away_does_not_stop_the_quorum(
    prepared: Path, tmp_path: Path, undisturbed: tuple[dict, dict[SiteId, list[dict]]]
):
    with federation(prepared, tmp_path, grace_s=3) as run:
        nodes = {site: run.node(site) for site in SITES}
        wait_for(lambda: any(says(child, "event=scored .*round=0") for child in nodes.values()), list(nodes.values()))
        victim = next(child for child in nodes.values() if says(child, "event=scored .*round=0"))
        victim.process.kill()
        others = [child for child in nodes.values() if child is not victim]
        for child in (run.coordinator, *others):
            assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()
        report = run.report()
        assert report["outcome"] == "completed"
        assert report["model"] != undisturbed[0]["model"]
        pids = [child.process.pid for child in (run.coordinator, *nodes.values())]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_sigterm_ends_everything_and_leaves_no_process(prepared: Path, tmp_path: Path):
    with federation(prepared, tmp_path, grace_s=60) as run:
        waiting = [run.node(site) for site in SITES[:2]]
        wait_for(lambda: all(says(child, "event=waiting") for child in waiting), waiting)
        for child in (*waiting, run.coordinator):
            os.kill(child.process.pid, signal.SIGTERM)
        assert [child.process.wait(PATIENCE_S) for child in (*waiting, run.coordinator)] == [130, 130, 130]
        groups = [child.process.pid for child in (*waiting, run.coordinator)]
    for group in groups:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)

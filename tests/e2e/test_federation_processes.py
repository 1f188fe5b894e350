"""A federation of real processes on loopback: one coordinator, four nodes, mutual TLS, SM-lite on small phantoms.

Three runs with the same seed: undisturbed; with a site that is killed and started again; with a site that is killed and stays away.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from federation_processes import PATIENCE_S, SITES, check_audit, federation, lines, prepare, says, wait_for

from fedmentor.ids import SiteId

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("federation")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict[SiteId, list[dict]]]:
    """Report and the nodes' lines of a run in which nothing happens."""
    with federation(prepared, tmp_path_factory.mktemp("undisturbed"), grace_s=60) as run:
        nodes = {site: run.node(site) for site in SITES}
        for child in (run.coordinator, *nodes.values()):
            assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()
        check_audit(run)
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

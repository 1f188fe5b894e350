"""Secure aggregation between real processes: the model of the plain run, bit for bit, and no update in sight of the coordinator."""

from __future__ import annotations

import signal
import sqlite3
from pathlib import Path

import pytest
from federation_processes import PATIENCE_S, SITES, Run, check_audit, federation, lines, prepare, says, wait_for

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secure-federation")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def plain_model(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the last model of a plain run in which nothing happens."""
    with federation(prepared, tmp_path_factory.mktemp("plain"), grace_s=60) as run:
        _all_end_well(run, [run.node(site) for site in SITES])
        return run.report()["model"]


def test_a_secure_run_makes_the_model_of_the_plain_run(prepared: Path, tmp_path: Path, plain_model: str):
    with federation(prepared, tmp_path, grace_s=60, mode="secagg") as run:
        nodes = [run.node(site) for site in SITES]
        _all_end_well(run, nodes)
        assert run.report()["model"] == plain_model
        check_audit(run)
        for node in nodes:
            assert [line["status"] for line in lines(node)[:-1]] == ["sent", "sent", "scored"]
        _nothing_unmasked(run)


def test_a_coordinator_that_is_killed_in_mid_round_goes_on_with_the_same_attempt(prepared: Path, tmp_path: Path, plain_model: str):
    with federation(prepared, tmp_path, grace_s=60, mode="secagg") as run:
        nodes = [run.node(site) for site in SITES]
        wait_for(lambda: any(says(node, "event=answered .*round=0 .*step=share") for node in nodes), nodes)
        run.kill_coordinator()
        wait_for(lambda: any(says(node, "event=delivered .*round=1") for node in nodes), nodes)
        run.kill_coordinator()
        _all_end_well(run, nodes)
        report = run.report()
        assert [entry.get("attempt") for entry in report["rounds"] if entry.get("attempt")] in ([], [1, 1])
        assert report["model"] == plain_model, "no bit depends on when the coordinator died"


def test_a_site_that_is_killed_in_mid_round_sits_the_attempt_out_and_the_round_goes_on(
    prepared: Path, tmp_path: Path, plain_model: str
):
    with federation(prepared, tmp_path, grace_s=60, mode="secagg") as run:
        nodes = {site: run.node(site) for site in SITES}
        victim = nodes[SITES[0]]
        wait_for(lambda: says(victim, "event=scored .*round=0"), list(nodes.values()))
        victim.process.kill()
        assert victim.process.wait() == -signal.SIGKILL
        again = run.node(SITES[0], "again")
        _all_end_well(run, [again, *(nodes[site] for site in SITES[1:])])
        assert run.report()["outcome"] == "completed"
        assert run.report()["model"] != plain_model, "the killed site is missing in one round"
        assert [line["status"] for line in lines(again)[:-1] if line["round"] == 1] == ["sent"]


def _all_end_well(run: Run, nodes: list) -> None:
    for child in (run.coordinator, *nodes):
        assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()


def _nothing_unmasked(run: Run) -> None:
    """No words of any site's outbox, nor a piece of them, are anywhere in what the coordinator has on disk."""
    held = b"".join(path.read_bytes() for path in (run.folder / "coordinator").rglob("*") if path.is_file())
    shas = set()
    for site in SITES:
        database = sqlite3.connect(run.folder / "state" / site / "outbox.sqlite")
        shas |= {row[0] for row in database.execute("SELECT sha256 FROM update_entry")}
        database.close()
    assert len(shas) == 2 * len(SITES), "every site trained in both rounds"
    assert not [sha for sha in shas if sha.encode() in held], "the coordinator has not even the digest of an update"

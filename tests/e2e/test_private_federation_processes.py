"""A private run of real processes: three sites, one of which can pay for one round only. It leaves, the federation goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from federation_processes import ENVIRONMENT, HELD_OUT_PER_SITE, IMAGES_PER_SITE, PATIENCE_S, write_sites

from coordinator.manifests import make_manifest, with_privacy
from fed_node.dp import prv_epsilon
from fed_node.ledger.report import LedgerReport, read_report
from fed_node.ledger.sqlite import FileAnchor, SqliteStore
from fedmentor.errors import EXIT_OK, EXIT_POLICY
from fedmentor.federation import RunManifest
from fedmentor.ids import SiteId
from fedmentor.models import load_record
from study.processes import children, wait_for_file

pytestmark = pytest.mark.e2e

POOR, *RICH = SITES = tuple(SiteId(name) for name in ("east", "north", "west"))
ROUNDS = 2
DELTA = 1e-3


def prepare(folder: Path) -> RunManifest:
    """Data of each site, model 0, certificates, and a manifest that promises epsilon 20."""
    write_sites(folder, SITES)
    promise = {"epsilon": 20.0, "delta": DELTA, "patients": IMAGES_PER_SITE - HELD_OUT_PER_SITE, "batch_patients": 2}
    options = with_privacy({"rounds": ROUNDS, "quorum": 2, "evaluate_seconds": 600.0, **promise})
    manifest = make_manifest(folder / "model", "run", SITES, options)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return manifest


def settings(folder: Path, site: SiteId, address: str, epsilon: float) -> Path:
    """A node's settings file."""
    lines = {"site": site, "coordinator": address, "certificates": "certificates", "data": f"data/{site}"}
    lines |= {"state": f"state/{site}", "ledger_anchor": f"anchors/{site}.json"}
    text = "".join(f'{name} = "{value}"\n' for name, value in lines.items())
    path = folder / f"{site}.toml"
    path.write_text(f"{text}require_privacy = true\nmax_epsilon = {epsilon}\nprivacy_delta = {DELTA}\n")
    return path


def ledger_of(folder: Path, site: SiteId) -> LedgerReport:
    """A site's ledger, checked against its anchor."""
    store = SqliteStore(folder / "state" / site, read_only=True)
    noted = FileAnchor(folder / "anchors" / f"{site}.json").read()
    assert noted is not None
    report = read_report(store.load(), prv_epsilon, [noted])
    store.close()
    return report


def test_a_site_whose_budget_is_used_up_leaves_and_the_federation_goes_on(tmp_path: Path):
    manifest = prepare(tmp_path)
    assert manifest.privacy is not None
    once = manifest.privacy.one_round
    costs = [prv_epsilon((replace(once, steps=rounds * once.steps),), DELTA) for rounds in (1, ROUNDS)]
    budgets = dict.fromkeys(RICH, 20.0) | {POOR: sum(costs) / 2}
    ready = tmp_path / "ready"
    arguments = ["coordinator", "run", "--manifest", str(tmp_path / "manifest.json"), "--model", str(tmp_path / "model")]
    arguments += ["--state", str(tmp_path / "coordinator"), "--certificates", str(tmp_path / "certificates")]
    arguments += ["--listen", "localhost:0", "--ready-file", str(ready), "--straggler-grace", "8"]
    with children() as processes:
        coordinator = processes.start("coordinator", arguments, tmp_path / "logs", ENVIRONMENT)
        address = wait_for_file(ready, coordinator, PATIENCE_S)
        nodes = {}
        for site in SITES:
            config = settings(tmp_path, site, address, budgets[site])
            nodes[site] = processes.start(site, ["node", "run", "--json", "--config", str(config)], tmp_path / "logs", ENVIRONMENT)
        for child in (*nodes.values(), coordinator):
            child.process.wait(PATIENCE_S)
        codes = {name: child.process.returncode for name, child in {**nodes, "coordinator": coordinator}.items()}
        assert codes == {POOR: EXIT_POLICY, **dict.fromkeys(RICH, EXIT_OK), "coordinator": EXIT_OK}, coordinator.log.read_text()
        assert "this site allows" in nodes[POOR].log.read_text()
    report = json.loads((tmp_path / "coordinator" / "report.json").read_text())
    assert report["outcome"] == "completed"
    assert [site for entry in report["rounds"] for site in entry["sites"].values() if site.get("dice") is not None] == []
    claimed = load_record(next((tmp_path / "coordinator").rglob(report["model"]))).privacy
    assert claimed == manifest.privacy_spent(ROUNDS)
    released = {site: [item.released for item in ledger_of(tmp_path, site).lines] for site in SITES}
    assert released == {POOR: [True], **{site: [True] * ROUNDS for site in RICH}}
    assert all(ledger_of(tmp_path, site).spent.epsilon <= budgets[site] for site in SITES)

"""``fedmentor node ledger`` and what it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger, Spend
from fed_node.ledger.report import read_report
from fed_node.ledger.sqlite import FileAnchor, SqliteStore, site_key
from fed_node.ledger.store import Stored
from fedmentor.cli import run
from fedmentor.errors import DataError
from fedmentor.ids import Digest, Round, RunId, SiteId
from fedmentor.privacy.accounting import Segment, no_tight_bound, rdp_epsilon
from fedmentor.testing.clock import ManualClock

STEP = Segment(1.5, 0.1, 20)
PATIENTS = ("anna", "ben", "cleo")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A site that took part in one round, stopped one, and died in a third."""
    folder = tmp_path / "state"
    ports = LedgerPorts(SqliteStore(folder), site_key(folder), ManualClock(), no_tight_bound, FileAnchor(tmp_path / "anchor"))
    ledger = PrivacyLedger(SiteId("north"), BudgetPolicy(8.0, 1e-5), ports)
    ledger.commit(ledger.reserve(Spend(RunId("run"), Round(0), STEP, PATIENTS)), 20, Digest("a" * 64))
    ledger.release(RunId("run"), Round(0), Digest("a" * 64))
    ledger.void(ledger.reserve(Spend(RunId("run"), Round(1), STEP, PATIENTS)), "stopped")
    ledger.reserve(Spend(RunId("second"), Round(0), STEP, PATIENTS[:2]))
    ledger.close()
    return folder


def test_json_says_what_was_spent_on_what(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["node", "ledger", "--state", str(state), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["budget"] == {"unit": "patient", "epsilon": 8.0, "delta": 1e-5}
    assert said["patients"] == 3
    assert [(entry["run"], entry["round"], entry["stage"], entry["patients"]) for entry in said["entries"]] == [
        ("run", 0, "committed", 3),
        ("run", 1, "void", 3),
        ("second", 0, "open", 2),
    ]
    assert [entry["released"] for entry in said["entries"]] == [True, False, False]
    assert said["spent"]["rdp"] == pytest.approx(rdp_epsilon((STEP, STEP), 1e-5))
    assert said["spent"]["accountant"] == "prv"
    assert 0 < said["spent"]["epsilon"] <= said["spent"]["rdp"] + 0.01


def test_the_table_is_for_people_and_names_nobody(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["node", "ledger", "--state", str(state)]) == 0
    said = capsys.readouterr().out
    assert "released" in said
    assert "of 8 at delta 1e-05" in said
    assert not any(name in said for name in PATIENTS)


def test_the_anchor_is_checked(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["node", "ledger", "--state", str(state), "--anchor", str(tmp_path / "anchor"), "--json"]) == 0
    (tmp_path / "anchor").write_text(json.dumps({"records": 99, "hash": "f" * 64}))
    assert run(["node", "ledger", "--state", str(state), "--anchor", str(tmp_path / "anchor")]) == 4
    assert "last seen" in capsys.readouterr().err


def test_a_folder_without_a_ledger_is_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["node", "ledger", "--state", str(tmp_path)]) == 3
    assert "does not exist" in capsys.readouterr().err


def test_an_empty_ledger_is_an_answer_too():
    with pytest.raises(DataError, match="no entry yet"):
        read_report(Stored(), no_tight_bound)

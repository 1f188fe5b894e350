"""``fedmentor study split`` and ``show``, and what the demo's options decide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from study_report_example import make_report

from fed_node.data.dataset import open_dataset
from fed_node.data.phantom import write_phantoms
from fedmentor.cli import run
from study.cli import plan_of
from study.plan import StudyPlan

ASKED = {"sites": 3, "seed": 7}


def test_split_writes_a_folder_a_site_and_the_pool(tmp_path, capsys):
    write_phantoms(tmp_path / "data", count=20, seed=3, side=64)
    arguments = ["study", "split", str(tmp_path / "data"), "--out", str(tmp_path / "split"), "--sites", "2", "--proxy", "0.2"]
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["proxy", "site-1", "site-2"]
    parts = [open_dataset(tmp_path / "split" / name) for name in ("proxy", "sites/site-1", "sites/site-2")]
    assert sum(map(len, parts)) == 20
    assert run(arguments) == 0, "a second run replaces the first"


def test_split_by_a_column_that_is_missing_is_one_clear_error(tmp_path, capsys):
    write_phantoms(tmp_path / "data", count=16, seed=3, side=64)
    code = run(["study", "split", str(tmp_path / "data"), "--out", str(tmp_path / "split"), "--by", "scanner"])
    assert code == 3
    assert "scanner" in capsys.readouterr().err


def test_show_prints_the_table_and_the_json_of_a_report(tmp_path, capsys):
    report = make_report()
    path = tmp_path / "report.json"
    path.write_text(report.model_dump_json())
    assert run(["study", "show", str(path)]) == 0
    assert "round" in capsys.readouterr().out.lower()
    assert run(["study", "show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == report.data.model_dump(mode="json")


def test_show_refuses_what_is_no_report(tmp_path, capsys):
    path = tmp_path / "report.json"
    path.write_text("{}")
    assert run(["study", "show", str(path)]) == 3
    assert "is not a report" in capsys.readouterr().err


@pytest.mark.parametrize(("data", "by"), [(None, "location"), (Path("xrays"), "iid")])
def test_phantoms_are_dealt_by_hospital_and_other_data_evenly(data, by):
    plan = plan_of(data, StudyPlan(), ASKED)
    assert (plan.partition.by, plan.partition.sites) == (by, 3)


def test_the_seed_reaches_every_part_and_the_quorum_fits_the_sites():
    plan = plan_of(None, StudyPlan(), {"sites": 2, "seed": 7})
    assert {plan.seed, plan.partition.seed, plan.training.seed} == {7}
    assert plan.quorum == 2


def test_only_given_options_change_the_plan():
    given = {**ASKED, "rounds": None, "prompt": "mask", "epochs": None, "phantoms": None, "archive": None, "by": None}
    plan, default = plan_of(None, StudyPlan(), given), StudyPlan()
    assert plan.rounds == default.rounds
    assert plan.mentor == default.mentor.model_copy(update={"prompt": "mask"})

"""The steps of a federation in containers: done once, and handing out to everyone what is theirs alone."""

from __future__ import annotations

import json
import stat

import pytest

from fed_node.data.dataset import open_dataset
from fed_node.data.phantom import write_phantoms
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.identity.credentials import site_credentials
from fedmentor.ids import SiteId

SITES = ("site-1", "site-2")


def _once(mark, *command):
    return run(["study", "step", "once", "--mark", str(mark), "--", *(str(part) for part in command)])


def _registrar(parts):
    sites = [part for site in SITES for part in ("--site", site)]
    return ["study", "step", "registrar", "--parts", parts, "--host", "coordinator", *sites]


def test_each_member_gets_what_all_may_see_and_its_own(tmp_path):
    assert run([str(part) for part in _registrar(tmp_path)]) == 0
    site_credentials(tmp_path / "site-1", SiteId("site-1"), SystemClock().now())
    assert sorted(path.name for path in (tmp_path / "site-1" / "sites").iterdir()) == ["site-1"]
    assert not (tmp_path / "site-1" / "coordinator").exists()
    assert not (tmp_path / "coordinator" / "sites").exists()
    assert all(path.is_file() for path in (tmp_path / "public").iterdir())
    keys = list(tmp_path.rglob("key.pem"))
    assert len(keys) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_a_step_is_done_once(tmp_path, capsys):
    mark = tmp_path / "done.json"
    assert _once(mark, *_registrar(tmp_path / "parts")) == 0
    before = (tmp_path / "parts" / "public" / "ca.pem").read_bytes()
    assert _once(mark, *_registrar(tmp_path / "parts")) == 0
    assert "was done before" in capsys.readouterr().out
    assert (tmp_path / "parts" / "public" / "ca.pem").read_bytes() == before


def test_other_choices_are_refused(tmp_path, capsys):
    mark = tmp_path / "done.json"
    mark.write_text(json.dumps(["study", "step", "data", "--seed", "1"]))
    assert _once(mark, "study", "step", "data", "--seed", "2") == 3
    assert "make down" in capsys.readouterr().err


def test_a_step_that_failed_is_done_again(tmp_path):
    mark = tmp_path / "done.json"
    assert _once(mark, "data", "check", tmp_path / "none") == 3
    assert not mark.exists()


def test_data_are_dealt_as_in_the_demo_and_an_interrupted_copy_is_replaced(tmp_path):
    write_phantoms(tmp_path / "source", 24, seed=1, side=64)
    (tmp_path / "scratch").mkdir()
    leftover = tmp_path / "parts" / "site-1" / "dataset" / "images" / "left-over.png"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    choices = ["--source", str(tmp_path / "source"), "--name", "/elsewhere", "--scratch", str(tmp_path / "scratch"), "--sites", "2"]
    assert run(["study", "step", "data", "--parts", str(tmp_path / "parts"), *choices]) == 0
    datasets = [open_dataset(tmp_path / "parts" / name / "dataset") for name in ("proxy", *SITES)]
    assert sum(len(dataset) for dataset in datasets) == 24
    assert not leftover.exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_bad_data_are_named(tmp_path, capsys):
    write_phantoms(tmp_path / "source", 24, seed=1, side=64)
    next((tmp_path / "source" / "images").iterdir()).write_bytes(b"no image")
    choices = ["--source", str(tmp_path / "source"), "--scratch", str(tmp_path)]
    assert run(["study", "step", "data", "--parts", str(tmp_path / "parts"), *choices]) == 3
    assert "has 1 faults" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["registrar", "data", "once"])
def test_help_says_what_a_step_does(name, capsys):
    assert run(["study", "step", name, "--help"]) == 0
    assert name in capsys.readouterr().out

"""From options to plans, and the manifest command with them."""

from __future__ import annotations

import json

import pytest

from coordinator.defences import with_defences
from coordinator.testing import toy_model
from fedmentor.cli import run
from fedmentor.errors import ConfigError
from fedmentor.gate import GatePlan
from fedmentor.robust import CoordinateMedian, Krum, NormClipping, RobustPlan

ROUNDS = {"rounds": 4}


def test_without_options_nothing_is_added():
    assert with_defences({**ROUNDS, "quorum": 3}, "plain") == {**ROUNDS, "quorum": 3}


def test_the_usual_defences():
    made = with_defences(ROUNDS, "plain+robust")
    assert made["robust"] == RobustPlan(rule=NormClipping(), set_aside_after=3)


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({"rule": "median"}, RobustPlan(rule=CoordinateMedian(), set_aside_after=3)),
        ({"rule": "median", "set_aside_after": 0}, RobustPlan(rule=CoordinateMedian())),
        ({"rule": "krum", "malicious": 2, "selected": 3}, RobustPlan(rule=Krum(malicious=2, selected=3), set_aside_after=3)),
        ({"clip_to": 2.5, "weight_cap": 2.0}, RobustPlan(rule=NormClipping(norm=2.5, weight_cap=2.0), set_aside_after=3)),
    ],
)
def test_rules_and_their_options(options, plan):
    assert with_defences({**ROUNDS, **options}, "auto") == {**ROUNDS, "robust": plan}


def test_gate_and_central_privacy():
    made = with_defences({**ROUNDS, "gate_drop": 0.1, "gate_sites": 4}, "secagg")
    assert made == {**ROUNDS, "gate": GatePlan(max_dice_drop=0.1, min_sites=4)}
    made = with_defences({**ROUNDS, "site_epsilon": 8.0, "site_delta": 1e-3, "site_clip": 2.0}, "plain")
    assert made["central_privacy"].epsilon_after(4) <= 8.0
    assert made["central_privacy"].clip_norm == 2.0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"rule": "median", "malicious": 2}, "takes no 'malicious'"),
        ({"clip_to": -1.0}, "norm"),
        ({"gate_drop": 2.0}, "max_dice_drop"),
        ({"site_epsilon": 8.0}, "needs 'site_delta' too"),
        ({"site_epsilon": 8.0, "site_delta": 2.0, "site_clip": 1.0}, "delta"),
        ({"rule": "krum", "malicious": 0}, "malicious"),
    ],
)
def test_what_does_not_fit_is_refused(options, fault):
    with pytest.raises(ConfigError, match=fault):
        with_defences({**ROUNDS, **options}, "plain+robust")


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--aggregation", "plain+robust"], ["robust"]),
        (["--rule", "trimmed-mean"], ["robust"]),
        (["--aggregation", "plain", "--gate-drop", "0.02"], ["gate"]),
        (["--site-epsilon", "8", "--site-delta", "1e-3", "--site-clip", "1"], ["central_privacy"]),
    ],
)
def test_the_manifest_command(tmp_path, capsys, arguments, fields):
    toy_model(tmp_path / "model")
    sites = [part for site in "abcdef" for part in ("--site", site)]
    base = ["coordinator", "manifest", "--model", str(tmp_path / "model"), "--rounds", "2", "--out", str(tmp_path / "m.json")]
    assert run([*base, *sites, *arguments]) == 0, capsys.readouterr().err
    written = json.loads((tmp_path / "m.json").read_text())
    assert [name for name in ("robust", "gate", "central_privacy", "secure") if name in written] == fields
    said = capsys.readouterr().out
    words = {"robust": "set aside after 3 rounds", "gate": "more than 0.02 Dice", "central_privacy": "cost each site epsilon"}
    assert [name for name, phrase in words.items() if phrase in said] == fields


def test_the_manifest_command_refuses_what_contradicts_itself(tmp_path, capsys):
    toy_model(tmp_path / "model")
    sites = [part for site in "abcdef" for part in ("--site", site)]
    base = ["coordinator", "manifest", "--model", str(tmp_path / "model"), "--rounds", "2", "--out", str(tmp_path / "m.json")]
    assert run([*base, *sites, "--rule", "krum", "--malicious", "2"]) == 3
    assert "raise the quorum to 7" in capsys.readouterr().err
    assert not (tmp_path / "m.json").exists()

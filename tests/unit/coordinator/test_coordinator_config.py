"""Manifests and settings: what makes them, and what is out of range."""

import pytest
from coordinator_process import SITES

from coordinator.app import read_manifest
from coordinator.config import CoordinatorSettings, settings_of
from coordinator.manifests import make_manifest
from coordinator.testing import toy_manifest
from fedmentor.cli import run
from fedmentor.errors import ConfigError


def test_the_manifest_command_writes_what_the_model_says(place):
    arguments = ["coordinator", "manifest", "--model", place / "model", "--rounds", 5, "--out", place / "m.json", "--seed", 9]
    arguments += [part for site in ("c", "a", "b", "a") for part in ("--site", site)]
    assert run([str(argument) for argument in arguments]) == 0
    manifest = read_manifest(place / "m.json")
    assert manifest.roster == SITES
    assert (manifest.rounds, manifest.quorum, manifest.training.seed) == (5, 3, 9)
    assert manifest.tensors == toy_manifest(manifest.initial_model).tensors


@pytest.mark.parametrize(
    ("options", "sites", "message"),
    [
        ({"rounds": 0}, SITES, "'rounds'"),
        ({"rounds": 1, "surprise": 1}, SITES, "'surprise'"),
        ({"rounds": 1, "learning_rate": -1.0}, SITES, "'learning_rate'"),
        ({"rounds": 1}, ("a", "b"), "quorum of 3"),
        ({"rounds": 1}, ("A", "b", "c"), "site name"),
    ],
)
def test_manifests_out_of_range(place, options, sites, message):
    with pytest.raises(ConfigError, match=message):
        make_manifest(place / "model", "run", sites, options)


NEEDED = {"manifest": "m", "model": "x", "state": "s", "certificates": "c"}


def test_settings_come_from_a_file_and_arguments_win(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('manifest = "m"\nmodel = "x"\nstate = "s"\ncertificates = "c"\nlinger_seconds = 5\nlisten = "0.0.0.0:1"\n')
    settings = settings_of(file, {"listen": "127.0.0.1:2", "state": None})
    assert (settings.listen, settings.limits.linger_s, settings.state) == ("127.0.0.1:2", 5.0, tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"surprise": 1}, "surprise"),
        ({"listen": "nowhere"}, "listen"),
        ({"listen": "x:65536"}, "listen"),
        ({"linger_seconds": -1}, "linger_seconds"),
    ],
)
def test_settings_out_of_range(change, name):
    with pytest.raises(ConfigError, match=name):
        settings_of(None, NEEDED | change)


def test_settings_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        settings_of(tmp_path / "none", {})
    (tmp_path / "bad").write_text("= =")
    with pytest.raises(ConfigError, match="not TOML"):
        settings_of(tmp_path / "bad", {})


def test_every_setting_has_its_unit_or_none():
    numbers = {name for name, field in CoordinatorSettings.model_fields.items() if field.annotation is float}
    assert all(name.endswith("_seconds") for name in numbers)

"""The node's settings: file, arguments, and everything that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fed_node.config import NodeConfig, node_config
from fed_node.rules import PlanLimits
from fedmentor.errors import ConfigError

MINIMAL = """
site = "north"
coordinator = "localhost:8443"
certificates = "certificates"
data = "/srv/data"
state = "state"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_a_minimal_file_and_its_defaults(tmp_path: Path):
    config = node_config(written(tmp_path, MINIMAL), {})
    assert (config.site, config.coordinator, config.threads, config.give_up_seconds) == ("north", "localhost:8443", 1, 600.0)
    assert config.limits == PlanLimits(rounds=10_000, local_epochs=100, quorum=2)


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path):
    config = node_config(written(tmp_path, MINIMAL), {})
    assert (config.certificates, config.data, config.state) == (tmp_path / "certificates", Path("/srv/data"), tmp_path / "state")


def test_privacy_is_the_site_s_own_choice(tmp_path: Path):
    plain = node_config(written(tmp_path, MINIMAL), {})
    assert (plain.require_privacy, plain.max_epsilon, plain.privacy_delta, plain.ledger_anchor) == (False, 8.0, 1e-5, None)
    chosen = "require_privacy = true\nmax_epsilon = 3\nprivacy_delta = 1e-6\nledger_anchor = 'anchor.json'\n"
    config = node_config(written(tmp_path, MINIMAL + chosen), {})
    assert (config.max_epsilon, config.privacy_delta, config.ledger_anchor) == (3.0, 1e-6, tmp_path / "anchor.json")
    assert config.limits.privacy_required


def test_an_argument_wins_and_one_that_was_not_given_does_not(tmp_path: Path):
    config = node_config(written(tmp_path, MINIMAL), {"threads": 2, "state": Path("elsewhere"), "site": None})
    assert (config.threads, config.state, config.site) == (2, Path("elsewhere"), "north")


def test_no_file_is_needed():
    arguments = {"site": "a", "coordinator": "[::1]:1", "certificates": "c", "data": "d", "state": "s"}
    assert node_config(None, arguments).coordinator == "[::1]:1"


def test_settings_do_not_change(tmp_path: Path):
    config = node_config(written(tmp_path, MINIMAL), {})
    with pytest.raises(ValidationError):
        config.threads = 8  # type: ignore[misc]  # that is what is tested


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("min_quorom = 3", "'min_quorom' in .*node.toml is not a setting"),
        ("threads = 0", "'threads' in .*node.toml is wrong"),
        ("threads = [", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, change: str, message: str):
    with pytest.raises(ConfigError, match=message):
        node_config(written(tmp_path, f"{MINIMAL}{change}\n"), {})


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"coordinator": "localhost"}, "expected HOST:PORT"),
        ({"coordinator": "localhost:70000"}, "expected HOST:PORT"),
        ({"coordinator": "localhost:\N{ARABIC-INDIC DIGIT NINE}"}, "expected HOST:PORT"),
        ({"site": "No Such"}, "not a site name"),
        ({"give_up_seconds": -1}, "give_up_seconds"),
    ],
)
def test_what_is_wrong_in_an_argument_is_named(tmp_path: Path, argument: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        node_config(written(tmp_path, MINIMAL), argument)


def test_what_is_missing_is_named_with_its_option():
    with pytest.raises(ConfigError, match="'coordinator' is missing") as caught:
        node_config(None, {"site": "north"})
    assert "--coordinator" in caught.value.cure


def test_a_file_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        node_config(tmp_path / "missing.toml", {})
    (tmp_path / "node.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        node_config(tmp_path / "node.toml", {})


def test_every_setting_is_documented():
    described = (NodeConfig.__doc__ or "").split("Attributes:")[1]
    for name in NodeConfig.model_fields:
        assert name in described

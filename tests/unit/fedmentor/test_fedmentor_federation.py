"""The manifest: its checks, its canonical bytes, its digest."""

import json

import pytest
from pydantic import ValidationError

from fedmentor.errors import ConfigError
from fedmentor.federation import RunManifest, TrainingPlan, manifest_from_bytes

FIELDS = {
    "run": "r",
    "roster": ("a", "b", "c", "d"),
    "rounds": 3,
    "architecture": "toy",
    "tensors": (("b", (2,)), ("w", (2, 3))),
    "initial_model": "0" * 64,
}


def _manifest(**changes):
    return RunManifest(**{**FIELDS, **changes})


def test_bytes_read_back_to_the_same_manifest_and_digest():
    manifest = _manifest(training=TrainingPlan(seed=7), collect_seconds=12.5)
    again = manifest_from_bytes(manifest.to_bytes())
    assert again == manifest
    assert again.to_bytes() == manifest.to_bytes()
    assert again.digest == manifest.digest


def test_every_field_changes_the_digest():
    changes = [
        {"rounds": 4},
        {"quorum": 4},
        {"fraction_bits": 23},
        {"clip_norm": 1.0},
        {"training": TrainingPlan(seed=1)},
        {"run": "s"},
    ]
    assert len({_manifest(**change).digest for change in [{}, *changes]}) == len(changes) + 1


def test_the_quorum_is_three_unless_it_says_otherwise():
    assert _manifest().quorum == 3
    assert _manifest(quorum=1).quorum == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roster": ("b", "a", "c")}, "sorted"),
        ({"roster": ("a", "a", "b", "c")}, "sorted"),
        ({"roster": ("a", "b")}, "quorum of 3"),
        ({"quorum": 5}, "quorum of 5"),
        ({"fraction_bits": 30}, "do not fit a ring"),
        ({"clip_value": 100.0}, "do not fit a ring"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"clip_value": 0.3}, "nearest"),
        ({"run": "Run"}, "run name"),
        ({"run": "a\x1b[2J"}, "run name"),
        ({"roster": ("../x", "a", "b")}, "site name"),
        ({"initial_model": "0" * 63}, "digest"),
    ],
)
def test_contradictions_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        _manifest(**change)


ENDLESS = [{name: value} for name in ("collect_seconds", "evaluate_seconds") for value in (float("inf"), float("nan"), 1e18)]


@pytest.mark.parametrize(
    "change", [{"unknown": 1}, {"rounds": 0}, {"roster": ()}, {"collect_seconds": 0}, {"max_attempts": 0}, *ENDLESS]
)
def test_fields_out_of_range_are_refused(change):
    with pytest.raises(ValidationError):
        _manifest(**change)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"run": 1}'])
def test_bytes_that_are_no_manifest_are_a_config_error(data):
    with pytest.raises(ConfigError, match="the run manifest is wrong"):
        manifest_from_bytes(data)


def test_unknown_keys_in_bytes_are_refused():
    data = json.loads(_manifest().to_bytes()) | {"surprise": 1}
    with pytest.raises(ConfigError, match="does not know 'surprise'") as caught:
        manifest_from_bytes(json.dumps(data).encode())
    assert "get a new kit from the registrar" in caught.value.cure


def test_a_manifest_cannot_be_changed():
    with pytest.raises(ValidationError):
        _manifest().rounds = 5

"""``fedmentor node checkpoint``: what a site has noted, in the form that ``fedmentor audit verify --checkpoints`` takes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from fed_node.cli.checkpoint import checkpoint
from fed_node.witness_store import SqliteWitnessStore
from fedmentor.audit.export import checkpoint_from_line
from fedmentor.errors import ConfigError, DataError
from fedmentor.testing.audit import ToyTrail


def test_the_newest_checkpoint_of_every_run_is_printed(tmp_path: Path):
    made = []
    with closing(SqliteWitnessStore(tmp_path)) as store:
        for run in ("second", "first"):
            trail = ToyTrail(run=run)
            trail.append("coordinator", "create_run", run=run)
            store.extend(trail.run, iter(trail.records))
            made.append(trail.seal())
            store.reach(trail.run, made[-1])
        result = CliRunner().invoke(checkpoint, ["--state", str(tmp_path)], catch_exceptions=False)
    assert [checkpoint_from_line(line) for line in result.stdout.splitlines()] == made[::-1]


def test_a_site_that_has_witnessed_nothing_says_so(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        CliRunner().invoke(checkpoint, ["--state", str(tmp_path)], catch_exceptions=False, standalone_mode=False)
    SqliteWitnessStore(tmp_path).close()
    with pytest.raises(DataError, match="not witnessed a checkpoint"):
        CliRunner().invoke(checkpoint, ["--state", str(tmp_path)], catch_exceptions=False, standalone_mode=False)

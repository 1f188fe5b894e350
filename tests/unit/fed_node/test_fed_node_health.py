"""What a node notes of what it meets, and what a health check makes of it."""

from __future__ import annotations

import pytest

from fed_node.events import LinkLost, RunOver, Waiting
from fed_node.health import STATUS_FILE, check_health, status_keeper
from fedmentor.cli import run
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal
from fedmentor.federation import Outcome
from fedmentor.testing.clock import ManualClock


@pytest.fixture
def keeper(tmp_path):
    """Notes into tmp_path."""
    return status_keeper(tmp_path, ManualClock())


def test_a_node_in_touch_is_healthy(keeper, tmp_path):
    keeper(Waiting("soon"))
    assert check_health(tmp_path).startswith("in touch, Waiting at ")


def test_a_node_without_its_coordinator_is_not_until_it_is_back(keeper, tmp_path):
    keeper(LinkLost("no route", 0.5))
    with pytest.raises(CoordinatorUnreachable, match="away: no route"):
        check_health(tmp_path)
    keeper(Waiting("soon"))
    check_health(tmp_path)


def test_a_finished_run_is_healthy_and_a_failed_one_is_not(keeper, tmp_path):
    keeper(RunOver(Outcome.COMPLETED, ""))
    assert check_health(tmp_path).startswith("completed")
    keeper(RunOver(Outcome.FAILED, "no quorum"))
    with pytest.raises(PolicyRefusal, match="no quorum"):
        check_health(tmp_path)


def test_a_node_that_starts_forgets_what_an_earlier_one_noted(keeper, tmp_path):
    keeper(Waiting("soon"))
    status_keeper(tmp_path, ManualClock())
    with pytest.raises(CoordinatorUnreachable, match="noted anything"):
        check_health(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", "no JSON"])
def test_a_damaged_note(tmp_path, content):
    (tmp_path / STATUS_FILE).write_text(content)
    with pytest.raises(CoordinatorUnreachable, match="cannot be read"):
        check_health(tmp_path)


def test_the_command_has_the_documented_codes(keeper, tmp_path, capsys):
    command = ["node", "health", "--state", str(tmp_path)]
    assert run(command) == 5
    keeper(Waiting("soon"))
    assert run(command) == 0
    assert "in touch" in capsys.readouterr().out
    keeper(RunOver(Outcome.FAILED, "no quorum"))
    assert run(command) == 4

"""Whether a coordinator does its work, as seen from another process on the same machine: for health checks of containers."""

from __future__ import annotations

import socket
from pathlib import Path

from coordinator.app import read_state
from fedmentor.errors import CoordinatorUnreachable, QuorumMissed

CONNECT_S = 5.0


def check_health(state: Path, ready_file: Path) -> str:
    """Look for a coordinator that takes connections and whose run has not failed.

    Args:
        state: its state folder.
        ready_file: what it writes its bound address to.

    Returns:
        Where the run stands, for people.

    Raises:
        CoordinatorUnreachable: it has not come up, or nobody listens any more.
        QuorumMissed: its run failed.
        ConfigError, BrokenStore: see read_state.
    """
    _connect(ready_file)
    report = read_state(state)
    if report.outcome not in (None, "completed"):
        raise QuorumMissed(f"run {report.run} failed: {report.reason}", cure="begin a new run with another --state folder")
    return f"run {report.run}: {report.outcome or report.phase}, round {report.round}/{report.total_rounds}"


def _connect(ready_file: Path) -> None:
    try:
        host, _, port = ready_file.read_text().strip().rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S):
            pass
    except FileNotFoundError as error:
        raise CoordinatorUnreachable(f"no coordinator has written {ready_file}", cure="wait, or see its log") from error
    except (OSError, ValueError) as error:
        raise CoordinatorUnreachable(f"nobody listens at the address in {ready_file}", cure="see the coordinator's log") from error

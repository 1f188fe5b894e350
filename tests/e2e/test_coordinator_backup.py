"""A coordinator as an operator runs it: from a settings file, under systemd's rules, backed up and restored between two rounds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from federation_processes import ENVIRONMENT, PATIENCE_S, SITES, Run, check_audit, prepare, says, wait_for

from fedmentor.testing.supervisor import Systemd, listening
from study.processes import Children, wait_for_file

pytestmark = pytest.mark.e2e

NO_NEW_CODE = (
    "import ctypes, os, sys; PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1; ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN); "
    "os.execv(sys.executable, [sys.executable, '-m', 'fedmentor', *sys.argv[1:]])"
)
"""What the unit's MemoryDenyWriteExecute= forbids, as the kernel does it since Linux 6.3; older ones ignore the call."""


def settings(folder: Path, listen: str) -> Path:
    """The operator's settings file; paths in it are relative to it."""
    lines = ['manifest = "secagg.json"', 'model = "model"', 'state = "coordinator"', 'certificates = "certificates"']
    lines += [f'listen = "{listen}"', 'ready_file = "ready"', "straggler_grace_seconds = 60.0", "dashboard_port = 0"]
    (folder / "coordinator.toml").write_text("\n".join(lines) + "\n")
    return folder / "coordinator.toml"


@contextmanager
def started(folder: Path, systemd: Systemd, listen: str, name: str = "coordinator") -> Iterator[Run]:
    """A coordinator that runs from its settings and under the unit's rules; stopped at the end."""
    arguments = ["coordinator", "run", "--config", str(settings(folder, listen))]
    processes = Children((sys.executable, "-c", NO_NEW_CODE))
    try:
        child = processes.start(name, arguments, folder / "logs", {**ENVIRONMENT, "NOTIFY_SOCKET": str(systemd.path)})
        address = wait_for_file(folder / "ready", child, PATIENCE_S)
        yield Run(folder, folder, processes, child, address, arguments)
    finally:
        processes.stop()


def test_a_run_goes_on_from_a_backup(tmp_path: Path):
    prepare(tmp_path)
    state, backup = tmp_path / "coordinator", tmp_path / "backup.tar"
    nodes = Children()
    try:
        with listening() as systemd:
            with started(tmp_path, systemd, "localhost:0") as first:
                address = first.address
                sites = Run(tmp_path, tmp_path, nodes, first.coordinator, address, [])
                watched = [sites.node(site) for site in SITES]
                wait_for(lambda: says(watched[0], "event=scored .*round=1"), watched)
                os.kill(first.coordinator.process.pid, signal.SIGTERM)
                assert first.coordinator.process.wait(PATIENCE_S) == 130, first.coordinator.log.read_text()
            said = systemd.heard()
            assert said[0] == f"READY=1\nSTATUS=listening on {address}"
            assert said[1].startswith("STATUS=round 0/2")
            # As docs/operator.md has it: stopped, copied whole, and what is there removed before the copy returns.
            subprocess.run(["tar", "-C", tmp_path, "-cpf", backup, "coordinator"], check=True)
            shutil.rmtree(state)
            subprocess.run(["tar", "-C", tmp_path, "-xpf", backup], check=True)
            with started(tmp_path, systemd, address, "restored") as again:
                for child in (again.coordinator, *watched):
                    assert child.process.wait(PATIENCE_S) == 0, child.log.read_text()
                assert "going on with the run" in again.coordinator.out.read_text()
                assert again.report()["outcome"] == "completed"
                check_audit(again)
    finally:
        nodes.stop()

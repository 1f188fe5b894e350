"""The process between a command and TorchServe: it starts the server, renews its token, and takes it down with everything it left.

It stops when its standard input ends, so that a command which dies in any way, even by SIGKILL, takes its server along; or on
SIGTERM, which is how ``fedmentor teacher stop`` asks. The server in turn gets SIGTERM from the kernel if the keeper is killed
(Linux). TorchServe's own ``--stop`` is not used: it returns early and leaves key and worker behind.

Run as ``python -m teacher_service.keeper RUN_FOLDER``; imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fedmentor.teacher.endpoint import STATE_FILE
from teacher_service.settings import CONSOLE_LOG, HOST, KEY_FILE, LOG_FOLDER, TEMPORARY_FOLDER

PLAN_FILE = "launch.json"
SERVER_DIED = 1

_SERVER_STOP_S = 15.0
"""TorchServe needs about four seconds to go after SIGTERM."""

_RETRY_RENEWAL_S = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Plan:
    """What to run and how to keep it. The server inherits the keeper's environment, which is not written down.

    Attributes:
        command: the server's command line.
        management_port: where tokens are renewed.
        renew_s: pause between renewals, seconds.
        short_name: a link that was made for the temporary folder, in a folder of its own; empty where none was needed.
    """

    command: list[str]
    management_port: int
    renew_s: float
    short_name: str = ""

    def write(self, run_folder: Path) -> None:
        """Leave the plan for the keeper."""
        (run_folder / PLAN_FILE).write_text(json.dumps(asdict(self)))


def main() -> int:
    """Keep one server.

    Returns:
        0 if it was asked to stop, SERVER_DIED if the server ended by itself.
    """
    run_folder = Path(sys.argv[1])
    plan = Plan(**json.loads((run_folder / PLAN_FILE).read_text()))
    os.umask(0o077)  # TorchServe creates its key file with the process's mask
    wake = _wake_on_signals()
    server = _start(plan, run_folder)
    try:
        return _keep(server, plan, run_folder, wake)
    finally:
        _end(server)
        _clean(run_folder)
        _remove_link(plan.short_name)


def renew_token(key_file: Path, management_port: int) -> None:
    """Ask TorchServe for a new inference token, which it writes into its key file; the old one dies at once.

    Raises:
        OSError, ValueError, KeyError, http.client.HTTPException: the server does not answer yet, or no longer.
    """
    api_key = json.loads(key_file.read_bytes())["API"]["key"]
    connection = http.client.HTTPConnection(HOST, management_port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/token?type=inference", headers={"Authorization": f"Bearer {api_key}"})
        response = connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            raise ValueError(f"token renewal answered {response.status}")


def _wake_on_signals() -> int:
    """Make SIGTERM and the server's end readable on a pipe, so that one select waits for everything."""
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return readable


def _start(plan: Plan, run_folder: Path) -> subprocess.Popen[bytes]:
    with (run_folder / LOG_FOLDER / CONSOLE_LOG).open("wb") as console:
        return subprocess.Popen(  # noqa: S603  # the command was built by teacher_service.settings
            plan.command,
            cwd=run_folder,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, which its workers share
            preexec_fn=_die_with_parent,  # noqa: PLW1509  # this process has one thread
        )


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _keep(server: subprocess.Popen[bytes], plan: Plan, run_folder: Path, wake: int) -> int:
    renew_at = time.monotonic() + plan.renew_s
    while True:
        ready, _, _ = select.select([0, wake], [], [], max(0.0, renew_at - time.monotonic()))
        if server.poll() is not None:
            return SERVER_DIED
        if 0 in ready or (wake in ready and signal.SIGTERM in os.read(wake, 64)):
            return 0
        if time.monotonic() >= renew_at:
            try:
                renew_token(run_folder / KEY_FILE, plan.management_port)
                renew_at = time.monotonic() + plan.renew_s
            except (OSError, ValueError, KeyError, http.client.HTTPException):
                renew_at = time.monotonic() + _RETRY_RENEWAL_S


def _end(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM, patience, then SIGKILL for whatever is left of the group."""
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_SERVER_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _clean(run_folder: Path) -> None:
    for name in (STATE_FILE, KEY_FILE, PLAN_FILE):
        (run_folder / name).unlink(missing_ok=True)
    shutil.rmtree(run_folder / TEMPORARY_FOLDER, ignore_errors=True)


def _remove_link(name: str) -> None:
    if name:
        with contextlib.suppress(OSError):
            Path(name).unlink()
            Path(name).parent.rmdir()


if __name__ == "__main__":
    sys.exit(main())

"""The process between a command and TorchServe: it starts the server, keeps it alive, and takes it down with what it left.

It renews the server's token, and starts the server again when it dies or stops answering.

It stops when its standard input ends, so that a command which dies in any way, even by SIGKILL, takes its server along; or on
SIGTERM, which is how ``fedmentor teacher stop`` asks. The server in turn gets SIGTERM from the kernel if the keeper is killed
(Linux). TorchServe's own ``--stop`` is not used: it returns early and leaves key and worker behind.

TorchServe restarts a worker that dies, but nobody restarts TorchServe, and its ``/ping`` says "Healthy" while no worker answers. So
the keeper asks for a real, tiny prediction now and then, in a process of its own (teacher_service.probe). A server that never
answered at all is not started again: the command that wants it is still there to say why.

Run as ``python -m teacher_service.keeper RUN_FOLDER``; imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedmentor.errors import DigestMismatch
from fedmentor.teacher.endpoint import STATE_FILE
from fedmentor.teacher.pace import Pace
from teacher_service.settings import CONSOLE_LOG, HOST, KEY_FILE, LOG_FOLDER, REFUSAL_FILE, STOPPING_FILE, TEMPORARY_FOLDER

PLAN_FILE = "launch.json"
SERVER_DIED = 1

LONGEST_CONSOLE_BYTES = 1 << 20
"""So much may starts and ends of servers write before the log begins anew. What a server that lives has to say goes elsewhere."""

_SERVER_STOP_S = 15.0
"""TorchServe needs about four seconds to go after SIGTERM."""

_RETRY_RENEWAL_S = 5.0
DEATHS_WITHIN_S = 600.0
_READ_BYTES = 1 << 20
_WHO_WRITES = "find out who writes there, then serve the archive again"
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_STOP = 0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Plan:
    """What to run and how to keep it. The server inherits the keeper's environment, which is not written down.

    Attributes:
        command: the server's command line.
        management_port: where tokens are renewed.
        renew_s: pause between renewals, seconds.
        short_name: a link that was made for the temporary folder, in a folder of its own; empty where none was needed.
        probe: command that ends with 0 where the server answers a prediction; empty for none.
        probe_s: pause between probes, seconds.
        unhealthy_s: so long after the last answered probe the server is started again.
        archive: the file that the server runs; empty for none.
        archive_sha256: what it must be whenever the server is started.
        most_deaths: within DEATHS_WITHIN_S, before the keeper gives up: a server that lives for twenty seconds on average is
            started again for ever, one that dies while it starts is not.
    """

    command: list[str]
    management_port: int
    renew_s: float
    short_name: str = ""
    probe: list[str] = field(default_factory=list)
    probe_s: float = 30.0
    unhealthy_s: float = Pace().unhealthy_s
    archive: str = ""
    archive_sha256: str = ""
    most_deaths: int = 30

    def write(self, run_folder: Path) -> None:
        """Leave the plan for the keeper."""
        (run_folder / PLAN_FILE).write_text(json.dumps(asdict(self)))


def main() -> int:
    """Keep one server.

    Returns:
        0 if it was asked to stop, SERVER_DIED if the server ended by itself and is not to be started again.
    """
    run_folder = Path(sys.argv[1])
    plan = Plan(**json.loads((run_folder / PLAN_FILE).read_text()))
    os.umask(0o077)  # TorchServe creates its key file with the process's mask
    wake = _wake_on_signals()
    deaths: list[float] = []
    try:
        while _lives(plan, run_folder, wake) == SERVER_DIED:
            now = time.monotonic()
            deaths = [*(at for at in deaths if at > now - DEATHS_WITHIN_S), now]
            if not (run_folder / STATE_FILE).exists() or len(deaths) > plan.most_deaths:
                return SERVER_DIED
            print(f"the server ended; start number {len(deaths) + 1}", file=sys.stderr, flush=True)  # noqa: T201  # the keeper's log
            _forget(run_folder)
            if _told_to_stop(wake, min(_FIRST_PAUSE_S * 2 ** (len(deaths) - 1), _LONGEST_PAUSE_S)):
                return _STOP
    except DigestMismatch as error:
        _refuse(error, run_folder)
        return SERVER_DIED
    else:
        return _STOP
    finally:
        _clean(run_folder)
        _remove_link(plan.short_name)


def _lives(plan: Plan, run_folder: Path, wake: int) -> int:
    """One life of the server, if its archive is still what was checked."""
    _check_archive(plan)
    server = _start(plan, run_folder)
    try:
        return _keep(server, plan, run_folder, wake)
    finally:
        _end(server)


def _check_archive(plan: Plan) -> None:
    """Refuse to run an archive that is not what it was when it was checked.

    Raises:
        DigestMismatch: it was changed, or is gone.
    """
    if not plan.archive:
        return
    state = hashlib.sha256()
    try:
        with Path(plan.archive).open("rb") as file:
            while block := file.read(_READ_BYTES):
                state.update(block)
    except OSError as error:
        raise DigestMismatch(f"{plan.archive} is gone, so the teacher is not started", cure=_WHO_WRITES) from error
    if state.hexdigest() != plan.archive_sha256:
        raise DigestMismatch(f"{plan.archive} was changed after it was checked, so the teacher is not started", cure=_WHO_WRITES)


def _refuse(error: DigestMismatch, run_folder: Path) -> None:
    """Say why, in the log and to the command that waits (as fedmentor.teacher.payload.encode_error does)."""
    print(error, file=sys.stderr, flush=True)  # noqa: T201  # the keeper's log
    told = {"status": http.client.INTERNAL_SERVER_ERROR, "code": "digest_mismatch", "message": error.message, "cure": error.cure}
    (run_folder / REFUSAL_FILE).write_text(json.dumps(told))


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
    log = run_folder / LOG_FOLDER / CONSOLE_LOG
    if log.exists() and log.stat().st_size > LONGEST_CONSOLE_BYTES:
        log.replace(log.with_name(f"{CONSOLE_LOG}.1"))
    with log.open("ab") as console:
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
    health = Health(plan, run_folder)
    try:
        while True:
            if _told_to_stop(wake, max(0.0, min(renew_at, health.next_at) - time.monotonic())):
                return _STOP
            if server.poll() is not None or not health.good():
                return SERVER_DIED
            if time.monotonic() >= renew_at:
                try:
                    renew_token(run_folder / KEY_FILE, plan.management_port)
                    renew_at = time.monotonic() + plan.renew_s
                except (OSError, ValueError, KeyError, http.client.HTTPException):
                    renew_at = time.monotonic() + _RETRY_RENEWAL_S
    finally:
        health.close()


class Health:
    """Whether a server answers predictions, asked now and then by a process that the keeper need not wait for.

    Attributes:
        next_at: when ``good`` wants to be called, on the monotonic clock.
    """

    def __init__(self, plan: Plan, run_folder: Path) -> None:
        self._plan = plan
        self._run_folder = run_folder
        self._probe: subprocess.Popen[bytes] | None = None
        self._answered_at = time.monotonic()
        self.next_at = self._answered_at + plan.probe_s if plan.probe else float("inf")

    def good(self) -> bool:
        """Take a probe's answer, start one where it is time; False once there was no answer for ``unhealthy_s``."""
        now = time.monotonic()
        if self._probe is not None and (code := self._probe.poll()) is not None:
            self._probe = None
            if code == 0:
                self._answered_at = now
        if not self._plan.probe:
            return True
        if now >= self.next_at:
            # Until the first start is through, nobody says that it failed but the command that waits for it.
            if not (self._run_folder / STATE_FILE).exists():
                self._answered_at = now
            elif self._probe is None:
                self._probe = subprocess.Popen(  # noqa: S603  # the command was built by teacher_service.server
                    self._plan.probe, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            self.next_at = now + self._plan.probe_s
        return now - self._answered_at < self._plan.unhealthy_s

    def close(self) -> None:
        """End a probe that is under way."""
        if self._probe is not None:
            self._probe.kill()
            self._probe.wait()


def _told_to_stop(wake: int, seconds: float) -> bool:
    """Wait, at most so long, for a signal or the end of the standard input; whether it asks to stop."""
    ready, _, _ = select.select([0, wake], [], [], seconds)
    return 0 in ready or (wake in ready and signal.SIGTERM in os.read(wake, 64))


def _end(server: subprocess.Popen[bytes]) -> None:
    """SIGTERM, patience, then SIGKILL for whatever is left of the group."""
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_SERVER_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _forget(run_folder: Path) -> None:
    """Remove what a dead server left that its successor would trip over."""
    (run_folder / KEY_FILE).unlink(missing_ok=True)
    for left in (run_folder / TEMPORARY_FOLDER).iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _clean(run_folder: Path) -> None:
    for name in (STATE_FILE, KEY_FILE, PLAN_FILE, STOPPING_FILE):
        (run_folder / name).unlink(missing_ok=True)
    shutil.rmtree(run_folder / TEMPORARY_FOLDER, ignore_errors=True)


def _remove_link(name: str) -> None:
    if name:
        with contextlib.suppress(OSError):
            Path(name).unlink()
            Path(name).parent.rmdir()


if __name__ == "__main__":
    sys.exit(main())

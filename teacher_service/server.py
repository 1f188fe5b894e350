"""Start and stop TorchServe as a child of this process, one server a run folder.

``RUN/teacher.json`` names the server while it answers (fedmentor.teacher.endpoint); ``RUN/lock`` is held as long as its keeper
lives, so a state file left by a crash deceives nobody. Everything that is started is stopped when the owner ends, however it ends:
see teacher_service.keeper.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmentor.disk import check_writable
from fedmentor.errors import ConfigError, FedMentorError, PortInUse, TeacherUnreachable
from fedmentor.ids import Digest
from fedmentor.models import write_atomically
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Prompt, TeacherCard
from fedmentor.teacher.endpoint import STATE_FILE, Endpoint, pace_at, read_endpoint
from fedmentor.teacher.images import MIN_SIDE
from fedmentor.teacher.pace import Pace
from fedmentor.teacher.payload import decode_error
from fedmentor.teacher.prompts import whole_box
from teacher_service import settings
from teacher_service.compute import FLOAT32, Compute
from teacher_service.java import find_java
from teacher_service.keeper import Plan
from teacher_service.ports import choose_ports
from teacher_service.settings import Ports
from teacher_service.store import Packed, lay_out, provide_archive
from teacher_service.tls import provide_certificate

LOCK_FILE = "lock"

_TINY_PICTURE = np.zeros((MIN_SIDE, MIN_SIDE), np.uint8)
_WHOLE = Prompt(whole_box((MIN_SIDE, MIN_SIDE)))
"""What a server is asked before it counts as ready: a real prediction, because TorchServe's ping knows nothing of workers."""

DRAIN_S = 120.0
"""Stopping is asked for by people and service managers, who will not wait for the patience of a large teacher."""

_POLL_S = 0.2
_KEEPER_STOP_S = 40.0
_BIND_TRIES = 3
_LONGEST_SOCKET = ".ts.sock.65535"
_SOCKET_BYTES = 103
"""Longest name of a Unix socket without its final zero: 107 on Linux (unix(7)), 103 on macOS."""


@dataclass(frozen=True)
class ServerConfig:
    """How to serve a teacher.

    Attributes:
        run_folder: holds state, token, logs and the model store of this server; created if needed.
        archive: a .mar that ``fedmentor teacher build`` wrote; None for LiteMedSAM as installed.
            An archive is code: serve only what you built.
        port: inference port; None for a free one.
        host: address that the inference port listens on: loopback, or all addresses (0.0.0.0), without ``tls`` only those of a
            container on a private network, because requests and tokens are then not encrypted.
        threads: arithmetic threads of the worker. One where a student trains on the same cores.
        heap_mb: heap of the Java front end.
        tls: encrypt the inference doors with a certificate of their own (teacher_service.tls); then gRPC listens on ``host`` too.
        archive_sha256: what the archive must be; None for anything that this version would have built.
        embeddings: folder where embeddings are kept on disk, for servers to come; None for memory only.
        precision: see teacher_service.compute.
        batch_images: requests handed to the worker together; None for as many as the archive says.
        token_minutes: life of a token; it is renewed after half of it.
        startup_s: how long the first answer may take; None for what the archive's teacher needs.
    """

    run_folder: Path
    archive: Path | None = None
    port: int | None = None
    threads: int = 1
    heap_mb: int = 256
    token_minutes: float = 60.0
    startup_s: float | None = None
    host: str = settings.HOST
    tls: bool = False
    archive_sha256: Digest | None = None
    embeddings: Path | None = None
    precision: str = FLOAT32
    batch_images: int | None = None


class Server:
    """A server that this process started and answers for.

    Attributes:
        endpoint: where it answers.
        card: who answers.
        ports: all of its doors.
    """

    def __init__(self, endpoint: Endpoint, card: TeacherCard, ports: Ports, keeper: subprocess.Popen[bytes]) -> None:
        self.endpoint = endpoint
        self.card = card
        self.ports = ports
        self._keeper = keeper

    def alive(self) -> bool:
        """Whether the server still runs."""
        return self._keeper.poll() is None

    def wait(self, seconds: float) -> bool:
        """Wait for the server's end.

        Returns:
            Whether it has ended, because ``stop`` was called here or elsewhere.

        Raises:
            TeacherUnreachable: it ended by itself.
            DigestMismatch: its archive was changed, so it was not started again.
        """
        try:
            code = self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code != 0:
            _check_refusal(self.endpoint.key_file.parent)
            raise TeacherUnreachable("the teacher ended by itself", cure="look at the logs in its run folder")
        return True

    def stop(self) -> None:
        """Drain, then stop everything. May be called twice."""
        if self.alive():
            drain(self.endpoint)
        _end_keeper(self._keeper)


@contextlib.contextmanager
def serving(config: ServerConfig) -> Iterator[Server]:
    """Serve while the block runs.

    Raises:
        see start.
    """
    server = start(config)
    try:
        yield server
    finally:
        server.stop()


def start(config: ServerConfig) -> Server:
    """Start a server and wait until it answers.

    Raises:
        ConfigError: one runs in that folder already, no Java, or half precision without a GPU.
        PortInUse: the port that was asked for belongs to another process.
        ModelError: the archive is none, or the worker refuses its weights.
        TeacherUnreachable: it did not come up in time.
        OSError: nothing can be written to the folder for embeddings.
    """
    embeddings = None if config.embeddings is None else config.embeddings.absolute()
    config = replace(config, run_folder=config.run_folder.absolute(), embeddings=embeddings)
    if embeddings is not None:
        check_writable(embeddings)  # later its failure is no reason to stop answering
    config.run_folder.mkdir(parents=True, exist_ok=True)
    config.run_folder.chmod(0o700)
    Compute("cuda" if torch.cuda.is_available() else "cpu", config.precision)  # refused here rather than by the worker
    java = find_java()
    with _locked(config.run_folder) as lock:
        lay_out(config.run_folder)
        packed = provide_archive(config.run_folder, config.archive, config.archive_sha256, config.batch_images)
        for tries_left in reversed(range(_BIND_TRIES)):
            ports = choose_ports(config.port)
            keeper = _spawn(config, java, ports, lock, packed)
            try:
                return _await_answer(config, ports, keeper, packed.pace)
            except BaseException as error:
                _end_keeper(keeper)
                if not (isinstance(error, PortInUse) and tries_left and config.port is None):
                    raise
    raise AssertionError("unreachable")  # pragma: no cover  # the last try returns or raises


def stop(run_folder: Path) -> Endpoint:
    """Stop the server of a run folder from another process, after draining it.

    Returns:
        Where it answered.

    Raises:
        TeacherUnreachable: none runs there.
        ConfigError: it did not stop in time.
    """
    endpoint = read_endpoint(run_folder)
    if not is_running(run_folder):
        (run_folder / STATE_FILE).unlink(missing_ok=True)
        raise TeacherUnreachable(f"no teacher is running in {run_folder}", cure="a state file left by a crash was removed")
    keeper = int(json.loads((run_folder / STATE_FILE).read_bytes())["keeper_pid"])
    drain(endpoint)
    with contextlib.suppress(ProcessLookupError):
        os.kill(keeper, signal.SIGTERM)
    deadline = time.monotonic() + _KEEPER_STOP_S
    while is_running(run_folder):
        if time.monotonic() > deadline:
            raise ConfigError(f"process {keeper} does not stop", cure="look at its logs, then kill it")
        time.sleep(_POLL_S)
    return endpoint


def is_running(run_folder: Path) -> bool:
    """Whether a server's keeper lives in a run folder."""
    if not (run_folder / LOCK_FILE).exists():
        return False
    try:
        with _locked(run_folder):
            return False
    except ConfigError:
        return True


def drain(endpoint: Endpoint) -> None:
    """Let what the worker has taken finish, and have what waits or still comes told to try again (503, ``stopping``).

    One worker answers in order, so the answer to a question of our own comes after all that was asked before. What takes
    longer than DRAIN_S is cut off.
    """
    patience = _at_once(pace_at(endpoint))
    patience = replace(patience, answer_s=min(patience.answer_s, DRAIN_S))
    with contextlib.suppress(FedMentorError, OSError), TorchServeTeacher(endpoint, patience) as client:
        (endpoint.key_file.parent / settings.STOPPING_FILE).touch(mode=0o600)
        client.describe()


@contextlib.contextmanager
def _locked(run_folder: Path) -> Iterator[int]:
    """Hold the run folder's lock; a child that inherits the descriptor goes on holding it."""
    descriptor = os.open(run_folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise ConfigError(
            f"a teacher is already running in {run_folder}",
            cure=f"stop it with 'fedmentor teacher stop --run-dir {run_folder}', or use another folder",
        ) from error
    finally:
        os.close(descriptor)


def _spawn(config: ServerConfig, java: Path, ports: Ports, lock: int, packed: Packed) -> subprocess.Popen[bytes]:
    home = _torchserve_home()
    run_folder = config.run_folder
    doors = settings.Doors(ports, config.host, config.tls)
    (run_folder / settings.PROPERTIES_FILE).write_text(settings.properties(run_folder, doors, config.token_minutes))
    (run_folder / settings.LOGGING_FILE).write_text(settings.logging())
    if config.tls:
        names = sorted({settings.HOST, "localhost", socket.gethostname()})
        provide_certificate(run_folder, names, datetime.now(timezone.utc))
    temporary = run_folder / settings.TEMPORARY_FOLDER
    temporary.mkdir(exist_ok=True)  # an earlier try's keeper took it away
    short = short_name(temporary)
    Plan(
        command=settings.command(java, home, run_folder, short, config.heap_mb),
        management_port=ports.management,
        renew_s=30.0 * config.token_minutes,
        short_name="" if short == temporary else str(short),
        probe=[sys.executable, "-m", "teacher_service.probe", str(run_folder)],
        unhealthy_s=packed.pace.unhealthy_s,
        archive=str(packed.path),
        archive_sha256=packed.sha256,
    ).write(run_folder)
    logs = run_folder / settings.LOG_FOLDER
    with contextlib.suppress(FileNotFoundError):  # why this start fails must not be read from an earlier one
        (logs / settings.CONSOLE_LOG).replace(logs / f"{settings.CONSOLE_LOG}.1")
    with (logs / settings.KEEPER_LOG).open("wb") as log:
        return subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "teacher_service.keeper", str(run_folder)],
            env=settings.environment(os.environ, run_folder, config.threads, config.embeddings, config.precision),
            stdin=subprocess.PIPE,  # its end is the keeper's sign that we are gone
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C reaches us first; we drain, then stop it
        )


def short_name(folder: Path) -> Path:
    """``folder`` itself, or a link to it where TorchServe's sockets in it would have names that the kernel refuses.

    Raises:
        ConfigError: the system's own temporary folder has too long a name as well.
    """
    if _sockets_fit(folder):
        return folder
    link = Path(tempfile.mkdtemp(prefix="fedmentor-")) / "t"
    link.symlink_to(folder)
    if not _sockets_fit(link):
        raise ConfigError(f"the path of {folder} is too long", cure="choose a shorter --run-dir, or a shorter TMPDIR")
    return link


def _sockets_fit(folder: Path) -> bool:
    return len(os.fsencode(folder / _LONGEST_SOCKET)) <= _SOCKET_BYTES


def _torchserve_home() -> Path:
    package = find_spec("ts")
    if package is None or package.origin is None:
        raise ConfigError("TorchServe is not installed", cure="pip install 'fedmentor[teacher]'")
    return Path(package.origin).parent.parent


def _await_answer(config: ServerConfig, ports: Ports, keeper: subprocess.Popen[bytes], pace: Pace) -> Server:
    endpoint = replace(_endpoint(config, ports), pace=pace)
    startup_s = pace.startup_s if config.startup_s is None else config.startup_s
    deadline = time.monotonic() + startup_s
    with TorchServeTeacher(endpoint, _at_once(pace)) as client:
        while time.monotonic() < deadline:
            _check_coming_up(config.run_folder, keeper)
            with contextlib.suppress(TeacherUnreachable):
                card = client.soften(_TINY_PICTURE, _WHOLE).teacher
                _write_state(config.run_folder, endpoint, ports, card, keeper.pid)
                return Server(endpoint, card, ports, keeper)
            time.sleep(_POLL_S)
    raise TeacherUnreachable(
        f"TorchServe did not answer within {startup_s:g} s", cure=f"look at {config.run_folder / settings.LOG_FOLDER}"
    )


def _at_once(pace: Pace) -> Patience:
    """One try, behind the batch under way at most."""
    return Patience(answer_s=pace.alone_s, busy_s=0.0, absent_s=0.0, lost_s=0.0)


def _endpoint(config: ServerConfig, ports: Ports) -> Endpoint:
    key_file = config.run_folder / settings.KEY_FILE
    if not config.tls:
        return Endpoint(settings.address(ports.inference), key_file)
    url = settings.address(ports.inference, scheme="https")
    return Endpoint(url, key_file, config.run_folder / settings.CERTIFICATE_PEM)


def _check_coming_up(run_folder: Path, keeper: subprocess.Popen[bytes]) -> None:
    _check_refusal(run_folder)
    if keeper.poll() is None:
        return
    console = (run_folder / settings.LOG_FOLDER / settings.CONSOLE_LOG).read_text(errors="replace")
    if "BindException" in console or "Address already in use" in console:
        raise PortInUse("one of TorchServe's ports was taken while it started", cure="try again")
    last_line = (console.strip().splitlines() or ["it wrote nothing"])[-1]
    raise ConfigError(f"TorchServe ended while it started: {last_line[:200]}", cure=f"look at {run_folder / settings.LOG_FOLDER}")


def _check_refusal(run_folder: Path) -> None:
    refusal = run_folder / settings.REFUSAL_FILE
    if refusal.exists():
        raise decode_error(json.loads(refusal.read_text()))


def _write_state(run_folder: Path, endpoint: Endpoint, ports: Ports, card: TeacherCard, keeper_pid: int) -> None:
    scheme = "grpc" if endpoint.ca_file is None else "grpcs"
    state: dict[str, Any] = {
        "url": endpoint.url,
        "grpc_url": settings.address(ports.grpc_inference, scheme=scheme),
        **({} if endpoint.ca_file is None else {"ca_file": str(endpoint.ca_file)}),
        "key_file": str(endpoint.key_file),
        "keeper_pid": keeper_pid,
        "ports": asdict(ports),
        "pace": pace_at(endpoint).to_json(),
        "teacher": card.to_json(),
    }
    write_atomically(run_folder / STATE_FILE, (json.dumps(state, indent=1) + "\n").encode())


def _end_keeper(keeper: subprocess.Popen[bytes]) -> None:
    if keeper.stdin is not None:
        keeper.stdin.close()
    try:
        keeper.wait(_KEEPER_STOP_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # the kernel then sends its server SIGTERM
        keeper.wait()

"""A federation in containers, driven as a person drives it (make's targets) and looked at from outside (docker)."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "containers.py"
SITES = ("site-1", "site-2", "site-3", "site-4")
SERVICES = ("teacher", "coordinator", *SITES)

PHANTOMS, EPOCHS, ROUNDS, SEED = 64, 4, 6, 3
THREADS = 1
"""Of teacher and distillation; on both sides of the comparison, because sums of floats depend on it."""

TAG = "test"
"""Of the images: they are built once, whatever happens to the sources in between."""

PROMETHEUS = f"fedmentor/prometheus:{TAG}"
"""Debian's Prometheus as an image: it stands in for the official one, which only a registry has."""

PATIENCE_S = 1500.0

TRY_DOORS = """
import json, socket
from concurrent.futures import ThreadPoolExecutor
def tried(door):
    try:
        socket.create_connection(tuple(door), 5).close()
        return "open"
    except OSError as error:
        return f"{{type(error).__name__}}: {{error}}"
doors = {doors}
with ThreadPoolExecutor(len(doors)) as pool:
    print(json.dumps(dict(zip(doors, pool.map(tried, doors.values())))))
"""


def engine_or_skip() -> None:
    """Skip where there is no engine that answers, or no Compose."""
    if shutil.which("docker") is None or ran(["docker", "info"]).returncode != 0:
        pytest.skip("no container engine answers here")
    if ran(["docker", "compose", "version"]).returncode != 0 and shutil.which("docker-compose") is None:
        pytest.skip("the container engine has no Compose")


def ran(command: list[str], **options) -> subprocess.CompletedProcess:
    """A finished process with its output as text."""
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for something that is bound to happen."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"not within {patience_s:.0f} s: {what}"
        time.sleep(0.3)


@dataclass
class Containers:
    """One Compose project under a name, with ports and a results folder of its own.

    Attributes:
        project: name before those of containers, networks and volumes.
        results: where report and model are copied to.
        teacher_port, metrics_port: on loopback.
        aggregation: see ``fedmentor coordinator manifest``.
        prometheus_port: on loopback; None starts no Prometheus.
    """

    project: str
    results: Path
    teacher_port: int
    metrics_port: int
    aggregation: str
    prometheus_port: int | None = None

    def script(self, action: str) -> list[str]:
        """What ``make ACTION`` runs."""
        return [sys.executable, str(SCRIPT), action]

    @property
    def environment(self) -> dict[str, str]:
        """This person's environment with the settings of a small federation."""
        return {
            **os.environ,
            "FEDMENTOR_PROJECT": self.project,
            "FEDMENTOR_TAG": TAG,
            "FEDMENTOR_RESULTS": str(self.results),
            "FEDMENTOR_TEACHER_PORT": str(self.teacher_port),
            "FEDMENTOR_METRICS_PORT": str(self.metrics_port),
            "FEDMENTOR_TEACHER_THREADS": str(THREADS),
            "FEDMENTOR_DISTIL_THREADS": str(THREADS),
            "FEDMENTOR_PHANTOMS": str(PHANTOMS),
            "FEDMENTOR_EPOCHS": str(EPOCHS),
            "FEDMENTOR_SEED": str(SEED),
            "FEDMENTOR_AGGREGATION": self.aggregation,
            "MONITORING": "1" if self.prometheus_port else "",
            "FEDMENTOR_PROMETHEUS_PORT": str(self.prometheus_port or ""),
            "FEDMENTOR_PROMETHEUS_IMAGE": PROMETHEUS,
            "ROUNDS": str(ROUNDS),
            "DATA": "",
        }

    def do(self, action: str) -> subprocess.CompletedProcess:
        """Run one action to its end."""
        return ran(self.script(action), env=self.environment, timeout=PATIENCE_S)

    def begin(self, action: str) -> subprocess.Popen:
        """Start one action; Ctrl-C reaches it even where whoever runs the tests has that ignored."""
        return subprocess.Popen(
            self.script(action),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - this process has one thread
        )

    def container(self, service: str) -> str:
        """Id of a service's container, empty where there is none."""
        label = "com.docker.compose"
        filters = [f"label={label}.project={self.project}", f"label={label}.service={service}"]
        found = ran(["docker", "ps", "-aq", "--filter", filters[0], "--filter", filters[1]]).stdout.split()
        return found[0] if found else ""

    def inspect(self, service: str) -> dict:
        """All that docker knows about a service's container."""
        return json.loads(ran(["docker", "inspect", self.container(service)]).stdout)[0]

    def address(self, service: str) -> str:
        """An address of a service's container."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"].values()
        return next(network["IPAddress"] for network in networks if network["IPAddress"])

    def running(self, service: str) -> bool:
        """Whether its container runs."""
        container = self.container(service)
        return bool(container) and ran(["docker", "inspect", "-f", "{{.State.Running}}", container]).stdout.strip() == "true"

    def standing(self) -> dict:
        """The coordinator's report, empty where there is none yet."""
        done = subprocess.run(
            ["docker", "cp", f"{self.container('coordinator')}:/state/report.json", "-"], capture_output=True, check=False
        )
        if done.returncode != 0:
            return {}
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            return json.load(archive.extractfile("report.json"))

    def log(self, service: str) -> str:
        """All that a service has said."""
        container = self.container(service)
        done = ran(["docker", "logs", container]) if container else None
        return done.stdout + done.stderr if done else ""

    def python(self, service: str, program: str, *, detach: bool = False) -> subprocess.CompletedProcess:
        """Run a Python program inside a service's container, as its user."""
        flags = ["--detach"] if detach else []
        done = ran(["docker", "exec", *flags, self.container(service), "python", "-c", program])
        assert done.returncode == 0, f"{service}: {done.stderr}\n{self.log(service)[-2000:]}"
        return done

    def tried(self, service: str, doors: dict[str, tuple[str, int]]) -> dict[str, str]:
        """Try to connect from a service's container to all doors at once: ``open`` for each, or why not."""
        return json.loads(self.python(service, TRY_DOORS.format(doors=json.dumps(doors))).stdout)

    def crash(self, service: str) -> None:
        """End a service's process by SIGKILL as a crash would, so that the restart policy counts.

        Where the engine's processes cannot be reached from here, docker kills the container, and starts it again.
        """
        container = self.container(service)
        pid = self.inspect(service)["State"]["Pid"]
        try:
            assert container in Path("/proc", str(pid), "cgroup").read_text()
            os.kill(pid, signal.SIGKILL)
        except (AssertionError, OSError):
            ran(["docker", "kill", "--signal", "KILL", container])
            ran(["docker", "start", container])

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        of_project = ["--filter", f"label=com.docker.compose.project={self.project}", "-q"]
        listed = [ran(["docker", *kind, *of_project]).stdout for kind in (("ps", "-a"), ("volume", "ls"), ("network", "ls"))]
        return "".join(listed).split()


def end(process: subprocess.Popen) -> None:
    """See that a process that was begun is over, whatever became of the test."""
    process.kill()
    process.wait()
    process.stdout.close()


def tried_in_usual_container(doors: dict[str, tuple[str, int]]) -> dict[str, str]:
    """The same as ``Containers.tried`` from a container on the engine's own network, to which nothing was done."""
    command = ["docker", "run", "--rm", "--entrypoint", "python", f"fedmentor/coordinator:{TAG}", "-c"]
    return json.loads(ran([*command, TRY_DOORS.format(doors=json.dumps(doors))]).stdout)


def free_ports(count: int = 2) -> tuple[int, ...]:
    """Ports of this machine that nobody has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return tuple(one.getsockname()[1] for one in sockets)


def volumes() -> set[str]:
    """Names of all volumes that there are."""
    return set(ran(["docker", "volume", "ls", "-q"]).stdout.split())

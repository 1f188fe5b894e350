"""Child processes that never outlive their parent's ``with`` block.

Each child leads a process group of its own, so that Ctrl-C reaches the parent alone, which then stops the children in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from fedmentor.errors import FedMentorError, PeerUnreachable

STOP_GRACE_S = 10.0

_POLL_S = 0.05


class ChildFailed(FedMentorError):
    """A process that was started for the study ended with an error; carries its exit code."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        super().__init__(f"{name} ended with exit code {code}: {_last_words(log)}", cure=f"read {log}")
        self.code = code


@dataclass(frozen=True)
class Child:
    """One running process and the files that its standard output and standard error go to."""

    name: str
    process: subprocess.Popen[bytes]
    out: Path
    log: Path

    def failed(self) -> bool:
        """Whether it ended with an error."""
        return self.process.poll() not in (None, 0)

    def error(self) -> ChildFailed:
        """What to raise when it failed."""
        return ChildFailed(self.name, self.process.returncode, self.log)


def fedmentor() -> tuple[str, ...]:
    """This program as a child that does not outlive the calling process; see study.child."""
    return sys.executable, "-m", "study.child", str(os.getpid())


class Children:
    """The processes of one ``with children()`` block.

    Attributes:
        program: what is started with each child's arguments; None for ``fedmentor`` itself.
        grace_s: how long a child may take to end after SIGTERM before its group is killed.
    """

    def __init__(self, program: Sequence[str] | None = None, grace_s: float = STOP_GRACE_S) -> None:
        self.program = tuple(program) if program else fedmentor()
        self.grace_s = grace_s
        self._running: list[Child] = []

    def start(self, name: str, arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Child:
        """Start the program with ``arguments``; its output goes to ``NAME.out`` and ``NAME.log`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        out, log = folder / f"{name}.out", folder / f"{name}.log"
        with out.open("wb") as output, log.open("wb") as errors:
            process = subprocess.Popen(  # noqa: S603 - our own program with arguments of our own
                [*self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        child = Child(name, process, out, log)
        self._running.append(child)
        return child

    def stop(self) -> None:
        """End everything that still runs: SIGTERM in reverse order of start, then SIGKILL to the groups after the grace.

        A second Ctrl-C cuts the grace short.
        """
        alive = [child.process for child in reversed(self._running) if child.process.poll() is None]
        try:
            _ask_to_end(alive, self.grace_s)
        finally:
            for process in alive:
                if process.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            self._running.clear()


@contextmanager
def children(program: Sequence[str] | None = None, grace_s: float = STOP_GRACE_S) -> Iterator[Children]:
    """A block in which processes may be started; all are stopped at its end, however it ends."""
    group = Children(program, grace_s)
    try:
        yield group
    finally:
        group.stop()


def wait_for_file(path: Path, child: Child, timeout_s: float) -> str:
    """Wait until a child has written a file (atomically), and read it.

    Raises:
        ChildFailed: the child ended first.
        PeerUnreachable: not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if path.exists():
            return path.read_text().strip()
        if child.process.poll() is not None:
            raise child.error()
        time.sleep(_POLL_S)
    raise PeerUnreachable(f"{child.name} was not ready within {timeout_s:.0f} s", cure=f"read {child.log}")


def complete_lines(growing: TextIO) -> Iterator[str]:
    """The lines that were completed since the last call; a line that is still being written waits for the next."""
    while True:
        start = growing.tell()
        line = growing.readline()
        if not line.endswith("\n"):
            growing.seek(start)
            return
        yield line


def _ask_to_end(processes: Sequence[subprocess.Popen[bytes]], grace_s: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace_s
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))


def _last_words(log: Path) -> str:
    """The last line that tells of an error, or the last line at all."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ")
    return lines[-1][:300] if lines else "it said nothing"

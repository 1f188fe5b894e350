"""systemd's end of the line: a real socket that a service's messages arrive at."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmentor.supervisor import Supervisor
from fedmentor.testing.clock import ManualClock

_LONGEST = 4096


class Systemd:
    """What ``listening`` gives.

    Attributes:
        path: what $NOTIFY_SOCKET holds.
        clock: the time of the supervisors that it makes.
    """

    def __init__(self, path: Path, line: socket.socket) -> None:
        self.path = path
        self.clock = ManualClock()
        self._line = line

    def supervisor(self, process: int = 1, **environment: str) -> Supervisor:
        """A service's end, with more of systemd's variables."""
        return Supervisor({"NOTIFY_SOCKET": str(self.path), **environment}, self.clock, process)

    def heard(self) -> list[str]:
        """The messages since the last call."""
        said = []
        while True:
            try:
                said.append(self._line.recv(_LONGEST).decode())
            except BlockingIOError:
                return said


@contextmanager
def listening() -> Iterator[Systemd]:
    """A socket in a folder of its own, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        path = Path(folder) / "notify"
        line.bind(str(path))
        line.setblocking(False)
        yield Systemd(path, line)

"""Telling systemd how a service is: ready, at work, alive, stopping (sd_notify(3)); does nothing where nobody listens.

Twenty lines of protocol are no reason for a dependency: one datagram of ``KEY=VALUE`` lines to the socket in $NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from fedmentor.clock import Clock
from fedmentor.text import one_line

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"

PINGS_AN_INTERVAL = 2
"""systemd ends a service that has been silent for the whole interval; sd_watchdog_enabled(3) advises half of it."""


class Supervisor:
    """The line to systemd.

    Args:
        environment: with NOTIFY_SOCKET, and WATCHDOG_USEC and WATCHDOG_PID where signs of life are wanted.
        clock: for the time between these.
        process: id of this process; systemd may mean another one.
    """

    def __init__(self, environment: Mapping[str, str], clock: Clock, process: int) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the zero byte of Linux's abstract sockets.
        self._path = f"\0{path[1:]}" if path.startswith("@") else path
        self._clock = clock
        wanted = environment.get("WATCHDOG_PID", str(process)) == str(process)
        interval = environment.get("WATCHDOG_USEC", "") if wanted else ""
        self._every_s = int(interval) / 1e6 / PINGS_AN_INTERVAL if interval.isdigit() else 0.0
        self._next_s = clock.monotonic_s()

    def tell(self, *lines: str) -> None:
        """Send one message; a supervisor that is away or slow does not matter to the service."""
        if not self._path:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as line:
            line.sendto("\n".join(lines).encode(), self._path)

    def alive(self) -> None:
        """Called wherever the service makes progress: one that hangs falls silent."""
        now_s = self._clock.monotonic_s()
        if self._every_s and now_s >= self._next_s:
            self._next_s = now_s + self._every_s
            self.tell(ALIVE)

    def status(self, text: str, *, ready: bool = False) -> None:
        """Say in one line what the service does, and perhaps that it is ready; an empty text says nothing."""
        if text:
            self.tell(*([READY] if ready else []), f"STATUS={one_line(text)}")


def supervisor(clock: Clock) -> Supervisor:
    """The one of this process, from its environment."""
    return Supervisor(os.environ, clock, os.getpid())

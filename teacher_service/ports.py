"""Free ports on loopback."""

from __future__ import annotations

import contextlib
import socket

from fedmentor.errors import ConfigError, PortInUse
from teacher_service.settings import HOST, Ports


def choose_ports(inference: int | None = None) -> Ports:
    """Pick free ports; the inference port may be asked for.

    Nothing holds the ports between this call and the server's own bind, so a start may still find one taken.

    Raises:
        PortInUse: the port that was asked for belongs to another process.
        ConfigError: it may not be used.
    """
    with contextlib.ExitStack() as held:
        first = _bind(held, inference or 0)
        others = [_bind(held, 0) for _ in range(4)]
    return Ports(first, *others)


def _bind(held: contextlib.ExitStack, port: int) -> int:
    sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # as Java does: a connection that is only being closed does not count
    try:
        sock.bind((HOST, port))
    except PermissionError as error:
        raise ConfigError(f"port {port} needs privileges that this program lacks", cure="choose one from 1024 on") from error
    except OSError as error:
        raise PortInUse(f"port {port} on {HOST} is in use", cure="choose another port, or none for a free one") from error
    return int(sock.getsockname()[1])

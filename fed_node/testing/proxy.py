"""A small HTTP proxy that knows CONNECT and nothing else, for tests of nodes that sit behind one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress

MAX_REQUEST_BYTES = 65536
CHUNK_BYTES = 65536
TIMEOUT_SECONDS = 10.0


class ConnectProxy:
    """Listens on loopback and joins each caller with the target of its CONNECT (RFC 9110, section 9.3.6).

    Args:
        hosts: where names lead that this machine cannot resolve, as the names of a hospital's proxy do.
        refuse: answer every request with 403 instead.
        date: what its clock says, for the Date of its replies (RFC 9110, section 6.6.1); None: no Date.

    Attributes:
        address: ``host:port`` to configure as proxy.
        asked: the targets asked for, in order.
    """

    def __init__(self, hosts: Mapping[str, str] | None = None, *, refuse: bool = False, date: str | None = None) -> None:
        self._hosts = dict(hosts or {})
        self._date = "" if date is None else f"Date: {date}\r\n"
        self._refuse = refuse
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.asked: list[str] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and cut what is open."""
        for one in (self._server, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                caller, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        self._open.append(caller)
        with suppress(OSError, ValueError), closing(caller):
            method, target = _request(caller)
            self.asked.append(target)
            if self._refuse or method != "CONNECT":
                caller.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = target.rpartition(":")
            with socket.create_connection((self._hosts.get(host, host), int(port)), TIMEOUT_SECONDS) as server:
                self._open.append(server)
                server.settimeout(None)
                caller.sendall(f"HTTP/1.1 200 Connection established\r\n{self._date}\r\n".encode("ascii"))
                threading.Thread(target=_pump, args=(server, caller), daemon=True).start()
                _pump(caller, server)


@contextmanager
def connect_proxy(
    hosts: Mapping[str, str] | None = None, *, refuse: bool = False, date: str | None = None
) -> Iterator[ConnectProxy]:
    """A proxy for the length of a block; see ConnectProxy."""
    proxy = ConnectProxy(hosts, refuse=refuse, date=date)
    try:
        yield proxy
    finally:
        proxy.close()


def _request(caller: socket.socket) -> tuple[str, str]:
    data = b""
    while b"\r\n\r\n" not in data:
        more = caller.recv(CHUNK_BYTES)
        if not more or len(data) > MAX_REQUEST_BYTES:
            raise ValueError("not a request")
        data += more
    method, target, _ = data.split(b"\r\n", 1)[0].decode("ascii").split(" ", 2)
    return method, target


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

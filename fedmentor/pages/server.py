"""A small HTTP server for pages of this machine: one answer a connection, bounded in every way.

It runs in threads of its own beside whatever the process is there for. Whatever a client does, it costs at most one of a few
threads for a few seconds, and a few kilobytes (fedmentor.pages.values.Limits), or a call's body if it has the page's key; further
clients are turned away. Nothing is written down, no cookie is set. Only requests that name this machine are answered: a page of
another site that is open in the same browser cannot read along by DNS rebinding.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

from fedmentor.errors import ConfigError, PortInUse
from fedmentor.pages.handler import PageHandler
from fedmentor.pages.values import Served

_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_PAUSE_SECONDS = 0.1


@contextmanager
def serving(address: tuple[str, int], served: Served) -> Iterator[str]:
    """Serve pages while the block runs; gives their address, such as ``http://127.0.0.1:9464/``.

    Args:
        address: host and port; 0 takes a free port.
        served: what is served there.

    Raises:
        PortInUse: another process has the port.
        ConfigError: the host is not an address or a name of this machine, or the port may not be had.
    """
    server = _bound(address, served)
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    try:
        yield f"http://{host}:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(HTTPServer):
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], served: Served) -> None:
        family, _, _, _, bound = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self._served = served
        self._slots = threading.BoundedSemaphore(served.limits.connections)
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        super().__init__((str(bound[0]), int(bound[1])), BaseHTTPRequestHandler)

    def server_bind(self) -> None:
        """Without asking the name service for this host's name, as the base class does."""
        super(HTTPServer, self).server_bind()

    def get_request(self) -> tuple[socket.socket, object]:
        """Take a connection; where that fails, as without a free descriptor, wait: the next look would fail at once again."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_PAUSE_SECONDS)
            raise

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Answer in a thread, as long as there are not too many."""
        if not isinstance(request, socket.socket):
            return
        if not self._slots.acquire(blocking=False):
            request.setblocking(False)
            with suppress(OSError):
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        thread = threading.Thread(target=self._serve, args=(request, client_address), name="page", daemon=True)
        with self._lock:
            self._open[request] = thread
        try:
            thread.start()
        except RuntimeError:  # the machine has no thread left
            self._let_go(request)

    def server_close(self) -> None:
        """Hang up on everybody; nothing that is served here is worth waiting for, such as a disk that does not answer."""
        super().server_close()
        end_s = time.monotonic() + self._served.limits.answer_seconds
        with self._lock:
            left = dict(self._open)
        for connection, thread in left.items():
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join(max(0.0, end_s - time.monotonic()))

    def _serve(self, request: socket.socket, client_address: object) -> None:
        try:
            with suppress(OSError):  # the client went away, or took too long
                PageHandler(request, client_address, self, self._served)
        finally:
            self._let_go(request)

    def _let_go(self, request: socket.socket) -> None:
        self.shutdown_request(request)
        with self._lock:
            del self._open[request]
        self._slots.release()


def _bound(address: tuple[str, int], served: Served) -> _Server:
    (host, port), what = address, served.what
    cure = "name an address of this machine, and a port that you may use"
    try:
        return _Server(address, served)
    except UnicodeError as error:  # a label of more than 63 characters
        raise ConfigError(f"{what} cannot be served on {host[:80]!r}: no such name", cure=cure) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"{what} cannot be served on {host}, port {port}: {error.strerror}", cure=cure) from error
        raise PortInUse(f"port {port} for {what} is in use", cure="choose another port, or 0 for a free one") from error

"""One HTTP request for a page: read within limits, answered only where it is for this machine and changes nothing."""

from __future__ import annotations

import io
import json
import re
import socket
import time
import traceback
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from socketserver import BaseServer
from urllib.parse import urlsplit

from coordinator.dashboard.pages import HEADERS, Answer, Asked, Route, Served
from coordinator.events import CallFailed
from fedmentor.errors import FedMentorError

_HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::[0-9]{1,5})?")
"""A Host header's name or address, lower-case, with or without a port (RFC 9110, section 7.2)."""


class _TooLong(Exception):
    """A request has more bytes than any honest one."""


class _Incoming(io.RawIOBase):
    """What a client sends: at most so many bytes, and only up to a moment, however it deals them out."""

    def __init__(self, connection: socket.socket, most_bytes: int, seconds: float) -> None:
        self._connection = connection
        self._left_bytes = most_bytes
        self._end_s = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader gives a memoryview
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if not self._left_bytes:
            raise _TooLong
        self._connection.settimeout(left_s)
        received = self._connection.recv_into(buffer[: self._left_bytes])
        self._left_bytes -= received
        return received


class PageHandler(BaseHTTPRequestHandler):
    """One connection, which is one request.

    Args:
        served: what is served.
    """

    default_request_version = "HTTP/1.0"  # of what cannot be read; to the base class's HTTP/0.9 an answer has no status
    # Until a request line was read; answers look at them.
    request_version = default_request_version
    command = "GET"

    def __init__(self, request: socket.socket, client_address: object, server: BaseServer, served: Served) -> None:
        self._served = served  # first: the base class answers the request from here on
        super().__init__(request, client_address, server)

    def setup(self) -> None:
        """Read within the limits."""
        super().setup()
        self.rfile.close()
        limits = self._served.limits
        self.rfile = io.BufferedReader(_Incoming(self.connection, limits.request_bytes, limits.request_seconds))

    def handle(self) -> None:
        """Answer the request."""
        try:
            self.handle_one_request()
        except _TooLong:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def parse_request(self) -> bool:
        """Refuse every method but the two that change nothing."""
        if not super().parse_request():
            return False
        if self.command in {"GET", "HEAD"}:
            return True
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this page is only read", {"Allow": "GET, HEAD"})
        return False

    def do_GET(self) -> None:
        """1. The request names this machine. 2. There is something at the path. 3. It can be made."""
        if not self._is_for_us():  # 1
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "ask by this machine's address, or have its operator allow the name")
            return
        target = urlsplit(f"//host{self.path}" if self.path.startswith("/") else "")
        route = self._served.routes.get(target.path)
        if route is None:  # 2
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here")
            return
        self._answer(route, target.query)  # 3

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def version_string(self) -> str:
        """Who answers; the base class would tell the versions of Python and of its library."""
        return "fedmentor"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the coordinator's log is about its run."""

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nor that a client was slow or wrong."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses; its own sentences would repeat what the client sent."""
        del message, explain
        self._refuse(HTTPStatus(code), HTTPStatus(code).phrase.lower())

    def _is_for_us(self) -> bool:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            return False
        found = _HOST.fullmatch(hosts[0].lower())
        if found is None:
            return False
        name = (found["address"] or found["name"]).rstrip(".")
        return name in self._served.names or name == "localhost" or _is_address(name)

    def _answer(self, route: Route, query: str) -> None:
        asked = Asked(query, self.headers.get("Accept", ""), self.headers.get("Accept-Encoding", ""))
        try:
            answer = route(asked)
        except FedMentorError:  # its sentence names folders, which are not for whoever connects
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "the journal cannot be read now; look at the state folder's disk")
        except Exception:  # noqa: BLE001 - the rim: private text goes to the log, a fixed sentence to the client
            self._served.observe(CallFailed("page", None, traceback.format_exc()))
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the coordinator's log says what went wrong")
        else:
            self._reply(HTTPStatus.OK, answer)

    def _refuse(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"status": status.value, "message": message}).encode()
        self._reply(status, Answer(body, "application/json", headers or {}))

    def _reply(self, status: HTTPStatus, answer: Answer) -> None:
        self.connection.settimeout(self._served.limits.answer_seconds)
        self.send_response(status)
        length = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), "Connection": "close"}
        for name, value in {**HEADERS, **length, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _is_address(host: str) -> bool:
    """Whether a host is a plain address, which no name service was asked for."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

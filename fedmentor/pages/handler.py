"""One HTTP request for a page: read within limits, answered only where it is for this machine and asks for what there is."""

from __future__ import annotations

import hmac
import io
import re
import socket
import time
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer
from urllib.parse import urlsplit

from fedmentor.pages.hosts import names_this_machine
from fedmentor.pages.values import HEADERS, KEY_HEADER, Answer, Asked, Call, Route, Served, refusal

_READ_BYTES = 1 << 16
_LENGTH = re.compile("[0-9]{1,15}")


class _Refused(Exception):
    """A request gets no more than a sentence."""

    def __init__(self, status: HTTPStatus, message: str, **headers: str) -> None:
        super().__init__(message)
        self.answer = refusal(status, message, headers)


class _Incoming(io.RawIOBase):
    """What a client sends: at most so many bytes, and only up to a moment, however it deals them out."""

    def __init__(self, connection: socket.socket, most_bytes: int, seconds: float) -> None:
        self._connection = connection
        self.allow(most_bytes, seconds)

    def allow(self, most_bytes: int, seconds: float) -> None:
        """From now on."""
        self._left_bytes = most_bytes
        self._end_s = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader gives a memoryview
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if not self._left_bytes:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _Refused(status, status.phrase.lower())
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
        self._incoming = _Incoming(self.connection, limits.request_bytes, limits.request_seconds)
        self.rfile = io.BufferedReader(self._incoming)

    def handle(self) -> None:
        """Answer the request."""
        try:
            self.raw_requestline = self.rfile.readline()
            if self.raw_requestline and self.parse_request():
                self._reply(self._answer())
        except _Refused as refused:
            self._reply(refused.answer)
            self._hear_out()

    def version_string(self) -> str:
        """Who answers; the base class would tell the versions of Python and of its library."""
        return "fedmentor"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: the process has other things to tell."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses; its own sentences would repeat what the client sent."""
        del message, explain
        self._reply(refusal(HTTPStatus(code), HTTPStatus(code).phrase.lower()))

    def _answer(self) -> Answer:
        """1. The request names this machine. 2. There is something at the path. 3. It may be asked for so. 4. It can be made."""
        if not names_this_machine(self.headers.get_all("Host", []), self._served.names, self.connection.getsockname()[1]):  # 1
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, "ask by this machine's address, or have its operator allow the name")
        target = urlsplit(f"//host{self.path}" if self.path.startswith("/") else "")
        call = self._served.calls.get(target.path)
        route = call.route if call else self._served.routes.get(target.path)
        if route is None:  # 2
            raise _Refused(HTTPStatus.NOT_FOUND, "there is nothing here")
        methods = "POST" if call else "GET, HEAD"
        if self.command not in methods.split(", "):  # 3
            raise _Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"ask for this with {methods} only", Allow=methods)
        body = self._body(call) if call else b""
        return self._made(route, Asked(target.query, self.headers.get("Accept", ""), self.headers.get("Accept-Encoding", ""), body))

    def _body(self, call: Call) -> bytes:
        """What a call is given, read only where the page's key is shown and there is not too much of it."""
        if not hmac.compare_digest(self.headers.get(KEY_HEADER, "").encode(), self._served.key.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "open the page at the address that its command printed")
        told = self.headers.get("Content-Length", "")
        if not _LENGTH.fullmatch(told):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "say how long the message is")
        if (length := int(told)) > call.most_bytes:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a message is over the limit of {call.most_bytes} bytes")
        self._incoming.allow(length, self._served.limits.body_seconds)
        body = self.rfile.read(length)
        if len(body) < length:
            raise _Refused(HTTPStatus.BAD_REQUEST, "the message ends early")
        return body

    def _made(self, route: Route, asked: Asked) -> Answer:
        try:
            return route(asked)
        except Exception as error:  # the rim: private text goes to the log, a fixed sentence to the client
            self._served.observe(traceback.format_exc())
            raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR, "this failed; its log says why") from error

    def _hear_out(self) -> None:
        """Take what a refused client still sends, for a moment: to hang up on unread bytes would take the answer from it (RST)."""
        self.connection.shutdown(socket.SHUT_WR)
        end_s = time.monotonic() + self._served.limits.linger_seconds
        while (left_s := end_s - time.monotonic()) > 0:
            self.connection.settimeout(left_s)
            if not self.connection.recv(_READ_BYTES):
                return

    def _reply(self, answer: Answer) -> None:
        self.connection.settimeout(self._served.limits.answer_seconds)
        self.send_response(answer.status)
        length = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), "Connection": "close"}
        for name, value in {**HEADERS, **length, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

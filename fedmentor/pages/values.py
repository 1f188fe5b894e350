"""What a page server is asked, what it answers, to whom, and what a client may cost. Frozen values; no I/O."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer; nothing from elsewhere is loaded, and nobody may frame or embed it."""

KEY_HEADER: Final = "X-FedMentor-Key"
"""What a call shows. A page of another site would need this server's leave to send it (CORS preflight), and gets none."""


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, can cost.

    Attributes:
        connections: at once; further ones are turned away.
        request_bytes: request line and headers together; a browser's cookies for other services of the same host come along.
        request_seconds: from the connection to the end of the headers.
        body_seconds: from there to the end of a call's body; its size is limited by the call.
        answer_seconds: for taking what is sent.
        linger_seconds: for what a refused client still sends while it is being told.
    """

    connections: int = 32
    request_bytes: int = 16 << 10
    request_seconds: float = 5.0
    body_seconds: float = 60.0
    answer_seconds: float = 10.0
    linger_seconds: float = 2.0


USUAL: Final = Limits()


@dataclass(frozen=True)
class Asked:
    """What a route may know of a request; only a call has a body."""

    query: str
    accept: str
    accept_encoding: str
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What a route answers; ``headers`` come on top of HEADERS."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    status: HTTPStatus = HTTPStatus.OK


Route = Callable[[Asked], Answer]


@dataclass(frozen=True)
class Call:
    """What the page alone may ask for, by POST and with the server's key.

    Attributes:
        route: does it.
        most_bytes: of the body; nothing is read of a longer one.
    """

    route: Route
    most_bytes: int


@dataclass(frozen=True)
class Served:
    """What a server serves, and to whom.

    Attributes:
        what: its name in a sentence, such as "dashboard".
        routes: what is at which path, to be read by GET and HEAD.
        observe: is told the traceback of what a route raised; it is not for the client's eyes.
        calls: what the page can have done, and at which path.
        names: lower-case names, beside ``localhost`` and plain addresses, by which clients may ask at any port: a tunnel or a proxy
            may lie in between. None: nothing does, clients ask 127.0.0.1 or ``localhost`` at the very port.
        key: what calls show; the page holds it.
        limits: what clients may cost.
    """

    what: str
    routes: Mapping[str, Route]
    observe: Callable[[str], None]
    calls: Mapping[str, Call] = field(default_factory=dict)
    names: Collection[str] | None = None
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    limits: Limits = USUAL


def json_answer(value: Any, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Answer:
    """A value as JSON."""
    return Answer(json.dumps(value).encode(), "application/json", headers or {}, status)


def refusal(status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """One sentence that says why there is nothing else."""
    return json_answer({"status": status.value, "message": message}, status, headers)

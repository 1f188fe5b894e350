"""What a page server is asked, what it answers, and what a client may cost. Frozen values; no I/O."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from coordinator.events import Observer

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


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, can cost.

    Attributes:
        connections: at once; further ones are turned away.
        request_bytes: request line and headers together; a browser's cookies for other services of the same host come along.
        request_seconds: from the connection to the end of the headers.
        answer_seconds: for taking what is sent.
    """

    connections: int = 32
    request_bytes: int = 16 << 10
    request_seconds: float = 5.0
    answer_seconds: float = 10.0


USUAL: Final = Limits()


@dataclass(frozen=True)
class Asked:
    """What a route may know of a request."""

    query: str
    accept: str
    accept_encoding: str


@dataclass(frozen=True)
class Answer:
    """What a route answers; ``headers`` come on top of HEADERS."""

    body: bytes
    media_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[Asked], Answer]


@dataclass(frozen=True)
class Served:
    """What a server serves, and to whom.

    Attributes:
        routes: what is at which path.
        names: lower-case names, beside ``localhost`` and plain addresses, by which a client may ask.
        observe: is told what a route raised that it should not.
        limits: what clients may cost.
    """

    routes: Mapping[str, Route]
    names: Collection[str]
    observe: Observer
    limits: Limits = USUAL

"""What is served at which path: the page, its numbers, the metrics."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app

from coordinator.dashboard.pages import Answer, Asked, Route


def dashboard_routes(status: Callable[[], bytes]) -> Mapping[str, Route]:
    """The page, and the numbers that it asks for every few seconds.

    Args:
        status: gives ``status.json``.
    """
    page = dashboard_page()
    return {"/": lambda _asked: page, "/status.json": lambda _asked: Answer(status(), "application/json")}


def metrics_routes(registry: CollectorRegistry) -> Mapping[str, Route]:
    """Prometheus metrics, in the form that the client asks for."""
    application = make_wsgi_app(registry)

    def metrics(asked: Asked) -> Answer:
        try:
            return made(asked)
        except (TypeError, ValueError):  # the library reads versions in Accept as numbers, whatever stands there
            return made(replace(asked, accept=""))

    def made(asked: Asked) -> Answer:
        told: dict[str, str] = {}

        def start(_status: str, headers: list[tuple[str, str]]) -> None:
            told.update(headers)

        body = b"".join(application(_environment(asked), start))
        return Answer(body, told.pop("Content-Type"), told)

    return {"/metrics": metrics}


def dashboard_page() -> Answer:
    """The page: one file that loads nothing but its numbers, and runs no script but its own (by hash, not by ``unsafe-inline``)."""
    text = files("coordinator.dashboard").joinpath("page.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash_of('script', text)}; style-src {_hash_of('style', text)}; img-src data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return Answer(text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": policy})


def _hash_of(element: str, text: str) -> str:
    """How a policy names the one inline element of that kind (Content Security Policy level 3, section 2.3.1)."""
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _environment(asked: Asked) -> dict[str, Any]:
    """What the metrics' WSGI application looks at."""
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/metrics",
        "QUERY_STRING": asked.query,
        "HTTP_ACCEPT": asked.accept,
        "HTTP_ACCEPT_ENCODING": asked.accept_encoding,
    }

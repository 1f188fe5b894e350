"""What is served at which path: the page, its numbers, the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry, make_wsgi_app

from fedmentor.errors import FedMentorError
from fedmentor.pages.document import page_answer
from fedmentor.pages.values import Answer, Asked, Route, refusal


def dashboard_routes(status: Callable[[], bytes]) -> Mapping[str, Route]:
    """The page, and the numbers that it asks for every few seconds.

    Args:
        status: gives ``status.json``.
    """
    page = page_answer(files("coordinator.dashboard").joinpath("page.html").read_text(encoding="utf-8"))

    def numbers(_asked: Asked) -> Answer:
        try:
            return Answer(status(), "application/json")
        except FedMentorError:  # its sentence names folders, which are not for whoever connects
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the journal cannot be read now; look at the state folder's disk")

    return {"/": lambda _asked: page, "/status.json": numbers}


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


def _environment(asked: Asked) -> dict[str, Any]:
    """What the metrics' WSGI application looks at."""
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/metrics",
        "QUERY_STRING": asked.query,
        "HTTP_ACCEPT": asked.accept,
        "HTTP_ACCEPT_ENCODING": asked.accept_encoding,
    }

"""What is served of a run, where, and under which names; fedmentor.pages has its own tests."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest

from coordinator.config import CoordinatorSettings
from coordinator.dashboard.serving import served
from coordinator.events import CallFailed
from coordinator.metrics import Metrics
from coordinator.testing import ToyFederation
from fedmentor.errors import BrokenStore, ConfigError, PortInUse
from fedmentor.pages.server import serving
from fedmentor.pages.values import USUAL, Answer, Served

NEEDED = {"manifest": "m", "model": "x", "state": "s", "certificates": "c"}
LOOPBACK = "127.0.0.1"
PATIENCE_S = 20.0


def serve(observe, status=lambda: b"{}", **changes):
    """What the settings ask for; gives the dashboard's address."""
    return served(CoordinatorSettings.model_validate({**NEEDED, **changes}), Metrics().registry, status, observe)


@pytest.fixture
def events():
    return []


@pytest.fixture
def free_port():
    with socket.create_server((LOOPBACK, 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def page():
    """A client of a dashboard with metrics on a free port, and what was observed."""
    seen = []
    dashboard = serve(seen.append, lambda: b'{"x":1}', dashboard_port=0, dashboard_names=("Fed.example",))
    with dashboard as url, httpx.Client(base_url=url) as client:
        yield client, seen


@pytest.fixture
def client(page):
    """Of the dashboard that is there for all tests; nothing that a client does makes it into the log."""
    yield page[0]
    assert page[1] == []


def test_the_page_loads_nothing_but_its_numbers(client):
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'sha256-" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in answer.text
    assert "innerHTML" not in answer.text
    assert " style=" not in answer.text


def test_the_numbers_and_the_metrics(client):
    answer = client.get("/status.json?again=1")
    assert (answer.status_code, answer.headers["Content-Type"], answer.content) == (200, "application/json", b'{"x":1}')
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "fedmentor_sites_connected" in answer.text
    wanted = {"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"}
    answer = client.get("/metrics?name[]=fedmentor_round", headers=wanted)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.text.startswith("# HELP fedmentor_round ")


@pytest.mark.parametrize("version", ["abc", "1..0", "\xb2", "1" * 5000])
def test_a_form_of_metrics_that_there_is_none_of_gives_the_usual_one(client, version):
    answer = client.get("/metrics", headers={"Accept": f"application/openmetrics-text; version={version}".encode("latin-1")})
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert "fedmentor_sites_connected" in answer.text


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
def test_everything_is_read_only(client, path):
    assert client.head(path).status_code == 200
    for method in ("POST", "PUT", "DELETE"):
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
def test_everything_goes_to_the_names_of_the_settings_and_to_no_other(client, path):
    for host in ("127.0.0.1:9", "10.0.0.7:9464", "fed.example", "Fed.Example.:443"):
        assert client.get(path, headers={"Host": host}).status_code == 200
    for host in ("evil.example", "fed.example.evil.example"):
        assert client.get(path, headers={"Host": host}).status_code == 421


def test_a_journal_that_cannot_be_read_and_a_bug(events):
    def broken():
        raise BrokenStore("the disk failed", cure="buy another one")

    with serve(events.append, broken, dashboard_port=0) as url:
        answer = httpx.get(f"{url}status.json")
    assert (answer.status_code, answer.json()["message"], events) == (
        503,
        "the journal cannot be read now; look at the state folder's disk",
        [],
    )
    with serve(events.append, lambda: 1 / 0, dashboard_port=0) as url:
        answer = httpx.get(f"{url}status.json")
    assert answer.status_code == 500
    assert "division" not in answer.text
    (event,) = events
    assert isinstance(event, CallFailed)
    assert "ZeroDivisionError" in event.private


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_fifty_idle_connections_stop_neither_a_round_nor_the_page_for_long(tmp_path, events, said):
    federation, short = ToyFederation(tmp_path), replace(USUAL, request_seconds=0.3)
    pages = Served("dashboard", {"/": lambda _asked: Answer(b"page", "text/plain")}, events.append, limits=short)
    with serving((LOOPBACK, 0), pages) as url, ExitStack() as stack:
        address = (LOOPBACK, urlsplit(url).port)
        connections = [stack.enter_context(socket.create_connection(address, PATIENCE_S)) for _ in range(50)]
        for connection in connections:
            connection.sendall(said)
        federation.connect()
        federation.play()
        assert federation.engine.report().outcome == "completed"
        for connection in connections:
            while connection.recv(1 << 16):
                pass
        assert httpx.get(url).text == "page"
    federation.close()
    assert events == []


# --- where it is served ---


def test_nothing_is_served_where_nothing_is_asked_for(events):
    with serve(events.append) as url:
        assert url is None


def test_metrics_alone_have_no_page(events, free_port):
    with serve(events.append, metrics_port=free_port) as url:
        assert url is None
        status = {path: httpx.get(f"http://{LOOPBACK}:{free_port}{path}").status_code for path in ("/metrics", "/", "/status.json")}
    assert status == {"/metrics": 200, "/": 404, "/status.json": 404}


def test_one_port_serves_both_and_two_ports_do_as_well(events, free_port):
    here = f"http://{LOOPBACK}:{free_port}/"
    with serve(events.append, metrics_port=free_port, dashboard_port=free_port) as url:
        assert url == here
        assert httpx.get(f"{url}metrics").status_code == httpx.get(f"{url}status.json").status_code == 200
    with serve(events.append, metrics_port=free_port, dashboard_port=0) as url:
        assert [httpx.get(at).status_code for at in (here, url, f"{url}metrics")] == [404, 200, 200]


@pytest.mark.parametrize("what", ["metrics", "dashboard"])
def test_an_address_that_cannot_be_had_is_named(events, what):
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} for {what} is in use"), serve(events.append, **{f"{what}_port": port}):
            raise AssertionError("it was served")
    elsewhere = {f"{what}_port": 0, f"{what}_host": "no-such-host.invalid"}
    with pytest.raises(ConfigError, match=f"{what} cannot be served on no-such-host.invalid"), serve(events.append, **elsewhere):
        raise AssertionError("it was served")

"""The pages over a real socket: who is answered, with which headers, and that nobody can hold them up."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from coordinator.config import CoordinatorSettings
from coordinator.dashboard.pages import HEADERS, Answer, Limits, Served
from coordinator.dashboard.routes import dashboard_page
from coordinator.dashboard.server import serving
from coordinator.dashboard.serving import served
from coordinator.events import CallFailed
from coordinator.metrics import Metrics
from coordinator.testing import ToyFederation
from fedmentor.errors import BrokenStore, ConfigError, PortInUse

NEEDED = {"manifest": "m", "model": "x", "state": "s", "certificates": "c"}
LOOPBACK = "127.0.0.1"
PATIENCE_S = 20.0
SHORT = Limits(request_seconds=0.3)


def settings(**changes):
    return CoordinatorSettings.model_validate({**NEEDED, **changes})


def ask(port, path="/", method="GET", **headers):
    """Status, headers and body of one request; ``Host`` may be given."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def say(port, data):
    """What comes back for raw bytes, until the server hangs up."""
    with socket.create_connection((LOOPBACK, port), PATIENCE_S) as connection:
        connection.sendall(data)
        received = b""
        try:
            while block := connection.recv(1 << 16):
                received += block
        except ConnectionResetError:
            pass
        return received


@pytest.fixture
def events():
    return []


@pytest.fixture(scope="module")
def page():
    """A dashboard with metrics on a free port, and what was observed."""
    seen = []
    chosen = settings(dashboard_port=0, dashboard_names=("fed.example",))
    with served(chosen, Metrics().registry, lambda: b'{"x":1}', seen.append) as url:
        yield int(url.rstrip("/").rpartition(":")[2]), seen


@pytest.fixture
def port(page):
    """Of the dashboard that is there for all tests; nothing that a client does makes it into the log."""
    yield page[0]
    assert page[1] == []


def test_the_page_loads_nothing_but_its_numbers(port):
    status, headers, body = ask(port)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")
    assert policy["style-src"].startswith("'sha256-")
    assert "unsafe" not in headers["Content-Security-Policy"]
    text = body.decode()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "innerHTML" not in text
    assert " style=" not in text
    assert body == dashboard_page().body


def test_every_answer_is_locked_down(port):
    for path, method, host in (
        ("/", "GET", None),
        ("/status.json", "GET", None),
        ("/none", "GET", None),
        ("/", "POST", None),
        ("/", "GET", "evil.example"),
    ):
        _, headers, _ = ask(port, path, method, **({"Host": host} if host else {}))
        for name in HEADERS.keys() - {"Content-Security-Policy"}:
            assert headers[name] == HEADERS[name]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Server"] == "fedmentor"
        assert headers["Set-Cookie"] is None
        assert headers["Access-Control-Allow-Origin"] is None


def test_the_numbers_and_the_metrics(port):
    status, headers, body = ask(port, "/status.json?again=1")
    assert (status, headers["Content-Type"], body) == (200, "application/json", b'{"x":1}')
    status, headers, body = ask(port, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert b"fedmentor_sites_connected" in body
    status, headers, body = ask(
        port, "/metrics?name[]=fedmentor_round", Accept="application/openmetrics-text", Accept_Encoding="gzip"
    )
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert (headers["Content-Encoding"], body[:2]) == ("gzip", b"\x1f\x8b")


@pytest.mark.parametrize("version", ["abc", "1..0", "\xb2", "1" * 5000])
def test_a_form_of_metrics_that_there_is_none_of_gives_the_usual_one(port, version):
    status, headers, body = ask(port, "/metrics", Accept=f"application/openmetrics-text; version={version}")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert b"fedmentor_sites_connected" in body


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
def test_head_tells_the_same_without_a_body(port, path):
    _, asked, body = ask(port, path)
    status, headers, nothing = ask(port, path, "HEAD")
    assert (status, nothing) == (200, b"")
    assert headers["Content-Length"] == str(len(body)) == asked["Content-Length"]


@pytest.mark.parametrize("path", ["/none", "/../etc/passwd", "/status.json/", "/%2e", "*"])
def test_elsewhere_is_nothing(port, path):
    status, headers, body = ask(port, path)
    assert status == 404
    assert json.loads(body) == {"status": 404, "message": "there is nothing here"}
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_nothing_can_be_changed(port, method):
    status, headers, _ = ask(port, "/status.json", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9", "LOCALHOST:80", "[::1]:9464", "10.0.0.7:9464", "fed.example", "Fed.Example.:443"]
)
@pytest.mark.parametrize("path", ["/status.json", "/metrics"])
def test_hosts_that_are_this_machine(port, host, path):
    assert ask(port, path, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "fed.example.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[",
        "x:99999",
        "a@b:c",
        "localhost#.evil.example",
        "127.0.0.1%a",
    ],
)
@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics"])
def test_other_names_are_refused_wherever_they_point(port, host, path):
    status, _, body = ask(port, path, Host=host)
    assert status == 421
    assert json.loads(body)["message"].startswith("ask by this machine's address")


def test_a_request_with_two_hosts_or_none(port):
    assert b" 421 " in say(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").splitlines()[0]
    assert b" 421 " in say(port, b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * (1 << 17), 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"a" * (1 << 17), 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"one two three four five\r\n\r\n", 400),
    ],
)
def test_what_is_no_request(port, data, status):
    answer = say(port, data)
    assert not answer or f" {status} ".encode() in answer.splitlines()[0]
    assert b"aaaa" not in answer
    assert ask(port)[0] == 200


def test_a_journal_that_cannot_be_read_and_a_bug(events):
    def broken():
        raise BrokenStore("the disk failed", cure="buy another one")

    with served(settings(dashboard_port=0), Metrics().registry, broken, events.append) as url:
        status, _, body = ask(int(url.rstrip("/").rpartition(":")[2]), "/status.json")
    assert (status, json.loads(body)["message"], events) == (
        503,
        "the journal cannot be read now; look at the state folder's disk",
        [],
    )
    with served(settings(dashboard_port=0), Metrics().registry, lambda: 1 / 0, events.append) as url:
        status, _, body = ask(int(url.rstrip("/").rpartition(":")[2]), "/status.json")
    assert status == 500
    assert b"division" not in body
    (event,) = events
    assert isinstance(event, CallFailed)
    assert "ZeroDivisionError" in event.private


# --- clients that take their time ---


@pytest.fixture
def crowd():
    """Opens connections that say something, or nothing, and then wait."""
    with ExitStack() as stack:
        yield lambda port, count, said=b"": [
            connection
            for connection in (stack.enter_context(socket.create_connection((LOOPBACK, port), PATIENCE_S)) for _ in range(count))
            if connection.sendall(said) is None
        ]


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_fifty_idle_connections_stop_neither_a_round_nor_the_page_for_long(tmp_path, crowd, events, said):
    federation = ToyFederation(tmp_path)
    with serving((LOOPBACK, 0), Served({"/": lambda _asked: Answer(b"page", "text/plain")}, (), events.append, SHORT)) as port:
        connections = crowd(port, 50, said)
        federation.connect()
        federation.play()
        assert federation.engine.report().outcome == "completed"
        for connection in connections:
            while connection.recv(1 << 16):
                pass
        assert ask(port)[2] == b"page"
    federation.close()
    assert events == []


def test_a_client_that_deals_its_request_out_is_hung_up_on(events):
    with serving((LOOPBACK, 0), Served({"/": lambda _asked: Answer(b"page", "text/plain")}, (), events.append, SHORT)) as port:
        with socket.create_connection((LOOPBACK, port), PATIENCE_S) as connection:
            stopped = threading.Event()

            def drip():
                while not stopped.wait(0.02):
                    try:
                        connection.send(b"x")
                    except OSError:
                        return

            dripping = threading.Thread(target=drip)
            dripping.start()
            with suppress(ConnectionResetError):
                assert connection.recv(1 << 16) == b""
            stopped.set()
            dripping.join()
        assert ask(port)[0] == 200
    assert events == []


def test_more_clients_than_there_are_places_are_turned_away(crowd, events):
    few = replace(Limits(), connections=2)
    with serving((LOOPBACK, 0), Served({"/": lambda _asked: Answer(b"page", "text/plain")}, (), events.append, few)) as port:
        crowd(port, 2)
        assert b" 503 " in say(port, b"").splitlines()[0]


def test_the_end_waits_for_nobody(crowd, events):
    with serving((LOOPBACK, 0), Served({}, (), events.append)) as port:
        connections = crowd(port, 3, b"GET")
    for connection in connections:
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_the_end_does_not_wait_for_an_answer_that_never_comes(crowd, events):
    asked, released = threading.Event(), threading.Event()

    def stuck(_asked):
        asked.set()
        released.wait(PATIENCE_S)
        return Answer(b"late", "text/plain")

    short = replace(Limits(), answer_seconds=0.1)
    with serving((LOOPBACK, 0), Served({"/": stuck}, (), events.append, short)) as port:
        crowd(port, 1, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(PATIENCE_S)
        (answering,) = (thread for thread in threading.enumerate() if thread.name == "page")
    assert answering.is_alive()
    released.set()
    answering.join(PATIENCE_S)
    assert not answering.is_alive()


# --- where it is served ---


def test_nothing_is_served_where_nothing_is_asked_for(events):
    with served(settings(), Metrics().registry, lambda: b"", events.append) as url:
        assert url is None


def test_metrics_alone_have_no_page(events):
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    with served(settings(metrics_port=port), Metrics().registry, lambda: b"", events.append) as url:
        assert url is None
        assert ask(port, "/metrics")[0] == 200
        assert ask(port, "/")[0] == ask(port, "/status.json")[0] == 404


def test_one_port_serves_both_and_two_ports_do_as_well(events):
    with socket.create_server((LOOPBACK, 0)) as free:
        port = free.getsockname()[1]
    with served(settings(metrics_port=port, dashboard_port=port), Metrics().registry, lambda: b"{}", events.append) as url:
        assert url == f"http://127.0.0.1:{port}/"
        assert ask(port, "/metrics")[0] == ask(port, "/status.json")[0] == 200
    with served(settings(metrics_port=port, dashboard_port=0), Metrics().registry, lambda: b"{}", events.append) as url:
        other = int(url.rstrip("/").rpartition(":")[2])
        assert [ask(port, "/")[0], ask(other, "/")[0], ask(other, "/metrics")[0]] == [404, 200, 200]


@pytest.mark.parametrize("what", ["metrics", "dashboard"])
def test_an_address_that_cannot_be_had_is_named(events, what):
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} for {what} is in use"):
            _serve(events, **{f"{what}_port": port})
    with pytest.raises(ConfigError, match=f"{what} cannot be served on no-such-host.invalid"):
        _serve(events, **{f"{what}_port": 0, f"{what}_host": "no-such-host.invalid"})
    with pytest.raises(ConfigError, match=f"{what} cannot be served on 'aaa"):
        _serve(events, **{f"{what}_port": 0, f"{what}_host": "a" * 64})


def _serve(events, **changes):
    with served(settings(**changes), Metrics().registry, lambda: b"", events.append):
        raise AssertionError("it was served")

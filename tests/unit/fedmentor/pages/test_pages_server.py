"""Pages over a real socket: who is answered, with which headers, and that nobody can hold them up."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from fedmentor.errors import ConfigError, PortInUse
from fedmentor.pages.hosts import LOOPBACK
from fedmentor.pages.server import serving
from fedmentor.pages.values import HEADERS, KEY_HEADER, Answer, Call, Limits, Served, json_answer

PATIENCE_S = 20.0
MOST_BYTES = 100_000
SHORT = Limits(request_seconds=0.3, body_seconds=0.3)


def ask(port, path="/", method="GET", body=None, **headers):
    """Status, headers and body of one request; ``Host`` may be given."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PATIENCE_S)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def say(port, data):
    """What comes back for raw bytes, until the server hangs up."""
    with socket.create_connection((LOOPBACK, port), PATIENCE_S) as connection:
        with suppress(OSError):  # it has hung up already
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionResetError):
            while block := connection.recv(1 << 16):
                received += block
        return received


def page(_asked):
    return Answer(b"page", "text/html", {"Content-Security-Policy": "frame-ancestors 'none'; its own"})


def told(asked):
    return json_answer([asked.query, asked.accept, asked.accept_encoding])


def counted(asked):
    return json_answer(len(asked.body))


@contextmanager
def opened(observe, routes=None, limits=None, **options):
    """A port with pages."""
    served = Served("pages", {"/": page} if routes is None else routes, observe, limits=limits or Limits(), **options)
    with serving((LOOPBACK, 0), served) as url:
        yield urlsplit(url).port


@pytest.fixture
def events():
    return []


@pytest.fixture(scope="module")
def pages():
    """Pages for all tests, their key, and what was observed."""
    seen = []
    served = Served("pages", {"/": page, "/told": told}, seen.append, {"/count": Call(counted, MOST_BYTES)})
    with serving((LOOPBACK, 0), served) as url:
        yield urlsplit(url).port, served.key, seen


@pytest.fixture
def port(pages):
    """Of the pages that are there for all tests; nothing that a client does is told as a failure."""
    yield pages[0]
    assert pages[2] == []


@pytest.fixture
def call(port, pages):
    """Calls what counts the bytes of a body: as the page does, unless told otherwise."""

    def call(body=b"", **headers):
        shown = {KEY_HEADER: pages[1], "Content_Length": str(len(body)), **headers}
        return ask(port, "/count", "POST", body, **{name: value for name, value in shown.items() if value is not None})

    return call


def test_every_answer_is_locked_down(port, call):
    answers = [ask(port, "/"), ask(port, "/told"), ask(port, "/none"), ask(port, method="POST"), ask(port, Host="evil.example")]
    for _, headers, _ in [*answers, call(b"x"), call(b"x", **{KEY_HEADER: "guess"})]:
        for name in HEADERS.keys() - {"Content-Security-Policy"}:
            assert headers.get_all(name) == [HEADERS[name]]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["Server"], headers["Connection"]) == ("fedmentor", "close")
        assert headers["Set-Cookie"] is None
        assert headers["Access-Control-Allow-Origin"] is None


def test_a_route_knows_what_was_asked(port):
    status, headers, body = ask(port, "/told?again=1", Accept="text/plain", Accept_Encoding="gzip")
    assert (status, headers["Content-Type"], json.loads(body)) == (200, "application/json", ["again=1", "text/plain", "gzip"])


def test_head_tells_the_same_without_a_body(port):
    status, headers, nothing = ask(port, "/", "HEAD")
    assert (status, headers["Content-Length"], nothing) == (200, "4", b"")


@pytest.mark.parametrize("path", ["/none", "/../etc/passwd", "/told/", "/%2e", "*"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_elsewhere_is_nothing(port, path, method):
    status, headers, body = ask(port, path, method)
    assert (status, json.loads(body)) == (404, {"status": 404, "message": "there is nothing here"})
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"])
def test_what_is_read_cannot_be_changed(port, method):
    status, headers, _ = ask(port, "/told", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
def test_a_call_is_no_link(port, method):
    status, headers, _ = ask(port, "/count", method)
    assert (status, headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/", "/told", "/count", "/none"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_who_names_another_host_learns_nothing(port, path, method, pages):
    status, _, body = ask(port, path, method, Host="evil.example", Content_Length="0", **{KEY_HEADER: pages[1]})
    assert status == 421
    assert json.loads(body)["message"].startswith("ask by this machine's address")


def test_a_request_with_two_hosts_or_none(port):
    host = f"Host: localhost:{port}\r\n".encode()
    assert b" 200 " in say(port, b"GET / HTTP/1.1\r\n" + host + b"\r\n").splitlines()[0]
    assert b" 421 " in say(port, b"GET / HTTP/1.1\r\n" + host + b"Host: evil.example\r\n\r\n").splitlines()[0]
    assert b" 421 " in say(port, b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]


def test_names_are_for_pages_that_have_them(port, events):
    with opened(events.append, names={"fed.example"}) as named:
        for host in ("fed.example", f"{LOOPBACK}:1", "10.0.0.7"):
            assert (ask(named, Host=host)[0], ask(port, Host=host)[0]) == (200, 421)


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


# --- calls ---


@pytest.mark.parametrize("size", [0, 1, 20_000, MOST_BYTES])
def test_a_call_is_given_its_body(call, size):
    status, _, body = call(b"x" * size)
    assert (status, json.loads(body)) == (200, size)


@pytest.mark.parametrize("key", [None, "", "guess", "\xe9"])
def test_a_call_without_the_pages_key_is_refused(call, key):
    assert call(b"x", **{KEY_HEADER: key})[0] == 403


def test_pages_that_tell_nobody_their_key_take_no_call(events):
    first, second = (Served("pages", {}, events.append) for _ in range(2))
    assert len(first.key) == 32
    assert first.key != second.key
    assert first.key not in repr(first)


@pytest.mark.parametrize(
    ("length", "status"),
    [(None, 411), ("", 411), ("-1", 411), ("+1", 411), ("1_0", 411), ("\xb2", 411), ("1" * 5000, 411), (MOST_BYTES + 1, 413)],
)
def test_nothing_is_read_of_a_body_without_a_length_or_with_too_great_a_one(call, length, status):
    assert call(Content_Length=length)[0] == status


def test_a_refusal_reaches_a_client_that_is_still_sending(call):
    """To hang up on what it still sends would reset the connection, and the answer with it."""
    assert call(bytes(MOST_BYTES + (8 << 20)))[0] == 413
    assert call(bytes(MOST_BYTES), **{KEY_HEADER: "guess"})[0] == 403


def test_a_body_in_chunks_has_no_length(call):
    assert call(Content_Length=None, Transfer_Encoding="chunked")[0] == 411


def test_a_body_that_ends_early_is_no_body(port, pages):
    head = f"POST /count HTTP/1.1\r\nHost: localhost:{port}\r\n{KEY_HEADER}: {pages[1]}\r\nContent-Length: 9\r\n\r\n"
    assert b" 400 " in say(port, head.encode() + b"12345678").splitlines()[0]
    assert say(port, head.encode() + b"123456789abc").endswith(b"\r\n\r\n9")


def test_what_went_wrong_is_told_here_and_not_there(events):
    with opened(events.append, {"/": lambda _asked: 1 / 0}) as port:
        status, _, body = ask(port)
    assert (status, json.loads(body)) == (500, {"status": 500, "message": "this failed; its log says why"})
    (private,) = events
    assert "ZeroDivisionError" in private


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


@pytest.mark.parametrize("where", ["in the headers", "in the body"])
def test_a_client_that_deals_its_request_out_is_hung_up_on(events, where):
    with opened(events.append, limits=SHORT, calls={"/count": Call(counted, 1 << 20)}, key="key") as port:
        head = f"POST /count HTTP/1.1\r\nHost: localhost:{port}\r\n{KEY_HEADER}: key\r\nContent-Length: 999999\r\n"
        with socket.create_connection((LOOPBACK, port), PATIENCE_S) as connection:
            connection.sendall(f"{head}\r\n".encode() if where == "in the body" else b"")
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
    with opened(events.append, limits=Limits(connections=2)) as port:
        crowd(port, 2)
        assert b" 503 " in say(port, b"").splitlines()[0]


def test_the_end_waits_for_nobody(crowd, events):
    with opened(events.append) as port:
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

    with opened(events.append, {"/": stuck}, Limits(answer_seconds=0.1), names=()) as port:
        crowd(port, 1, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked.wait(PATIENCE_S)
        (answering,) = (thread for thread in threading.enumerate() if thread.name == "page")
    assert answering.is_alive()
    released.set()
    answering.join(PATIENCE_S)
    assert not answering.is_alive()


# --- where they are served ---


def test_an_address_of_the_sixth_version_is_written_as_one(events):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with serving(("::1", 0), Served("pages", {"/": page}, events.append, names=())) as url:
        parts = urlsplit(url)
        assert url == f"http://[::1]:{parts.port}/"
        connection = http.client.HTTPConnection("::1", parts.port, timeout=PATIENCE_S)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"page"
        connection.close()


def test_an_address_that_cannot_be_had_is_named(events):
    def refused(host, port, error, match):
        with pytest.raises(error, match=match), serving((host, port), Served("dashboard", {}, events.append)):
            raise AssertionError("it was served")

    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        refused(LOOPBACK, port, PortInUse, f"port {port} for dashboard is in use")
    refused("no-such-host.invalid", 0, ConfigError, "dashboard cannot be served on no-such-host.invalid, port 0")
    refused("a" * 64, 0, ConfigError, "dashboard cannot be served on 'aaa")

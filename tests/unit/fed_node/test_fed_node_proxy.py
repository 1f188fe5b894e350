"""A node behind an HTTP proxy: the line goes through it and nowhere else, whatever the environment says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from fed_node.config import node_config
from fed_node.link import GrpcLink
from fed_node.testing.proxy import connect_proxy
from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError, CoordinatorUnreachable
from fedmentor.federation import ModelRef
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.ids import SiteId
from fedmentor.tensors import sha256_hex
from fedmentor.wire import codec
from fedmentor.wire.channel import server_credentials
from fedmentor.wire.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server

NORTH = SiteId("north")
MODEL = b"model " * 1000
REF = ModelRef(sha256_hex([MODEL]), len(MODEL))


class OneModel(FederationServicer):
    """Serves one model to anybody whose certificate is good."""

    def FetchModel(self, request: Any, _context: Any) -> Iterator[Any]:  # noqa: N802, D102 - the proto's name
        yield codec.chunk_to_wire(request.offset, MODEL[request.offset :])


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    throwaway(tmp_path / "certificates", "federation", [NORTH], ["localhost"])
    return tmp_path / "certificates"


@pytest.fixture
def port(certificates: Path) -> Iterator[int]:
    """Where a coordinator listens."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    add_FederationServicer_to_server(OneModel(), server)
    tls = server_credentials(coordinator_credentials(certificates, SystemClock().now()), lambda: None)
    port = server.add_secure_port("127.0.0.1:0", tls)
    server.start()
    yield port
    server.stop(0).wait()


@pytest.fixture
def fetch(certificates: Path):
    """Fetch the model from an address through a proxy."""
    links: list[GrpcLink] = []

    def fetch(address: str, proxy: str | None) -> bytes:
        links.append(GrpcLink(address, lambda: site_credentials(certificates, NORTH, SystemClock().now()), proxy))
        return links[-1].fetch_model(REF)

    yield fetch
    for link in links:
        link.close()


@pytest.mark.parametrize("no_proxy", ["", "*", "coordinator.hospital.invalid"])
def test_the_proxy_resolves_the_name_and_tls_ends_at_the_coordinator(port, fetch, monkeypatch, no_proxy):
    monkeypatch.setenv("no_proxy", no_proxy)
    monkeypatch.setenv("no_grpc_proxy", no_proxy)
    with connect_proxy({"coordinator.hospital.invalid": "127.0.0.1"}) as proxy:
        assert fetch(f"coordinator.hospital.invalid:{port}", proxy.address) == MODEL
    assert proxy.asked == [f"coordinator.hospital.invalid:{port}"]


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_of_the_environment_is_not_spoken_to(port, fetch, monkeypatch, name):
    with connect_proxy() as proxy:
        monkeypatch.setenv(name, f"http://{proxy.address}")
        assert fetch(f"127.0.0.1:{port}", None) == MODEL
    assert proxy.asked == []


def test_a_proxy_that_refuses_is_a_coordinator_out_of_reach(port, fetch):
    with connect_proxy(refuse=True) as proxy, pytest.raises(CoordinatorUnreachable):
        fetch(f"127.0.0.1:{port}", proxy.address)


def test_a_proxy_that_is_away_is_not_gone_round(port, fetch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(CoordinatorUnreachable):
        fetch(f"127.0.0.1:{port}", nobody)


def test_the_setting_is_checked(tmp_path):
    needed = {name: str(tmp_path) for name in ("certificates", "data", "state")} | {"site": "north", "coordinator": "host:1"}
    assert node_config(None, needed).proxy is None
    assert node_config(None, needed | {"proxy": "proxy.hospital.example:3128"}).proxy == "proxy.hospital.example:3128"
    with pytest.raises(ConfigError, match="'proxy' is wrong: expected HOST:PORT"):
        node_config(None, needed | {"proxy": "http://proxy.hospital.example"})

"""What only a network can do: coordinators that come back, certificates that are renewed, calls that are broken off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from link_federation import HOST, MODEL, NORTH, SITES, Serving, manifest, scores, servicer_of

from coordinator.app import Engine
from coordinator.servicer import Servicer
from fed_node.link import GrpcLink
from fedmentor.clock import SystemClock
from fedmentor.errors import ConfigError, CoordinatorUnreachable
from fedmentor.federation import Manifest, Wait
from fedmentor.identity.authority import CERTIFICATE_FILE, COORDINATOR_FOLDER, KEY_FILE, throwaway
from fedmentor.identity.credentials import site_credentials
from fedmentor.wire.v1 import federation_pb2 as pb


def test_a_coordinator_that_comes_back_is_found_again(engine: Engine, serving: Serving, grpc_links: Callable[..., GrpcLink]):
    address = serving.start(servicer_of(engine))
    link = grpc_links(address, NORTH)
    assert len(link.fetch_model(MODEL)) == MODEL.size_bytes
    serving.stop()
    with pytest.raises(CoordinatorUnreachable):
        link.fetch_model(MODEL)
    serving.start(servicer_of(engine), address)
    assert len(link.fetch_model(MODEL)) == MODEL.size_bytes


def test_a_renewed_certificate_is_used_from_the_next_call_on_and_an_open_stream_stays(engine: Engine, tmp_path: Path):
    folder, seen = tmp_path / "renewed", []
    authority = throwaway(folder, "federation", SITES, [HOST])

    class Noting(Servicer):
        def _site(self, pem):
            seen.append(pem)
            return super()._site(pem)

    def current() -> bytes:
        return (folder / "sites" / NORTH / CERTIFICATE_FILE).read_bytes()

    with closing(Serving(folder)) as serving:
        address = serving.start(servicer_of(engine, Noting))
        link = GrpcLink(address, lambda: site_credentials(folder, NORTH, SystemClock().now()))
        stream = link.follow()
        first = [next(stream), next(stream)]
        link.fetch_model(MODEL)
        link.fetch_model(MODEL)
        assert seen == [current()] * 3
        issued = authority.issue_site(NORTH, SystemClock().now())
        (folder / "sites" / NORTH / KEY_FILE).write_bytes(issued.key)
        (folder / "sites" / NORTH / CERTIFICATE_FILE).write_bytes(issued.certificate)
        link.fetch_model(MODEL)
        assert seen[3:] == [current()]
        assert first[0] == Manifest(manifest())
        (folder / "sites" / NORTH / CERTIFICATE_FILE).write_bytes(b"half a file")
        link.fetch_model(MODEL)
        assert seen[4:] == [issued.certificate]
        (folder / "sites" / NORTH / CERTIFICATE_FILE).write_bytes(issued.certificate)
        engine.service.notify()
        assert len(link._outlived) == 1
        stream.cancel()
        next(link.follow())
        assert (link._outlived, seen[5:]) == ([], [issued.certificate])
        link.close()


def test_credentials_are_read_again_after_a_broken_line(engine: Engine, serving: Serving, certificates: Path):
    address = serving.start(servicer_of(engine))
    link = GrpcLink(address, lambda: site_credentials(certificates, NORTH, SystemClock().now()))
    link.fetch_model(MODEL)
    serving.stop()
    with pytest.raises(CoordinatorUnreachable):
        link.fetch_model(MODEL)
    (certificates / "sites" / NORTH / CERTIFICATE_FILE).unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        link.fetch_model(MODEL)
    link.close()


def test_a_coordinator_of_another_authority_is_not_spoken_to(engine: Engine, serving: Serving, tmp_path: Path):
    address = serving.start(servicer_of(engine))
    throwaway(tmp_path / "other", "federation", SITES, [HOST])
    link = GrpcLink(address, lambda: site_credentials(tmp_path / "other", NORTH, SystemClock().now()))
    with pytest.raises(CoordinatorUnreachable):
        link.fetch_model(MODEL)
    link.close()


def test_another_server_of_the_same_authority_is_not_the_coordinator(engine: Engine, tmp_path: Path):
    folder = tmp_path / "same"
    authority = throwaway(folder, "federation", SITES, [HOST])
    issued = replace(authority, federation="other").issue_coordinator([HOST], SystemClock().now())
    (folder / COORDINATOR_FOLDER / CERTIFICATE_FILE).write_bytes(issued.certificate)
    (folder / COORDINATOR_FOLDER / KEY_FILE).write_bytes(issued.key)
    with closing(Serving(folder)) as serving:
        link = GrpcLink(serving.start(servicer_of(engine)), lambda: site_credentials(folder, NORTH, SystemClock().now()))
        with closing(link), pytest.raises(CoordinatorUnreachable, match="does not answer"):
            link.fetch_model(MODEL)


def test_closing_breaks_a_call_that_is_under_way(engine: Engine, serving: Serving, grpc_links: Callable[..., GrpcLink]):
    link = grpc_links(serving.start(servicer_of(engine)), NORTH)
    stream = link.follow()
    assert isinstance(next(stream), Manifest)
    assert isinstance(next(stream), Wait)
    closer = threading.Timer(0.05, link.close)
    closer.start()
    with pytest.raises(CoordinatorUnreachable):
        next(stream)
    closer.join()
    with pytest.raises(CoordinatorUnreachable, match="closed"):
        link.fetch_model(MODEL)


def test_closing_just_before_a_call_breaks_it_too(grpc_links: Callable[..., GrpcLink]):
    link = grpc_links(f"{HOST}:1", NORTH)

    def call() -> None:
        with link._calls() as stub:
            link.close()
            stub.Follow(pb.FollowRequest())

    with pytest.raises(CoordinatorUnreachable, match="closed"):
        call()


def test_a_mistake_in_a_request_is_not_taken_for_a_closed_line(grpc_links: Callable[..., GrpcLink]):
    with pytest.raises(ValueError, match="range"):
        grpc_links(f"{HOST}:1", NORTH).report_scores(replace(scores(), patients=-1))


def test_nobody_there(grpc_links: Callable[..., GrpcLink]):
    with pytest.raises(CoordinatorUnreachable, match="does not answer"):
        grpc_links(f"{HOST}:1", NORTH).report_scores(scores())

"""The stage of the link's contract: one coordinator, reached directly and over mutual TLS on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from link_federation import HOST, SIGNERS, SITES, STRANGER, TENSORS, Coordinator, Serving, manifest, servicer_of

from coordinator.app import JOURNAL_FILE, Engine, EngineParts, build_engine
from coordinator.audit.notary import Notary
from coordinator.phases.phase import PhaseLimits
from coordinator.store.sqlite import SqliteJournal
from fed_node.link import GrpcLink
from fedmentor.clock import SystemClock
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import site_credentials
from fedmentor.ids import SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.testing.link import DirectLink


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A coordinator that signs its audit trail."""
    model, state = tmp_path / "model", tmp_path / "state"
    save_model(model, TENSORS, ModelRecord(architecture="flat", digest=digest_of(TENSORS)))
    state.mkdir()
    journal = SqliteJournal(state / JOURNAL_FILE, SystemClock())
    notary = Notary(SIGNERS.coordinator_key, lambda: SIGNERS.keys)
    parts = EngineParts(state, journal, SystemClock(), PhaseLimits(), lambda _event: None, notary)
    yield build_engine(manifest(), model, parts)
    journal.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Of everybody, and of a stranger."""
    folder = tmp_path / "certificates"
    throwaway(folder, "federation", [*SITES, STRANGER], [HOST])
    return folder


@pytest.fixture
def serving(certificates: Path) -> Iterator[Serving]:
    """To serve it with."""
    made = Serving(certificates)
    yield made
    made.close()


@pytest.fixture
def grpc_links(certificates: Path) -> Iterator[Callable[[str, SiteId], GrpcLink]]:
    """To make links of gRPC with."""
    made: list[GrpcLink] = []

    def link(address: str, site: SiteId) -> GrpcLink:
        made.append(GrpcLink(address, lambda: site_credentials(certificates, site, SystemClock().now())))
        return made[-1]

    yield link
    for one in made:
        one.close()


@pytest.fixture(params=["direct", "grpc"])
def coordinator(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Coordinator]:
    """The coordinator, by both kinds of link."""
    if request.param == "direct":
        yield Coordinator(engine, lambda site: DirectLink(site, lambda: engine.service))
    else:
        links, address = request.getfixturevalue("grpc_links"), request.getfixturevalue("serving").start(servicer_of(engine))
        yield Coordinator(engine, lambda site: links(address, site))
    engine.service.close()

"""Witnesses over mutual TLS: an honest coordinator, and two that keep one identity and tell different stories.

The coordinators are real (journal, notary, gRPC on loopback), and so are the sites' links, keys and memories; training is made up.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.audit.notary import open_notary
from coordinator.audit.reading import read_trail
from coordinator.servicer import CallLimits, Servicer, start_server
from coordinator.testing import ToyFederation, toy_words
from fed_node.link import GrpcLink
from fed_node.witness import Witness, WitnessIdentity, WitnessPorts
from fed_node.witness_store import SqliteWitnessStore
from fedmentor.audit.checkpoint import is_signed
from fedmentor.audit.export import checkpoint_from_line
from fedmentor.audit.keys import read_audit_keys, site_signing_key
from fedmentor.audit.review import review
from fedmentor.clock import SystemClock
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal
from fedmentor.federation import Finished, Outcome, RoundRef
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.ids import Digest, SiteId
from fedmentor.tensors import sha256_hex
from fedmentor.wire.channel import server_credentials

SITES = tuple(SiteId(site) for site in "abc")
ANYTHING = Finished(Outcome.COMPLETED, "")
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    throwaway(folder, "federation", SITES, ["localhost"])
    return folder


@contextmanager
def served(federation: ToyFederation, certificates: Path) -> Iterator[str]:
    """A coordinator on the network; gives its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(TIMEOUT_S)

    servicer = Servicer(federation.engine.service, "federation", CallLimits(), federation.events.append, lambda _error: None)
    tls = server_credentials(coordinator_credentials(certificates, SystemClock().now()), lambda: None)
    server, address = wait(start_server(servicer, "localhost:0", tls, 32))
    try:
        yield address
    finally:
        wait(server.stop(0))
        wait(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


Coordinators = Callable[[str], tuple[ToyFederation, str]]


@pytest.fixture
def begin(tmp_path: Path, certificates: Path) -> Iterator[Coordinators]:
    """Begins coordinators of the same run, on state folders of their own, with the same signing key."""
    with ExitStack() as stack:

        def made(name: str) -> tuple[ToyFederation, str]:
            federation = stack.enter_context(closing(ToyFederation(tmp_path / name, notary=open_notary(certificates))))
            federation.connect()
            return federation, stack.enter_context(served(federation, certificates))

        yield made


class Site:
    """A site's witness on the coordinator at an address, with a memory that outlives it."""

    def __init__(self, name: str, folder: Path, certificates: Path, federation: ToyFederation) -> None:
        self.name, self.folder = SiteId(name), folder / f"site-{name}"
        self.folder.mkdir()
        self._certificates = certificates
        self._manifest = federation.manifest
        self.sent = True

    def hears(self, address: str) -> None:
        """An order comes from there."""

        def keys() -> Any:
            return read_audit_keys(self._certificates)

        link = GrpcLink(address, lambda: site_credentials(self._certificates, self.name, SystemClock().now()))
        with closing(link), closing(SqliteWitnessStore(self.folder)) as store:
            identity = WitnessIdentity(self.name, site_signing_key(self._certificates, self.name, keys()), keys)
            Witness(identity, WitnessPorts(link, store, self._sent, self.folder, lambda _event: None)).attend(
                ANYTHING, self._manifest
            )

    def _sent(self, ref: RoundRef, digest: Digest) -> bool:
        return self.sent and digest == sha256_hex([toy_words(self.name, ref, self._manifest)])

    def evidence(self) -> list[str]:
        """The lines of what it has written down."""
        return [line for path in self.folder.glob("audit-evidence-*") for line in path.read_text().splitlines()]


@pytest.fixture
def sites(tmp_path: Path, certificates: Path, begin: Coordinators) -> Callable[[ToyFederation], dict[str, Site]]:
    del begin
    return lambda federation: {name: Site(name, tmp_path, certificates, federation) for name in "abc"}


def test_everybody_signs_an_honest_trail(begin: Coordinators, sites: Callable[..., dict[str, Site]], certificates: Path):
    federation, address = begin("honest")
    federation.play()
    for site in sites(federation).values():
        site.hears(address)
        site.hears(address)
    found = review(read_trail(federation.state), read_audit_keys(certificates))
    assert found.sound
    assert found.countersigned[found.checkpoints[-1]] == SITES


def test_two_stories_are_a_proof(begin: Coordinators, sites: Callable[..., dict[str, Site]], certificates: Path):
    (one, here), (other, there) = begin("one"), begin("other")
    other.clock.advance(1.0)  # whoever tells another story tells it at another time
    for federation in (one, other):
        federation.play()
    witnesses = sites(one)
    witnesses["a"].hears(here)
    witnesses["b"].hears(there)
    with pytest.raises(PolicyRefusal, match="two chains of"):
        witnesses["a"].hears(there)
    lines = witnesses["a"].evidence()
    shown = [checkpoint_from_line(line) for line in lines if line.startswith('{"checkpoint":')]
    assert len({signed.checkpoint.head for signed in shown}) == 2
    assert len({signed.records for signed in shown}) == 1
    assert all(is_signed(signed, read_audit_keys(certificates)) for signed in shown)
    trail = read_trail(one.state)
    assert review(trail, read_audit_keys(certificates), shown[:1]).sound
    assert not review(trail, read_audit_keys(certificates), shown[1:]).sound, "a stranger sees it, too"
    witnesses["a"].hears(here)
    assert len(trail.countersignatures) == 1


def test_a_rollback_is_refused(begin: Coordinators, sites: Callable[..., dict[str, Site]]):
    (late, here), (early, there) = begin("late"), begin("early")
    late.play()
    early.settle()
    site = sites(late)["c"]
    site.hears(here)
    with pytest.raises(PolicyRefusal, match="has no checkpoint any more"):
        site.hears(there)
    assert json.loads(site.evidence()[0])["verified_records"] == len(read_trail(late.state).records) - 1


def test_an_update_that_a_site_did_not_send_is_noticed(begin: Coordinators, sites: Callable[..., dict[str, Site]]):
    federation, address = begin("liar")
    federation.play()
    site = sites(federation)["b"]
    site.sent = False
    with pytest.raises(PolicyRefusal, match="says that this site sent an update that it did not send"):
        site.hears(address)
    assert json.loads(site.evidence()[-1])["actor"] == "site b"


def test_a_coordinator_that_is_gone_ends_nothing(begin: Coordinators, sites: Callable[..., dict[str, Site]]):
    federation, _ = begin("gone")
    site = sites(federation)["a"]
    site.hears("localhost:1")
    assert site.evidence() == []
    with pytest.raises(CoordinatorUnreachable):
        next(GrpcLink("localhost:1", lambda: site_credentials(site._certificates, site.name, SystemClock().now())).fetch_audit(0))

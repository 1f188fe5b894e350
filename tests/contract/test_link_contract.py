"""One suite, both links, against the real coordinator service: in process, and over mutual TLS on loopback.

The model is 2.4 MB, so that transfers have three chunks. What only a network can do stands at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.app import JOURNAL_FILE, Engine, EngineParts, build_engine
from coordinator.audit.notary import Notary
from coordinator.phases.phase import PhaseLimits
from coordinator.servicer import CallLimits, Servicer, start_server
from coordinator.store.sqlite import SqliteJournal
from fed_node.link import GrpcLink
from fedmentor.audit.checkpoint import SignedCheckpoint, countersign
from fedmentor.clock import SystemClock
from fedmentor.errors import (
    ConfigError,
    CoordinatorUnreachable,
    IdentityRefused,
    PolicyRefusal,
    RoundClosed,
    UpdateConflict,
    UpdateRejected,
)
from fedmentor.federation import (
    CHUNK_BYTES,
    Directive,
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    Offset,
    RoundRef,
    RunManifest,
    Scores,
    StepAnswer,
    StepName,
    Train,
    UpdateHeader,
    Wait,
)
from fedmentor.identity.authority import CERTIFICATE_FILE, COORDINATOR_FOLDER, KEY_FILE, throwaway
from fedmentor.identity.credentials import coordinator_credentials, site_credentials
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.link import CoordinatorLink, DirectiveStream
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.secagg.ring import quantise
from fedmentor.tensors import flatten, sha256_hex, spec_of, vector_bytes
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.link import DirectLink, LinkFaults
from fedmentor.wire import codec
from fedmentor.wire.channel import server_credentials
from fedmentor.wire.v1 import federation_pb2 as pb

SITES = (SiteId("east"), SiteId("north"), SiteId("south"))
NORTH = SITES[1]
STRANGER = SiteId("stranger")
PARAMETERS = 600_000
TENSORS = {"weight": np.linspace(-1, 1, PARAMETERS, dtype=np.float32)}
HOST = "localhost"
RUN = RunId("run")
SIGNERS = ToyTrail(SITES)
"""Whose signing keys the coordinator and the sites have."""

START = RoundRef(RUN, Round(0), Attempt(1))


def manifest() -> RunManifest:
    return RunManifest(
        run=RUN,
        roster=SITES,
        rounds=1,
        architecture="flat",
        tensors=(("weight", (PARAMETERS,)),),
        initial_model=digest_of(TENSORS),
        max_attempts=1,
    )


MODEL = ModelRef(manifest().initial_model, 4 * PARAMETERS)


def update(site: SiteId, scale: float = 1e-3) -> tuple[UpdateHeader, bytes]:
    delta = np.full(PARAMETERS, scale * (1 + SITES.index(site)), np.float32)
    words = quantise(delta, 100, manifest().ring).astype("<u4").tobytes()
    return UpdateHeader(START, sha256_hex([words]), len(words), MODEL.digest), words


@dataclass
class Coordinator:
    """A coordinator whose driver is stepped by the test, and how to reach it."""

    engine: Engine
    link_of: Callable[[SiteId], CoordinatorLink]

    def settle(self) -> None:
        """Let the driver go on until it has to wait."""
        while self.engine.driver.step() == 0.0:
            pass

    def open_round(self) -> None:
        """Connect every site once, as the coordinator asks for before it opens a round."""
        streams = [self.engine.service.subscribe(site, lambda: None) for site in SITES]
        self.settle()
        for stream in streams:
            stream.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
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
    folder = tmp_path / "certificates"
    throwaway(folder, "federation", [*SITES, STRANGER], [HOST])
    return folder


class Serving:
    """Starts and stops gRPC servers for one test."""

    def __init__(self, certificates: Path) -> None:
        self._credentials = coordinator_credentials(certificates, SystemClock().now())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._servers: list[Any] = []

    def start(self, servicer: Servicer, listen: str = f"{HOST}:0") -> str:
        """Serve on a free port; gives the address."""
        tls = server_credentials(self._credentials, lambda: None)
        server, address = self._wait(start_server(servicer, listen, tls, 32))
        self._servers.append(server)
        return address

    def stop(self) -> None:
        """Stop what was started last."""
        self._wait(self._servers.pop().stop(0))

    def close(self) -> None:
        """Stop everything."""
        while self._servers:
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)


@pytest.fixture
def serving(certificates: Path) -> Iterator[Serving]:
    made = Serving(certificates)
    yield made
    made.close()


def servicer_of(engine: Engine, kind: type[Servicer] = Servicer) -> Servicer:
    return kind(engine.service, "federation", CallLimits(), lambda _event: None, lambda _error: None)


@pytest.fixture
def grpc_links(certificates: Path) -> Iterator[Callable[[str, SiteId], GrpcLink]]:
    made: list[GrpcLink] = []

    def link(address: str, site: SiteId) -> GrpcLink:
        made.append(GrpcLink(address, lambda: site_credentials(certificates, site, SystemClock().now())))
        return made[-1]

    yield link
    for one in made:
        one.close()


@pytest.fixture(params=["direct", "grpc"])
def coordinator(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Coordinator]:
    if request.param == "direct":
        yield Coordinator(engine, lambda site: DirectLink(site, lambda: engine.service))
    else:
        links, address = request.getfixturevalue("grpc_links"), request.getfixturevalue("serving").start(servicer_of(engine))
        yield Coordinator(engine, lambda site: links(address, site))
    engine.service.close()


def scores(dice: float = 0.5) -> Scores:
    return Scores(START, MODEL.digest, 3, 4, dice, 0.4, float("nan"))


def test_a_stream_begins_with_the_manifest_and_ends_after_finished(coordinator: Coordinator):
    streams = {site: coordinator.link_of(site).follow() for site in SITES}
    heard: dict[SiteId, list[Directive]] = {site: [next(stream), next(stream)] for site, stream in streams.items()}
    assert all(first == Manifest(manifest()) and isinstance(second, Wait) for first, second in heard.values())
    coordinator.settle()
    for site, stream in streams.items():
        train = next(stream)
        assert isinstance(train, Train)
        assert (train.round, train.model) == (START, MODEL)
        assert 0 < train.deadline_s <= manifest().collect_seconds
        coordinator.link_of(site).send_update(*update(site))
    coordinator.settle()
    for site, stream in streams.items():
        asked = after_waits(stream)
        assert isinstance(asked, Evaluate)
        coordinator.link_of(site).report_scores(Scores(asked.round, asked.model.digest, 3, 4, 0.5, 0.4, 2.0))
    coordinator.settle()
    for stream in streams.values():
        assert isinstance(after_waits(stream), Finished)
        with pytest.raises(StopIteration):
            next(stream)


def after_waits(stream: DirectiveStream) -> Directive:
    """The next directive that is not Wait; how many of those come depends on who is faster."""
    return next(directive for directive in stream if not isinstance(directive, Wait))


def test_the_model_arrives_whole(coordinator: Coordinator):
    coordinator.open_round()
    assert coordinator.link_of(NORTH).fetch_model(MODEL) == vector_bytes(flatten(TENSORS, spec_of(TENSORS)))


def test_a_model_that_is_not_in_force_is_refused(coordinator: Coordinator):
    coordinator.open_round()
    with pytest.raises(RoundClosed):
        coordinator.link_of(NORTH).fetch_model(replace(MODEL, digest=Digest("0" * 64)))


def test_an_update_gets_a_receipt_and_the_same_one_again(coordinator: Coordinator):
    coordinator.open_round()
    header, words = update(NORTH)
    receipt = coordinator.link_of(NORTH).send_update(header, words)
    assert (receipt.round, receipt.site, receipt.sha256) == (START, NORTH, header.sha256)
    assert coordinator.link_of(NORTH).send_update(header, words) == receipt


def test_an_update_goes_on_from_what_is_stored(coordinator: Coordinator):
    coordinator.open_round()
    header, words = update(NORTH)
    coordinator.engine.service.append_update(NORTH, header, 0, words[:CHUNK_BYTES])
    coordinator.engine.service.append_update(NORTH, header, CHUNK_BYTES, words[CHUNK_BYTES : CHUNK_BYTES + 1000])
    assert coordinator.link_of(NORTH).send_update(header, words).sha256 == header.sha256


def test_stored_bytes_that_turn_out_damaged_are_sent_again(coordinator: Coordinator):
    coordinator.open_round()
    header, words = update(NORTH)
    coordinator.engine.service.append_update(NORTH, header, 0, bytes(CHUNK_BYTES))
    assert coordinator.link_of(NORTH).send_update(header, words).sha256 == header.sha256


def test_another_update_is_a_conflict(coordinator: Coordinator):
    coordinator.open_round()
    link = coordinator.link_of(NORTH)
    link.send_update(*update(NORTH))
    with pytest.raises(UpdateConflict):
        link.send_update(*update(NORTH, scale=2e-3))


def test_refusals_arrive_as_the_class_they_left_as(coordinator: Coordinator):
    link = coordinator.link_of(NORTH)
    header, words = update(NORTH)
    with pytest.raises(RoundClosed):
        link.send_update(header, words)
    coordinator.open_round()
    with pytest.raises(RoundClosed):
        link.send_update(replace(header, round=replace(START, attempt=Attempt(2))), words)
    with pytest.raises(UpdateRejected):
        link.send_update(replace(header, base_model=Digest("0" * 64)), words)
    with pytest.raises(UpdateRejected):
        link.report_scores(replace(scores(), model=Digest("0" * 64)))


def test_scores_are_kept_once(coordinator: Coordinator):
    coordinator.open_round()
    link = coordinator.link_of(NORTH)
    link.report_scores(scores(0.5))
    link.report_scores(scores(0.9))
    kept = coordinator.engine.journal.run_tx("read", lambda tx: tx.scores())
    assert [(one.site, one.dice, one.hd95) for one in kept] == [(NORTH, 0.5, None)]


def test_nobody_waits_for_a_site_that_sits_out(coordinator: Coordinator):
    coordinator.open_round()
    for site in SITES[1:]:
        coordinator.link_of(site).send_update(*update(site))
    for _ in range(2):  # a repeat is acknowledged
        coordinator.link_of(SITES[0]).sit_out(START, "its training diverged")
    coordinator.link_of(SITES[0]).sit_out(replace(START, round=Round(7)), "a round that is not in force changes nothing")
    coordinator.settle()
    assert "2 of 3 needed updates arrived, no other is to come" in coordinator.engine.report().reason


@pytest.mark.parametrize("step", [StepName.ADVERTISE, StepName.SHARE, StepName.CONSENT, StepName.REVEAL])
def test_an_answer_to_a_run_that_does_not_aggregate_securely_is_refused(coordinator: Coordinator, step: StepName):
    coordinator.open_round()
    with pytest.raises(UpdateRejected, match="does not aggregate securely"):
        coordinator.link_of(NORTH).answer_step(StepAnswer(START, step, b"signed"))


def test_a_site_that_is_not_on_the_roster_is_refused_everywhere(coordinator: Coordinator):
    coordinator.open_round()
    link = coordinator.link_of(STRANGER)
    for call in (
        lambda: next(link.follow()),
        lambda: link.fetch_model(MODEL),
        lambda: link.send_update(*update(NORTH)),
        lambda: link.answer_step(StepAnswer(START, StepName.ADVERTISE, b"signed")),
        lambda: link.sit_out(START, "nobody asked"),
        lambda: link.report_scores(scores()),
        lambda: next(link.fetch_audit(0)),
        lambda: link.countersign(SIGNERS.seal().checkpoint, bytes(64)),
    ):
        with pytest.raises(IdentityRefused):
            call()


def publish(coordinator: Coordinator) -> SignedCheckpoint:
    """Let everybody deliver; gives the checkpoint of the published round."""
    coordinator.open_round()
    for site in SITES:
        coordinator.link_of(site).send_update(*update(site))
    coordinator.settle()
    signed = coordinator.engine.journal.run_tx("read", lambda tx: tx.checkpoint())
    assert signed is not None
    return signed


def test_the_audit_trail_arrives_whole_behind_its_newest_checkpoint(coordinator: Coordinator):
    link = coordinator.link_of(NORTH)
    assert [item.event for item in link.fetch_audit(0)] == ["create_run"], "nothing is signed yet"
    signed = publish(coordinator)
    records = coordinator.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    assert list(link.fetch_audit(0)) == [signed, *records]
    assert list(link.fetch_audit(4)) == [signed, *records[4:]]
    assert list(link.fetch_audit(len(records))) == [signed]


def test_who_has_enough_of_the_audit_trail_may_stop(coordinator: Coordinator):
    publish(coordinator)
    link = coordinator.link_of(NORTH)
    for _ in range(3):
        items = link.fetch_audit(0)
        next(items)
        next(items)
        items.close()
    assert link.fetch_model(coordinator_model(coordinator)), "the line is as good as before"


def coordinator_model(coordinator: Coordinator) -> ModelRef:
    """The model in force."""
    return replace(MODEL, digest=coordinator.engine.journal.run_tx("read", lambda tx: tx.state()).model)


def test_a_countersignature_is_kept_once(coordinator: Coordinator):
    checkpoint = publish(coordinator).checkpoint
    mine = countersign(checkpoint, NORTH, SIGNERS.site_keys[NORTH])
    for _ in range(2):
        coordinator.link_of(NORTH).countersign(checkpoint, mine.signature)
    assert coordinator.engine.journal.run_tx("read", lambda tx: tx.countersignatures()) == (mine,)


def test_a_countersignature_that_is_not_the_sites_is_refused(coordinator: Coordinator):
    checkpoint = publish(coordinator).checkpoint
    mine = countersign(checkpoint, NORTH, SIGNERS.site_keys[NORTH])
    with pytest.raises(PolicyRefusal, match="not that of site east"):
        coordinator.link_of(SITES[0]).countersign(checkpoint, mine.signature)
    never = replace(checkpoint, records=checkpoint.records + 1)
    with pytest.raises(PolicyRefusal, match="no such checkpoint"):
        coordinator.link_of(NORTH).countersign(never, countersign(never, NORTH, SIGNERS.site_keys[NORTH]).signature)


def test_another_thread_can_cancel_a_stream(coordinator: Coordinator):
    stream = coordinator.link_of(NORTH).follow()
    assert isinstance(next(stream), Manifest)
    assert isinstance(next(stream), Wait)
    canceller = threading.Timer(0.05, stream.cancel)
    canceller.start()
    with pytest.raises(CoordinatorUnreachable):
        next(stream)
    canceller.join()


def test_a_newer_stream_ends_the_older_one(coordinator: Coordinator):
    older = coordinator.link_of(NORTH).follow()
    assert isinstance(next(older), Manifest)
    newer = coordinator.link_of(NORTH).follow()
    assert isinstance(next(newer), Manifest)
    assert isinstance(next(older), Wait)
    with pytest.raises(PolicyRefusal, match="another node"):
        next(older)
    newer.cancel()


# The faults of the direct link: what is lost, and what the coordinator has seen nevertheless.


def test_a_lost_reply_leaves_the_update_accepted_and_a_lost_request_does_not(engine: Engine):
    direct = Coordinator(engine, lambda site: DirectLink(site, lambda: engine.service))
    direct.open_round()
    header, words = update(NORTH)
    link = DirectLink(NORTH, lambda: engine.service, LinkFaults(drop_requests=1))
    with pytest.raises(CoordinatorUnreachable, match="request"):
        link.send_update(header, words)
    assert not engine.journal.run_tx("read", lambda tx: tx.updates(Round(0), Attempt(1)))
    link.faults.drop_replies = 1
    with pytest.raises(CoordinatorUnreachable, match="reply"):
        link.send_update(header, words)
    (accepted,) = engine.journal.run_tx("read", lambda tx: tx.updates(Round(0), Attempt(1)))
    assert link.send_update(header, words) == accepted.receipt


def test_a_cut_transfer_keeps_what_came(engine: Engine):
    Coordinator(engine, lambda site: DirectLink(site, lambda: engine.service)).open_round()
    link = DirectLink(NORTH, lambda: engine.service, LinkFaults(cut_after_chunks=2))
    header, words = update(NORTH)
    with pytest.raises(CoordinatorUnreachable, match="cut"):
        link.send_update(header, words)
    assert engine.service.offer_update(NORTH, header).bytes_stored == 2 * CHUNK_BYTES
    link.faults.cut_after_chunks = 1
    assert len(link.fetch_model(MODEL)) == MODEL.size_bytes, "a model goes on by itself while bytes come"


# What only a network can do.


class OneMessage:
    """A call's context that ends the call after its first message."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """See grpc.aio.ServicerContext."""
        await self._context.write(message)
        await self._context.abort(grpc.StatusCode.UNAVAILABLE, "one chunk is enough")


class Stingy(Servicer):
    """Ends every transfer after one chunk."""

    calls = 0

    async def FetchModel(self, request: Any, context: Any) -> None:  # noqa: N802 - the proto's name
        """See federation.proto."""
        type(self).calls += 1
        await super().FetchModel(request, OneMessage(context))


def test_a_broken_download_goes_on_from_its_offset(engine: Engine, serving: Serving, grpc_links: Callable[..., GrpcLink]):
    Stingy.calls = 0
    link = grpc_links(serving.start(servicer_of(engine, Stingy)), NORTH)
    assert link.fetch_model(MODEL) == vector_bytes(TENSORS["weight"])
    assert Stingy.calls == 3, "three chunks, one a transfer"


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


class Generous(Servicer):
    """Always has a byte more than before."""

    stored = 0

    async def OfferUpdate(self, request: Any, context: Any) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        del request, context
        type(self).stored += 1
        return codec.state_to_wire(Offset(self.stored))

    async def SendUpdate(self, request_iterator: Any, context: Any) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        assert type(self).stored < 100, "the site would go on for ever"
        return await self.OfferUpdate(request_iterator, context)


def test_more_stored_bytes_than_the_update_has_are_refused(engine: Engine, serving: Serving, grpc_links: Callable[..., GrpcLink]):
    Generous.stored = 0
    link = grpc_links(serving.start(servicer_of(engine, Generous)), NORTH)
    words = b"abcd"
    with pytest.raises(PolicyRefusal, match="bytes of an update of 4"):
        link.send_update(UpdateHeader(START, sha256_hex([words]), len(words), MODEL.digest), words)


def test_nobody_there(grpc_links: Callable[..., GrpcLink]):
    with pytest.raises(CoordinatorUnreachable, match="does not answer"):
        grpc_links(f"{HOST}:1", NORTH).report_scores(scores())

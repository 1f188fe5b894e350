"""The composition root: the only place that builds stores, service, driver and server, and puts them together."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.audit.notary import Notary, open_notary
from coordinator.certificate import LiveCertificate
from coordinator.config import CoordinatorSettings
from coordinator.dashboard.desk import StatusDesk, live_now
from coordinator.dashboard.serving import served
from coordinator.dashboard.sightings import Sightings
from coordinator.dashboard.view import Live
from coordinator.events import Event, Observer, PhaseEntered, TrailUnsigned
from coordinator.log import event_log
from coordinator.metrics import Metrics
from coordinator.phases.driver import Driver
from coordinator.phases.phase import Context, PhaseLimits
from coordinator.ports import ServicePorts
from coordinator.presence import Presence
from coordinator.progress import Progress, TrafficMeter
from coordinator.renewal import keep_current
from coordinator.report import RoundReport, RunReport, read_report, write_report
from coordinator.revocations import LiveRevocations, newest_recorded, record, watch
from coordinator.secure import SecureRounds
from coordinator.service import CoordinatorService
from coordinator.servicer import THREADS_PER_SITE, CallLimits, Servicer, start_server
from coordinator.state import PhaseName, RunState
from coordinator.store.journal import COORDINATOR, Journal, Transaction
from coordinator.store.lock import state_lock
from coordinator.store.models import ModelStore
from coordinator.store.spool import Spool
from coordinator.store.sqlite import JOURNAL_FILE, SqliteJournal
from fedmentor.clock import Clock, SystemClock
from fedmentor.errors import BrokenStore, ConfigError
from fedmentor.federation import Manifest, RunManifest, manifest_from_bytes
from fedmentor.identity.approval import approved, read_approval
from fedmentor.identity.enrolment import Place
from fedmentor.identity.names import Peer
from fedmentor.identity.renewal import Door, Upkeep
from fedmentor.identity.revocation import RevocationList
from fedmentor.ids import Attempt, Round
from fedmentor.models import write_atomically
from fedmentor.privacy.noise import Entropy
from fedmentor.signals import ending_signals
from fedmentor.wire.channel import server_credentials

SPOOL_FOLDER = "spool"
MODELS_FOLDER = "models"

_REPORTED = frozenset({PhaseName.IDLE, PhaseName.EVALUATE, PhaseName.SHUTDOWN})
"""Phases whose entering makes a new report: a round was published, or the run is over."""


@dataclass(frozen=True)
class Engine:
    """A coordinator without a transport: serve ``service``, and let one thread ``driver.drive()``."""

    service: CoordinatorService
    driver: Driver
    journal: Journal
    progress: Progress

    def report(self) -> RunReport:
        """The run so far."""
        return self.journal.run_tx("read_report", read_report)


@dataclass(frozen=True)
class EngineParts:
    """What an engine is built on.

    Attributes:
        state: folder for spool and models.
        journal: where rounds are recorded.
        clock: time for deadlines and records.
        limits: the operator's time bounds.
        observe: is told what happens.
        notary: signs checkpoints of the audit chain; None where this federation has no signing keys.
        entropy: gives the seeds of central noise; injected by simulations.
        signature: the registrar's over the manifest; empty where there is none.
    """

    state: Path
    journal: Journal
    clock: Clock
    limits: PhaseLimits
    observe: Observer
    notary: Notary | None = None
    entropy: Entropy = os.urandom
    signature: bytes = b""


@dataclass(frozen=True)
class Rim:
    """What a transport needs beside the service: certificate, deny-list, time, and who is told what happens."""

    certificate: LiveCertificate
    revocations: LiveRevocations
    clock: Clock
    observe: Observer


@dataclass(frozen=True)
class Shown:
    """Who is told of a run's beginning, with the bound address, and of its end."""

    started: Callable[[str], None]
    ended: Callable[[], None]


def build_engine(manifest: RunManifest, model: Path, parts: EngineParts) -> Engine:
    """Begin a run, or take one up again where its journal stands.

    Args:
        model: folder of model 0; read only where the run begins.

    Raises:
        ConfigError: the state folder belongs to another run.
        ModelError: the model is not the one that the manifest names.
        BrokenStore: the disk failed.
    """
    journal = parts.journal
    models = ModelStore(parts.state / MODELS_FOLDER, manifest.spec)
    models.clean()
    found = journal.run_tx("read_manifest", lambda tx: tx.manifest())
    if found is None:
        # First the model, then the run: a crash in between leaves a model that nobody refers to.
        models.import_folder(model, manifest.initial_model)
        journal.run_tx("create_run", lambda tx: _create_run(tx, manifest))
    elif found != manifest:
        raise ConfigError(
            f"{parts.state} holds run {found.run} under another manifest", cure="give that manifest, or another --state folder"
        )
    spool = Spool(parts.state / SPOOL_FOLDER)
    progress, presence, meter = Progress(journal, parts.clock), Presence(manifest.roster, parts.clock), TrafficMeter()
    woken = threading.Event()
    ports = ServicePorts(journal, spool, models, parts.clock, progress, presence, meter, parts.observe, parts.notary)
    secure = SecureRounds(manifest, ports) if manifest.secure else None
    context = Context(
        manifest, parts.limits, journal, spool, models, presence, meter, parts.clock, secure, parts.notary, parts.entropy
    )
    service = CoordinatorService(Manifest(manifest, parts.signature), ports, woken.set, secure)
    driver = Driver(context, progress, service.notify, parts.observe, woken)
    return Engine(service, driver, journal, progress)


def run_coordinator(
    settings: CoordinatorSettings,
    show_round: Callable[[RoundReport, RunReport], None],
    show_start: Callable[[str, bool, str | None], None],
    show_end: Callable[[RunReport], None],
) -> RunReport | None:
    """Run one coordinator until its run is over (with ``settings.stay``: on), or until a signal asks it to end.

    Args:
        show_round: is given each round once it is published, and the last model's scores at the end.
        show_start: is given the bound address, whether an earlier run goes on, and the dashboard's address where there is one.
        show_end: is given the report once the run is over.

    Returns:
        The report of a run that is over, also where it was over before; None where it was stopped before that.

    Raises:
        ConfigError, ModelError, BrokenStore: see build_engine, coordinator_credentials and state_lock.
        IdentityRefused: the approval beside the manifest is not the registrar's.
        PortInUse: the address, or a port for metrics or dashboard, is taken.
    """
    manifest = read_manifest(settings.manifest)
    signature = read_approval(settings.manifest)
    is_approved = approved(manifest.to_bytes(), signature, settings.certificates)
    notary = open_notary(settings.certificates)
    _make_private(settings.state)
    clock = SystemClock()
    with ExitStack() as stack:
        stack.enter_context(state_lock(settings.state))
        if settings.ready_file:
            # One that a killed coordinator left names an address where nobody listens.
            settings.ready_file.unlink(missing_ok=True)
        log = stack.enter_context(event_log(settings.log_file))
        journal = stack.enter_context(_opened(settings.state, clock))
        metrics, sightings = Metrics(), Sightings(clock)
        publisher = _Publisher(settings.state, journal, metrics, show_round)
        observe = _all_of(log, metrics.observe, sightings.observe, publisher.observe)
        if notary is None:
            observe(TrailUnsigned("the certificates have no signed roster; have the members enrolled again"))
        parts = EngineParts(settings.state, journal, clock, settings.limits, observe, notary, signature=signature)
        engine = build_engine(manifest, settings.model, parts)
        before = engine.report()
        publisher.begin(before)
        if before.outcome is not None and not settings.stay:
            show_end(before)
            return before
        beside = Live(clock.now(), approved=is_approved, signs=notary is not None, gather_s=settings.gather_seconds)
        desk = _desk(settings.state, engine, sightings, clock, beside)
        dashboard = stack.enter_context(served(settings, metrics.registry, desk.status, observe))
        resumed = before.audit_records > 1
        certificate = LiveCertificate(settings.certificates, clock, observe)
        metrics.watch(settings.state, lambda: certificate.expiry)
        floor = journal.run_tx("newest_deny_list", newest_recorded)
        rim = Rim(certificate, LiveRevocations(settings.certificates, certificate.federation, observe, floor), clock, observe)
        show = Shown(lambda address: show_start(address, resumed, dashboard), lambda: show_end(engine.report()))
        over = asyncio.run(_serve(engine, settings, rim, show))
        return engine.report() if over else None


def read_manifest(path: Path) -> RunManifest:
    """Read a manifest file.

    Raises:
        ConfigError: missing, or not a manifest.
    """
    try:
        return manifest_from_bytes(path.read_bytes())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", cure=error.cure) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", cure="make one with `fedmentor coordinator manifest`"
        ) from error


def _desk(state: Path, engine: Engine, sightings: Sightings, clock: Clock, beside: Live) -> StatusDesk:
    """What the dashboard shows: read from the journal at each look, with what is in memory alone beside it."""
    live = live_now(engine.progress, sightings, engine.service.manifest.roster, clock, beside)
    return StatusDesk(lambda: _opened(state, clock, read_only=True), live, clock)


def _make_private(folder: Path) -> None:
    """Make the state folder, and make it its owner's only: plain updates lie in it.

    Raises:
        ConfigError: it cannot be made, or is somebody else's.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made a private folder: {error.strerror}", cure="give a --state folder of your own"
        ) from error


async def _serve(engine: Engine, settings: CoordinatorSettings, rim: Rim, show: Shown) -> bool:
    """Serve while the driver drives, and after it where the operator wants that; True if the run is over."""
    loop, sites, asked_to_end = asyncio.get_running_loop(), len(engine.service.manifest.roster), asyncio.Event()

    def end() -> None:
        engine.driver.stop()
        asked_to_end.set()

    # One each for the driver, the deny-list, the registrar, and the event loop's own use (names of hosts).
    loop.set_default_executor(ThreadPoolExecutor(THREADS_PER_SITE * sites + 4, "coordinator"))
    limits = CallLimits(settings.calls_per_site, settings.uploads_per_site, settings.transfer_seconds)
    servicer = Servicer(engine.service, rim.certificate.federation, limits, rim.observe, engine.driver.fail)
    tls = server_credentials(rim.certificate.current, rim.certificate.renewed)
    # Twice what the sites may have: calls over a site's own limit are there, too, for the moment that it takes to refuse them.
    calls = 2 * settings.calls_per_site * sites
    if rim.revocations.current is not None:
        servicer.open_calls.deny(rim.revocations.current)
    async with AsyncExitStack() as stack:
        server, address = await start_server(servicer, settings.listen, tls, calls)
        stack.push_async_callback(server.stop, settings.stop_grace_seconds)
        stack.callback(engine.service.close)
        denying = loop.create_task(_keep_denying(engine, servicer, rim))
        stack.callback(denying.cancel)
        if settings.registrar is not None:
            place, door = Place(settings.certificates, Peer(rim.certificate.federation, None)), Door(settings.registrar)
            keeping = loop.create_task(keep_current(Upkeep(place, door, rim.clock), rim.observe))
            stack.callback(keeping.cancel)
        for number in ending_signals():
            loop.add_signal_handler(number, end)
        if settings.ready_file:
            stack.callback(settings.ready_file.unlink, missing_ok=True)
            write_atomically(settings.ready_file, f"{address}\n".encode())
        show.started(address)
        over = await asyncio.to_thread(engine.driver.drive)
        if over:
            show.ended()
            if settings.stay:
                await asked_to_end.wait()
        return over


async def _keep_denying(engine: Engine, servicer: Servicer, rim: Rim) -> None:
    """Keep the deny-list up to date; every list that comes into force is noted in the audit trail."""

    def note(revoked: RevocationList) -> None:
        try:
            engine.journal.run_tx("deny_list", lambda tx: record(tx, revoked))
        except BrokenStore as error:
            engine.driver.fail(error)

    if rim.revocations.current is not None and rim.revocations.is_news:
        await asyncio.to_thread(note, rim.revocations.current)
    await watch(rim.revocations, servicer.open_calls, note, rim.clock)


class _Publisher:
    """Writes the report and shows the rounds that are new in it."""

    def __init__(
        self, state: Path, journal: Journal, metrics: Metrics, show_round: Callable[[RoundReport, RunReport], None]
    ) -> None:
        self._state = state
        self._journal = journal
        self._metrics = metrics
        self._show_round = show_round
        self._shown = 0

    def begin(self, report: RunReport) -> None:
        """Rounds before a restart are not shown again."""
        self._shown = sum(entry.published is not None for entry in report.rounds)
        self._publish(report)

    def observe(self, event: Event) -> None:
        """Report after transitions that change what people see."""
        if not isinstance(event, PhaseEntered) or event.state.phase not in _REPORTED:
            return
        report = self._journal.run_tx("read_report", read_report)
        self._publish(report)
        over = event.state.phase is PhaseName.SHUTDOWN
        done = [entry for entry in report.rounds if over or entry.published is not None]
        for entry in done[self._shown :]:
            self._show_round(entry, report)
        self._shown = max(self._shown, len(done))

    def _publish(self, report: RunReport) -> None:
        write_report(self._state, report)
        self._metrics.show(report)


def _create_run(tx: Transaction, manifest: RunManifest) -> None:
    tx.put_manifest(manifest)
    tx.put_state(RunState(PhaseName.IDLE, Round(0), Attempt(1), manifest.initial_model))
    fields = {"run": manifest.run, "manifest": manifest.digest, "model": manifest.initial_model}
    tx.audit(COORDINATOR, "create_run", {**fields, "roster": " ".join(manifest.roster)})


@contextmanager
def _opened(state: Path, clock: Clock, *, read_only: bool = False) -> Iterator[Journal]:
    journal = SqliteJournal(state / JOURNAL_FILE, clock, read_only=read_only)
    try:
        yield journal
    finally:
        journal.close()


def _all_of(*observers: Observer) -> Observer:
    def observe(event: Event) -> None:
        for one in observers:
            one(event)

    return observe


def read_state(folder: Path) -> RunReport:
    """The report of the run in a state folder, whether a coordinator is running on it or not.

    Raises:
        ConfigError: no coordinator has run there.
        BrokenStore: the journal cannot be read.
    """
    journal = SqliteJournal(folder / JOURNAL_FILE, SystemClock(), read_only=True)
    try:
        return journal.run_tx("read_report", read_report)
    finally:
        journal.close()

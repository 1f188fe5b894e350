"""Prometheus metrics of one coordinator, from its events and reports; served on loopback unless its operator says otherwise."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from coordinator.events import Event, PhaseEntered, ScoresReported, SiteConnected, SiteLeft, UpdateAccepted, UpdateRefused
from coordinator.report import RunReport
from coordinator.state import PhaseName
from fedmentor.errors import ConfigError, PortInUse

LOOPBACK = "127.0.0.1"


class Metrics:
    """Counters and gauges on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._round = Gauge("fedmentor_round", "Round in force.", registry=registry)
        self._attempt = Gauge("fedmentor_attempt", "Attempt of the round in force.", registry=registry)
        self._phase = Gauge("fedmentor_phase", "1 for the phase in force.", ["phase"], registry=registry)
        self._connected = Gauge("fedmentor_sites_connected", "Sites with an open stream.", registry=registry)
        self._accepted = Counter("fedmentor_updates_accepted", "Updates accepted.", ["site"], registry=registry)
        self._refused = Counter("fedmentor_updates_refused", "Updates refused.", ["site", "kind"], registry=registry)
        self._scores = Gauge("fedmentor_site_dice", "Dice of the latest model that a site scored.", ["site"], registry=registry)
        self._dice = Gauge("fedmentor_dice", "Dice of the latest scored model, weighted by patients.", registry=registry)
        self._worst = Gauge("fedmentor_worst_site_dice", "Dice of the latest scored model at its worst site.", registry=registry)
        self._seconds = Gauge("fedmentor_round_seconds", "Duration of the last published round.", registry=registry)
        self._bytes = Gauge("fedmentor_round_bytes_up", "Payload received in the last published round.", registry=registry)

    def observe(self, event: Event) -> None:
        """Count one event."""
        match event:
            case PhaseEntered(_, state):
                self._round.set(state.round)
                self._attempt.set(state.attempt)
                for phase in PhaseName:
                    self._phase.labels(phase.value).set(phase is state.phase)
            case SiteConnected(_, superseded):
                self._connected.inc(0 if superseded else 1)
            case SiteLeft():
                self._connected.dec()
            case UpdateAccepted(site):
                self._accepted.labels(site).inc()
            case UpdateRefused(site, _, kind):
                self._refused.labels(site, kind).inc()
            case ScoresReported(site, _, dice):
                self._scores.labels(site).set(dice)
            case _:
                pass

    def show(self, report: RunReport) -> None:
        """Take over what a new report says."""
        scored = [entry for entry in report.rounds if entry.dice is not None]
        if scored and scored[-1].dice is not None and scored[-1].worst_dice is not None:
            self._dice.set(scored[-1].dice)
            self._worst.set(scored[-1].worst_dice)
        done = [entry for entry in report.rounds if entry.seconds is not None]
        if done and done[-1].seconds is not None:
            self._seconds.set(done[-1].seconds)
            self._bytes.set(sum(done[-1].bytes_up.values()))


@contextmanager
def served(metrics: Metrics, port: int | None, host: str = LOOPBACK) -> Iterator[int | None]:
    """Serve the metrics while the block runs; gives the bound port.

    Raises:
        PortInUse: another process has the port.
        ConfigError: ``host`` is not an address or a name of this machine.
    """
    if port is None:
        yield None
        return
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"metrics cannot be served on {host}: {error.strerror}", cure="see --metrics-host") from error
        raise PortInUse(f"port {port} for metrics is in use", cure="give another one with --metrics") from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

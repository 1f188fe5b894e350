"""Prometheus metrics of one coordinator, from its events and reports; coordinator.dashboard.serving serves them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from math import nan
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from coordinator.events import (
    Event,
    PhaseEntered,
    ScoresReported,
    SiteCertificateShown,
    SiteConnected,
    SiteLeft,
    UpdateAccepted,
    UpdateRefused,
)
from coordinator.report import RunReport
from coordinator.state import PhaseName
from fedmentor.federation import Outcome


class Metrics:
    """Counters and gauges on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._round = Gauge("fedmentor_round", "Round in force.", registry=registry)
        self._attempt = Gauge("fedmentor_attempt", "Attempt of the round in force.", registry=registry)
        self._phase = Gauge("fedmentor_phase", "1 for the phase in force.", ["phase"], registry=registry)
        self._connected = Gauge("fedmentor_sites_connected", "Sites with an open stream.", registry=registry)
        self._present = Gauge("fedmentor_site_connected", "1 while the site has an open stream.", ["site"], registry=registry)
        self._expiry = Gauge(
            "fedmentor_site_certificate_expiry_seconds",
            "Unix time at which the certificate that a site showed last expires.",
            ["site"],
            registry=registry,
        )
        self._over = Gauge("fedmentor_run_over", "1 once the run is over.", registry=registry)
        self._failed = Gauge("fedmentor_run_failed", "1 once the run has failed.", registry=registry)
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
            case SiteConnected(site, superseded):
                self._connected.inc(0 if superseded else 1)
                self._present.labels(site).set(1)
            case SiteCertificateShown(site, expires):
                self._expiry.labels(site).set(expires.timestamp())
            case SiteLeft(site):
                self._connected.dec()
                self._present.labels(site).set(0)
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
        for site in report.roster:
            self._present.labels(site)  # a site that never came is shown, too
        self._over.set(report.outcome is not None)
        self._failed.set(report.outcome == Outcome.FAILED.value)
        scored = [entry for entry in report.rounds if entry.dice is not None]
        if scored and scored[-1].dice is not None and scored[-1].worst_dice is not None:
            self._dice.set(scored[-1].dice)
            self._worst.set(scored[-1].worst_dice)
        done = [entry for entry in report.rounds if entry.seconds is not None]
        if done and done[-1].seconds is not None:
            self._seconds.set(done[-1].seconds)
            self._bytes.set(sum(done[-1].bytes_up.values()))

    def watch(self, state: Path, expiry: Callable[[], float]) -> None:
        """Show what nobody tells: it is looked up whenever the metrics are read.

        Args:
            state: folder of the coordinator's state.
            expiry: gives the Unix time at which the certificate in force expires.
        """
        gauges = {
            "fedmentor_state_free_bytes": ("Room for state on its file system.", lambda: _usage(state)[0]),
            "fedmentor_state_size_bytes": ("Size of the state's file system.", lambda: _usage(state)[1]),
            "fedmentor_certificate_expiry_seconds": ("Unix time at which the certificate expires.", expiry),
        }
        for name, (what, look_up) in gauges.items():
            Gauge(name, what, registry=self.registry).set_function(look_up)


def _usage(folder: Path) -> tuple[float, float]:
    """Free and total bytes; NaN where the disk does not say, since the other metrics are wanted then more than ever."""
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return nan, nan
    return found.free, found.total

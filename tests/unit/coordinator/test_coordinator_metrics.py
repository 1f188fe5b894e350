"""Metrics and log: what events and reports become."""

from dataclasses import replace
from datetime import datetime, timezone
from math import isnan

from coordinator.events import (
    CallFailed,
    PhaseEntered,
    ScoresReported,
    SiteCertificateShown,
    SiteConnected,
    SiteLeft,
    UpdateAccepted,
    UpdateRefused,
)
from coordinator.log import event_log
from coordinator.metrics import Metrics
from coordinator.state import PhaseName, RunState
from coordinator.testing import ToyFederation
from fedmentor.federation import RoundRef
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId

REF = RoundRef(RunId("r"), Round(2), Attempt(1))
A, B = SiteId("a"), SiteId("b")
DIGEST = Digest("1" * 64)
EVENTS = [
    PhaseEntered(RunId("r"), RunState(PhaseName.COLLECT, Round(2), Attempt(1), DIGEST)),
    SiteConnected(A, superseded=False),
    SiteConnected(B, superseded=False),
    SiteConnected(B, superseded=True),
    SiteLeft(A),
    UpdateAccepted(B, REF, DIGEST, 8),
    UpdateRefused(A, REF, "UpdateRejected", "too long"),
    ScoresReported(B, REF, 0.75),
    CallFailed("Follow", None, "Traceback ..."),
    SiteCertificateShown(A, datetime(2026, 1, 8, tzinfo=timezone.utc)),
    SiteCertificateShown(A, datetime(2026, 1, 9, tzinfo=timezone.utc)),
]


def test_events_are_counted():
    metrics = Metrics()
    for event in EVENTS:
        metrics.observe(event)
    value = metrics.registry.get_sample_value
    assert value("fedmentor_round") == 2
    assert value("fedmentor_phase", {"phase": "collect"}) == 1
    assert value("fedmentor_phase", {"phase": "idle"}) == 0
    assert value("fedmentor_sites_connected") == 1
    assert value("fedmentor_updates_accepted_total", {"site": "b"}) == 1
    assert value("fedmentor_updates_refused_total", {"site": "a", "kind": "UpdateRejected"}) == 1
    assert value("fedmentor_site_dice", {"site": "b"}) == 0.75
    assert value("fedmentor_site_connected", {"site": "a"}) == 0
    assert value("fedmentor_site_connected", {"site": "b"}) == 1
    assert value("fedmentor_site_certificate_expiry_seconds", {"site": "a"}) == 1767916800
    assert value("fedmentor_site_certificate_expiry_seconds", {"site": "b"}) is None


def test_reports_are_shown(tmp_path):
    federation = ToyFederation(tmp_path)
    federation.connect()
    federation.play()
    metrics = Metrics()
    metrics.show(federation.engine.report())
    assert metrics.registry.get_sample_value("fedmentor_dice") == 0.5
    assert metrics.registry.get_sample_value("fedmentor_round_bytes_up") == 3 * 156
    assert metrics.registry.get_sample_value("fedmentor_run_over") == 1
    assert metrics.registry.get_sample_value("fedmentor_run_failed") == 0
    assert metrics.registry.get_sample_value("fedmentor_site_connected", {"site": federation.engine.report().roster[0]}) == 0
    metrics.show(federation.engine.report().model_copy(update={"outcome": "failed"}))
    assert metrics.registry.get_sample_value("fedmentor_run_failed") == 1
    metrics.show(replace_rounds(federation))
    federation.close()


def replace_rounds(federation):
    return federation.engine.report().model_copy(update={"rounds": ()})


def test_disk_and_certificate_are_looked_up_when_they_are_asked_for(tmp_path):
    metrics, expiry = Metrics(), [7.0]
    metrics.watch(tmp_path, lambda: expiry[-1])
    value = metrics.registry.get_sample_value
    assert 0 <= value("fedmentor_state_free_bytes") < value("fedmentor_state_size_bytes")
    assert value("fedmentor_certificate_expiry_seconds") == 7
    expiry.append(8.0)
    assert value("fedmentor_certificate_expiry_seconds") == 8


def test_a_disk_that_is_gone_takes_no_other_metric_along(tmp_path):
    metrics = Metrics()
    metrics.watch(tmp_path / "gone", lambda: 7.0)
    value = metrics.registry.get_sample_value
    assert isnan(value("fedmentor_state_free_bytes"))
    assert value("fedmentor_certificate_expiry_seconds") == 7


def test_the_log_has_a_line_an_event(tmp_path):
    for _ in range(2):
        with event_log(tmp_path / "logs" / "events.log") as log:
            for event in EVENTS:
                log(event)
    lines = (tmp_path / "logs" / "events.log").read_text().splitlines()
    assert len(lines) == 2 * len(EVENTS)
    assert "level=info event=phase_entered run=r phase=collect round=2 attempt=1" in lines[0]
    assert "level=warning event=update_refused site=a" in lines[6]
    assert 'reason="too long"' in lines[6]
    assert "level=warning event=call_failed call=Follow" in lines[8]
    assert 'event=site_certificate_shown site=a expires="2026-01-08 00:00:00+00:00"' in lines[9]


def test_the_log_goes_to_standard_error_by_default(capsys):
    with event_log(None) as log:
        log(replace(EVENTS[4], site=B))
    assert "event=site_left site=b" in capsys.readouterr().err

"""What the dashboard shows, at every stage of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import jsonschema
import pytest
from dashboard_manifests import MANIFESTS, MODEL, PRIVACY, A, B

from coordinator.audit.notary import Notary
from coordinator.conduct import SetAside, SiteFlag
from coordinator.dashboard.desk import live_now
from coordinator.dashboard.reading import read
from coordinator.dashboard.schema import schema_bytes, status_schema
from coordinator.dashboard.sightings import Sightings
from coordinator.dashboard.status import MAX_REASON_CHARACTERS, MAX_ROUNDS_SHOWN, Part, Status
from coordinator.dashboard.view import Live, status_of
from coordinator.dashboard.wording import counted, shown_text, who_sees
from coordinator.events import SiteCertificateShown
from coordinator.state import PhaseName, RunState
from coordinator.store.memory import MemoryJournal
from coordinator.testing import LIMITS, ToyFederation
from fedmentor.audit.checkpoint import countersign
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import RoundRef, StepAnswer, StepName
from fedmentor.gate import GatePlan
from fedmentor.ids import Attempt, Round, RunId, SiteId
from fedmentor.robust import Flag
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.clock import ManualClock

FOUR = tuple(SiteId(name) for name in "abcd")
HOSTILE = "<img src=x onerror=alert(1)>"
TRAIL = ToyTrail()


class Watched:
    """A toy federation and what its dashboard would show."""

    def __init__(self, folder: Path, **options) -> None:
        self.toys = ToyFederation(folder, **options)
        self.sightings = Sightings(self.toys.clock)
        self._heard = 0

    def status(self) -> Status:
        """What is shown now."""
        for event in self.toys.events[self._heard :]:
            self.sightings.observe(event)
        self._heard = len(self.toys.events)
        engine, clock = self.toys.engine, self.toys.clock
        beside = Live(clock.now(), approved=True, signs=True, gather_s=LIMITS.gather_s)
        live = live_now(engine.progress, self.sightings, self.toys.manifest.roster, clock, beside)
        return status_of(engine.journal.run_tx("read_status", read), live())

    def parts(self) -> dict[str, Part]:
        """What each site has done in the attempt in force."""
        return {site.site: site.part for site in self.status().sites}


@pytest.fixture
def begin(tmp_path):
    """Begins watched federations; closes them in the end."""
    made = []

    def watched(**options):
        made.append(Watched(tmp_path, **options))
        return made[-1]

    yield watched
    for one in made:
        one.toys.close()


# --- the stages of a run ---


def test_a_journal_without_a_run():
    journal = MemoryJournal(ManualClock())
    status = status_of(journal.run_tx("read_status", read), Live(ManualClock().now()))
    assert status == Status(utc="2026-01-01T00:00:00+00:00")


def test_before_anybody_connects(begin):
    watched = begin()
    watched.toys.settle()
    watched.toys.clock.advance(30.0)
    status = watched.status()
    assert status.progress.headline == "Round 0: 0 of 3 sites connected"
    assert (status.progress.elapsed_s, status.progress.left_s) == (30.0, LIMITS.gather_s - 30.0)
    assert [(site.connected, site.last_seen_s, site.part) for site in status.sites] == [(False, None, Part.NONE)] * 3
    assert [entry.round for entry in status.rounds] == [0]
    assert status.rounds[0].dice is None
    assert status.run.approved


def test_who_is_here_and_who_has_gone(begin):
    watched = begin()
    watched.toys.connect("a", "b")
    watched.status()
    watched.toys.leave("b")
    watched.status()
    watched.toys.clock.advance(7.0)
    here, gone, never = watched.status().sites
    assert (here.connected, here.last_seen_s) == (True, 0.0)
    assert (gone.connected, gone.last_seen_s) == (False, 7.0)
    assert (never.connected, never.last_seen_s) == (False, None)


def test_until_when_a_sites_certificate_lasts(begin):
    watched = begin()
    watched.sightings.observe(SiteCertificateShown(A, datetime(2026, 1, 8, tzinfo=timezone.utc)))
    watched.sightings.observe(SiteCertificateShown(A, datetime(2026, 1, 9, tzinfo=timezone.utc)))
    shown, *unseen = watched.status().sites
    assert shown.certificate_until_utc == "2026-01-09T00:00:00+00:00"
    assert [site.certificate_until_utc for site in unseen] == [None, None]


def test_a_round_under_way(begin):
    watched = begin()
    watched.toys.connect()
    watched.toys.settle()
    watched.toys.score("a", 0.75)
    watched.toys.send("a")
    watched.toys.engine.service.sit_out(B, watched.toys.ref, HOSTILE)
    watched.toys.clock.advance(20.0)
    status = watched.status()
    assert status.progress.headline == "Round 0: 1 of 3 updates here"
    assert (status.progress.done, status.progress.asked, status.progress.left_s) == (1, 3, 40.0)
    a, b, c = status.sites
    assert (a.part, a.dice, a.round, a.patients) == (Part.ACCEPTED, 0.75, 0, 4)
    assert (b.part, b.reason) == (Part.SAT_OUT, HOSTILE), "text stays text"
    assert (c.part, c.reason, c.dice) == (Part.AWAITED, "", None)
    assert (status.rounds[0].dice, status.rounds[0].worst_site, status.rounds[0].scored) == (0.75, "a", 1)
    assert not status.rounds[0].published


def test_what_was_refused_is_told(begin):
    watched = begin()
    watched.toys.connect()
    watched.toys.settle()
    with pytest.raises(PolicyRefusal):
        watched.toys.send("c", b"\0" * 4)
    site = watched.status().sites[2]
    assert site.part is Part.REFUSED
    assert "bytes" in site.reason


def test_a_run_that_is_complete(begin):
    watched = begin(notary=Notary(TRAIL.coordinator_key, lambda: TRAIL.keys))
    watched.toys.connect()
    watched.toys.play()
    checkpoint = watched.toys.engine.journal.run_tx("read", lambda tx: tx.checkpoint()).checkpoint
    watched.toys.engine.service.countersign(B, checkpoint, countersign(checkpoint, B, TRAIL.site_keys[B]).signature)
    status = watched.status()
    assert status.progress.headline == "The run is complete: 2 rounds"
    assert (status.progress.outcome, status.progress.left_s) == ("completed", None)
    assert [(entry.round, entry.accepted, entry.void) for entry in status.rounds] == [(0, 3, False), (1, 3, False), (2, 0, False)]
    assert [entry.bytes_up for entry in status.rounds] == [3 * 156, 3 * 156, 0]
    assert [site.bytes_up for site in status.sites] == [2 * 156] * 3
    assert status.audit.countersigned == ("b",)
    assert status.audit.checkpoint_head == checkpoint.head
    assert [site.countersigned for site in status.sites] == [False, True, False]


def test_a_run_that_failed(begin):
    watched = begin()
    for _ in range(3):
        watched.toys.clock.advance(LIMITS.gather_s)
        watched.toys.settle()
    progress = watched.status().progress
    assert progress.headline == "The run failed in round 0"
    assert progress.outcome == "failed"
    assert progress.reason.startswith("round 0 failed 2 times")


def test_a_model_that_the_gate_did_not_let_pass(begin):
    watched = begin(sites=FOUR, gate=GatePlan(max_dice_drop=0.05, min_sites=3, seconds=40.0))
    watched.toys.connect()
    watched.toys.settle()
    for site in FOUR:
        watched.toys.score(site, 0.5)
        watched.toys.send(site)
    assert watched.toys.settle() is PhaseName.GATE
    watched.toys.score_candidate("a", 0.3)
    status = watched.status()
    assert status.progress.headline == "Round 0: its model was tried by 1 of 4 sites"
    assert watched.parts() == {"a": Part.ANSWERED, "b": Part.AWAITED, "c": Part.AWAITED, "d": Part.AWAITED}
    for site in "bcd":
        watched.toys.score_candidate(site, 0.3)
    watched.toys.settle()
    status = watched.status()
    done = status.rounds[0]
    assert (done.void, done.accepted, done.gate.passed, done.gate.sites) == (True, 0, False, 4)
    assert done.gate.dice_drop == pytest.approx(0.2)
    assert (status.gate.max_dice_drop, status.gate.min_sites) == (0.05, 3)


def test_what_privacy_has_cost(begin):
    watched = begin(privacy=PRIVACY)
    watched.toys.connect()
    before = watched.status()
    assert (before.privacy.epsilon_spent, before.privacy.epsilon_cap, before.privacy.unit) == (0.0, 9.0, "patient")
    for _ in range(2):
        watched.toys.settle()
        for site in "abc":
            watched.toys.send(site)
    watched.toys.settle()
    status = watched.status()
    assert [entry.epsilon for entry in status.rounds] == [PRIVACY.epsilon_after(1), PRIVACY.epsilon_after(2)]
    assert status.privacy.epsilon_spent == PRIVACY.epsilon_after(2) <= 9
    assert "no scores" in status.run.who_sees[-1]


def test_who_is_set_aside_and_why():
    journal = MemoryJournal(ManualClock())

    def write(tx):
        tx.put_manifest(MANIFESTS["plain+robust"])
        tx.put_state(RunState(PhaseName.COLLECT, Round(3), Attempt(1), MODEL))
        for round_, flag in ((1, Flag.ZERO), (2, Flag.COPY), (2, Flag.ZERO)):
            tx.put_flag(SiteFlag(Round(round_), Attempt(1), B, flag))
        tx.put_set_aside(SetAside(B, Round(2)))

    journal.run_tx("write", write)
    status = status_of(journal.run_tx("read_status", read), Live(ManualClock().now()))
    assert [site.part for site in status.sites] == [Part.AWAITED, Part.SET_ASIDE, Part.AWAITED]
    assert status.sites[1].reason == "zero in round 1, 2; copy in round 2"
    assert status.progress.asked == 2


def test_the_steps_of_secure_aggregation():
    journal, ref = MemoryJournal(ManualClock()), RoundRef(RunId("toy-run"), Round(0), Attempt(1))
    roster = MANIFESTS["secagg"].roster

    def write(tx):
        tx.put_manifest(MANIFESTS["secagg"])
        tx.put_state(RunState(PhaseName.SHARE, Round(0), Attempt(1), MODEL, phase_elapsed_s=12.0))
        tx.open_secure_attempt(Round(0), Attempt(1), MODEL)
        for site in roster[:3]:
            tx.put_answer(site, StepAnswer(ref, StepName.ADVERTISE, b"signed"))
        tx.put_answer(roster[0], StepAnswer(ref, StepName.SHARE, b"signed"))

    journal.run_tx("write", write)
    status = status_of(journal.run_tx("read_status", read), Live(ManualClock().now()))
    assert [site.part for site in status.sites] == [Part.ANSWERED, Part.AWAITED, Part.AWAITED, Part.DROPPED]
    assert status.progress.headline == "Round 0: 1 of 3 sites has answered"
    assert status.progress.left_s == 18.0


def test_of_a_long_run_the_newest_rounds_are_shown(begin):
    watched = begin()
    reading = watched.toys.engine.journal.run_tx("read_status", read)
    (entry,) = reading.report.rounds
    many = tuple(entry.model_copy(update={"round": Round(number)}) for number in range(MAX_ROUNDS_SHOWN + 7))
    status = status_of(replace(reading, report=reading.report.model_copy(update={"rounds": many})), Live(watched.toys.clock.now()))
    assert (len(status.rounds), status.rounds_left_out, status.rounds[0].round) == (MAX_ROUNDS_SHOWN, 7, 7)


# --- words ---


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plain", "sees the update of every single site"),
        ("plain+robust", "rule against malicious sites: median"),
        ("secagg", "only sums over 3 sites or more"),
        ("secagg-grouped", "the sum of each of 3 groups of 3 sites or more"),
        ("private", "sees the update of every single site"),
    ],
)
def test_who_can_see_what(name, says):
    assert says in who_sees(MANIFESTS[name])[1]


def test_text_from_outside_is_one_short_line():
    assert shown_text("a\nb\u202ec\0") == "a b c "
    assert len(shown_text("x" * 10_000)) == MAX_REASON_CHARACTERS
    assert shown_text("x" * MAX_REASON_CHARACTERS) == "x" * MAX_REASON_CHARACTERS
    assert (counted(1, "site"), counted(0, "site")) == ("1 site", "0 sites")


def test_the_schema_in_the_documentation_is_that_of_the_program():
    schema = Path(__file__).resolve().parents[4] / "docs" / "dashboard.schema.json"
    assert schema.read_bytes() == schema_bytes()


def test_a_status_is_as_the_schema_says(begin):
    watched = begin(gate=GatePlan())
    watched.toys.connect()
    watched.toys.play()
    jsonschema.validate(json.loads(watched.status().model_dump_json()), status_schema())

"""Any journal at all can be shown, also one that no real run could leave."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timezone

from dashboard_manifests import MANIFESTS, MODEL, A, B, C
from hypothesis import given
from hypothesis import strategies as st

from coordinator.conduct import GateRecord, SetAside, SiteFlag
from coordinator.dashboard.reading import read
from coordinator.dashboard.sightings import Sighting
from coordinator.dashboard.status import Status
from coordinator.dashboard.view import Live, status_of
from coordinator.state import AcceptedUpdate, PhaseName, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.memory import MemoryJournal
from fedmentor.federation import Outcome, Receipt, RoundRef, StepAnswer, StepName
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.robust import Flag
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.clock import ManualClock

NEXT, UPDATE = Digest("2" * 64), Digest("e" * 64)

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
ATTEMPTS = st.integers(1, 3).map(Attempt)
ROUNDS = st.integers(0, 3).map(Round)
TEXTS = st.text(max_size=400)

TRAIL = ToyTrail()
TRAIL.append("coordinator", "create_run", run="toy-run")
SEALED = TRAIL.seal()
SIGNED = TRAIL.sign("a")


@st.composite
def journals(draw):
    """A journal with a run in any state, with any rows beside it: more than any real run could hold."""
    manifest = draw(st.sampled_from(list(MANIFESTS.values())))
    journal = MemoryJournal(ManualClock())
    site, run = st.sampled_from([*manifest.roster, SiteId("stranger")]), manifest.run
    rows = st.lists(st.tuples(ROUNDS, ATTEMPTS, site), max_size=8, unique=True)
    state = RunState(
        draw(st.sampled_from(PhaseName)),
        draw(ROUNDS),
        draw(ATTEMPTS),
        MODEL,
        draw(st.none() | st.just(NEXT)),
        draw(st.floats(0, 1e9)),
        outcome=draw(st.none() | st.sampled_from(Outcome)),
        reason=draw(TEXTS),
    )

    def write(tx):
        tx.put_manifest(manifest)
        tx.put_state(state)
        for round_, attempt, name in draw(rows):
            tx.put_update(
                AcceptedUpdate(Receipt(RoundRef(run, round_, attempt), name, UPDATE, "then"), 156, draw(st.integers(0, 9)))
            )
            tx.add_traffic(Traffic(round_, name, 3, draw(st.integers(0, 1 << 50))))
        for round_ in draw(st.lists(ROUNDS, max_size=4, unique=True)):
            model, sites = draw(st.sampled_from([MODEL, NEXT])), tuple(draw(st.lists(site, max_size=3)))
            tx.put_round(PublishedRound(round_, draw(ATTEMPTS), MODEL, model, draw(NUMBERS), "then", sites))
        for round_, attempt, name in draw(rows):
            scores = SiteScores(
                name, round_, MODEL, draw(st.integers(0, 1 << 40)), 1, draw(NUMBERS), draw(NUMBERS), draw(st.none() | NUMBERS)
            )
            scores = replace(scores, hd95_undefined=draw(st.none() | st.integers(0, 1 << 40)))
            tx.put_scores(scores)
            tx.put_candidate_scores(attempt, scores)
            tx.put_flag(SiteFlag(round_, attempt, name, draw(st.sampled_from(Flag))))
            tx.put_set_aside(SetAside(name, round_))
        for round_, attempt in {row[:2] for row in draw(rows)}:
            tx.put_gate_record(GateRecord(round_, attempt, NEXT, 3, draw(NUMBERS), passed=draw(st.booleans())))
            tx.open_secure_attempt(round_, attempt, MODEL)
        for name, step in draw(st.lists(st.tuples(site, st.sampled_from(StepName)), max_size=8, unique=True)):
            tx.put_answer(name, StepAnswer(state.ref(run), step, b"signed"))
        if draw(st.booleans()):
            tx.audit("coordinator", "accept_update", {"sha256": UPDATE})
            tx.put_checkpoint(SEALED)
            tx.put_countersignature(SIGNED)

    journal.run_tx("write", write)
    return journal, state


SIGHTINGS = st.builds(
    Sighting,
    st.booleans(),
    st.none() | NUMBERS,
    st.none() | st.builds(RoundRef, st.just(RunId("toy-run")), ROUNDS, ATTEMPTS),
    TEXTS,
    TEXTS,
    st.none() | st.datetimes(timezones=st.just(timezone.utc)),
)


def no_such_number(name):
    raise AssertionError(f"{name} is no JSON")


@given(journals(), st.dictionaries(st.sampled_from([A, B, C]), SIGHTINGS), NUMBERS, st.booleans())
def test_any_journal_can_be_shown_and_shows_no_update(made, sightings, elapsed_s, known):
    journal, state = made
    live = Live(ManualClock().now(), state if known else None, elapsed_s, sightings, gather_s=5.0)
    reading = journal.run_tx("read_status", read)
    status = status_of(reading, live)
    text = status.model_dump_json()
    assert status == status_of(reading, live)
    assert Status.model_validate_json(text) == status
    assert UPDATE not in text
    assert [site.site for site in status.sites] == list(reading.manifest.roster)
    assert all(site.reason.isprintable() for site in status.sites)
    json.loads(text, parse_constant=no_such_number)

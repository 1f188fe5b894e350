"""One suite for every journal: in memory, SQLite in memory, SQLite in a file, and a file that is reopened between any two steps."""

from dataclasses import replace

import pytest

from coordinator.state import AcceptedUpdate, PhaseName, PublishedRound, RunState, SiteScores, Traffic
from coordinator.store.memory import MemoryJournal
from coordinator.store.sqlite import IN_MEMORY, SqliteJournal
from coordinator.testing import toy_manifest
from fedmentor.audit import EMPTY, Head, verify
from fedmentor.errors import BrokenStore, DataError
from fedmentor.federation import Outcome, Receipt, RoundRef, StepAnswer, StepName
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.clock import ManualClock

DIGEST = Digest("1" * 64)
STATE = RunState(PhaseName.COLLECT, Round(1), Attempt(2), DIGEST, phase_elapsed_s=1.5, round_elapsed_s=2.5, reason="why")


class _ReopenedJournal:
    """Nothing survives from one transaction to the next but the file."""

    def __init__(self, path, clock):
        self._make = lambda: SqliteJournal(path, clock)

    def run_tx(self, name, fn):
        journal = self._make()
        try:
            return journal.run_tx(name, fn)
        finally:
            journal.close()

    def close(self):
        pass


@pytest.fixture(params=["memory", "sqlite-memory", "sqlite-file", "sqlite-reopened"])
def journal(request, tmp_path):
    clock = ManualClock()
    made = {
        "memory": lambda: MemoryJournal(clock),
        "sqlite-memory": lambda: SqliteJournal(IN_MEMORY, clock),
        "sqlite-file": lambda: SqliteJournal(tmp_path / "j.sqlite", clock),
        "sqlite-reopened": lambda: _ReopenedJournal(tmp_path / "j.sqlite", clock),
    }[request.param]()
    yield made
    made.close()


@pytest.fixture
def begun(journal):
    journal.run_tx("begin", lambda tx: (tx.put_manifest(toy_manifest(DIGEST)), tx.put_state(STATE)))
    return journal


def _update(site, round_=1, attempt=2, sha256=DIGEST):
    ref = RoundRef(RunId("toy-run"), Round(round_), Attempt(attempt))
    return AcceptedUpdate(Receipt(ref, SiteId(site), sha256, "2026-01-01T00:00:00+00:00"), 156, 7)


def _scores(site, round_=0, hd95=None, undefined=None):
    return SiteScores(SiteId(site), Round(round_), DIGEST, 3, 4, 0.5, 0.25, hd95, undefined)


def _read(journal, method, *arguments):
    return journal.run_tx("read", lambda tx: getattr(tx, method)(*arguments))


def test_an_empty_journal_holds_nothing(journal):
    assert _read(journal, "manifest") is None
    for method in ("scores", "rounds", "traffic", "audit_records"):
        assert _read(journal, method) == ()
    assert _read(journal, "updates", Round(0), Attempt(1)) == ()
    assert _read(journal, "audit_head") == EMPTY
    with pytest.raises(BrokenStore, match="no run"):
        _read(journal, "state")


def test_the_manifest_is_put_once(begun):
    assert _read(begun, "manifest") == toy_manifest(DIGEST)
    with pytest.raises(BrokenStore):
        begun.run_tx("again", lambda tx: tx.put_manifest(toy_manifest(DIGEST)))


def test_the_state_is_replaced_whole(begun):
    assert _read(begun, "state") == STATE
    other = RunState(
        PhaseName.SHUTDOWN, Round(2), Attempt(1), Digest("2" * 64), pending=DIGEST, outcome=Outcome.FAILED, reason="it failed"
    )
    begun.run_tx("move", lambda tx: tx.put_state(other))
    assert _read(begun, "state") == other


def test_updates_are_kept_by_attempt_and_sorted_by_site(begun):
    for update in (_update("c"), _update("a"), _update("a", attempt=1), _update("a", round_=0)):
        begun.run_tx("accept", lambda tx, update=update: tx.put_update(update))
    assert _read(begun, "updates", Round(1), Attempt(2)) == (_update("a"), _update("c"))
    assert _read(begun, "updates", Round(9), Attempt(1)) == ()


def test_a_second_update_of_a_site_breaks(begun):
    begun.run_tx("accept", lambda tx: tx.put_update(_update("a")))
    with pytest.raises(BrokenStore):
        begun.run_tx("accept", lambda tx: tx.put_update(_update("a", sha256=Digest("3" * 64))))
    assert _read(begun, "updates", Round(1), Attempt(2)) == (_update("a"),)


def test_scores_are_never_overwritten(begun):
    assert begun.run_tx("scores", lambda tx: tx.put_scores(_scores("b", hd95=3.5, undefined=1)))
    assert begun.run_tx("scores", lambda tx: tx.put_scores(_scores("a")))
    assert not begun.run_tx("scores", lambda tx: tx.put_scores(replace(_scores("a"), dice=0.9)))
    assert not begun.run_tx("scores", lambda tx: tx.put_scores(_scores("a")))
    assert begun.run_tx("scores", lambda tx: tx.put_scores(_scores("a", 1)))
    assert _read(begun, "scores") == (_scores("a"), _scores("b", hd95=3.5, undefined=1), _scores("a", 1))
    assert _read(begun, "scores", Round(0)) == (_scores("a"), _scores("b", hd95=3.5, undefined=1))
    assert _read(begun, "scores", Round(7)) == ()


def test_a_round_is_published_once(begun):
    rounds = [
        PublishedRound(Round(n), Attempt(1), DIGEST, DIGEST, 1.25, "2026-01-01T00:00:00+00:00", (SiteId("a"),) * n) for n in (0, 1)
    ]
    for published in reversed(rounds):
        begun.run_tx("publish", lambda tx, published=published: tx.put_round(published))
    assert _read(begun, "rounds") == tuple(rounds)
    with pytest.raises(BrokenStore):
        begun.run_tx("publish", lambda tx: tx.put_round(rounds[0]))


def test_traffic_adds_up(begun):
    for up, down in ((1, 2), (10, 20)):
        begun.run_tx("count", lambda tx, up=up, down=down: tx.add_traffic(Traffic(Round(0), SiteId("a"), up, down)))
    begun.run_tx("count", lambda tx: tx.add_traffic(Traffic(Round(0), SiteId("b"), 2**40, 0)))
    assert _read(begun, "traffic") == (Traffic(Round(0), SiteId("a"), 11, 22), Traffic(Round(0), SiteId("b"), 2**40, 0))


def test_audit_records_form_one_chain(begun):
    begun.run_tx("one", lambda tx: [tx.audit("coordinator", "open", {"round": n}) for n in range(3)])
    begun.run_tx("two", lambda tx: tx.audit("site a", "accept", {}))
    records = _read(begun, "audit_records")
    assert [record.seq for record in records] == [0, 1, 2, 3]
    assert verify(records).sound
    assert _read(begun, "audit_head") == Head(4, records[-1].hash)


def test_a_failed_transaction_leaves_nothing(begun):
    def half(tx):
        tx.put_state(replace(STATE, reason="half"))
        tx.put_update(_update("a"))
        tx.put_scores(_scores("a"))
        tx.add_traffic(Traffic(Round(0), SiteId("a"), 1, 1))
        tx.audit("coordinator", "half", {})
        tx.audit("coordinator", "bad", {"x": float("nan")})

    before = _read(begun, "audit_records")
    with pytest.raises(DataError):
        begun.run_tx("half", half)
    assert _read(begun, "state") == STATE
    assert _read(begun, "audit_records") == before
    assert _read(begun, "updates", Round(1), Attempt(2)) == ()
    assert _read(begun, "scores") == ()
    assert _read(begun, "traffic") == ()


def test_a_transaction_sees_its_own_writes(begun):
    def write_and_read(tx):
        tx.put_update(_update("a"))
        tx.audit("coordinator", "x", {})
        return tx.updates(Round(1), Attempt(2)), len(tx.audit_records())

    assert begun.run_tx("both", write_and_read) == ((_update("a"),), 1)


def _toy_trail():
    """Two checkpoints of a chain of another process; only lengths and bytes matter here."""
    trail = ToyTrail()
    trail.append("coordinator", "create_run", run="toy-run")
    return trail, trail.seal(), trail.seal()


def test_records_can_be_read_in_part(begun):
    begun.run_tx("some", lambda tx: [tx.audit("coordinator", "open", {"round": n}) for n in range(5)])
    whole = _read(begun, "audit_records")
    assert _read(begun, "audit_records", 2) == whole[2:]
    assert _read(begun, "audit_records", 1, 3) == whole[1:3]
    assert _read(begun, "audit_records", 4, 99) == whole[4:]
    assert _read(begun, "audit_records", 5) == ()


def test_checkpoints_are_kept_once_and_in_order(begun):
    _, first, second = _toy_trail()
    assert _read(begun, "checkpoint") is None
    assert _read(begun, "checkpoint", 1) is None
    for signed in (second, first):
        begun.run_tx("seal", lambda tx, signed=signed: tx.put_checkpoint(signed))
    assert _read(begun, "checkpoints") == (first, second)
    assert _read(begun, "checkpoint") == second
    assert _read(begun, "checkpoint", first.records) == first
    assert _read(begun, "checkpoint", 7) is None
    with pytest.raises(BrokenStore):
        begun.run_tx("seal", lambda tx: tx.put_checkpoint(replace(first, signature=bytes(64))))
    assert _read(begun, "checkpoints") == (first, second)


def test_countersignatures_are_never_overwritten(begun):
    trail, first, second = _toy_trail()
    begun.run_tx("seal", lambda tx: [tx.put_checkpoint(signed) for signed in (first, second)])
    late, early = trail.sign("b"), replace(trail.sign("a"), records=first.records)
    assert begun.run_tx("sign", lambda tx: tx.put_countersignature(late))
    assert begun.run_tx("sign", lambda tx: tx.put_countersignature(early))
    assert not begun.run_tx("sign", lambda tx: tx.put_countersignature(replace(late, signature=bytes(64))))
    assert _read(begun, "countersignatures") == (early, late)
    assert _read(begun, "countersignatures", second.records) == (late,)
    assert _read(begun, "countersignatures", 7) == ()
    with pytest.raises(BrokenStore):
        begun.run_tx("sign", lambda tx: tx.put_countersignature(replace(late, records=7)))


def test_a_failed_transaction_leaves_no_signature(begun):
    trail, first, _ = _toy_trail()

    def half(tx):
        tx.put_checkpoint(first)
        tx.put_countersignature(replace(trail.sign("a"), records=first.records))
        tx.audit("coordinator", "bad", {"x": float("nan")})

    with pytest.raises(DataError):
        begun.run_tx("half", half)
    assert _read(begun, "checkpoints") == ()
    assert _read(begun, "countersignatures") == ()


def _answer(step=StepName.ADVERTISE, message=b"signed", attempt=2):
    return StepAnswer(RoundRef(RunId("toy-run"), Round(1), Attempt(attempt)), step, message)


def test_a_secure_attempt_keeps_its_root_and_answers(begun):
    assert begun.run_tx("read", lambda tx: tx.audit_root(Round(1), Attempt(2))) is None
    begun.run_tx("open", lambda tx: tx.open_secure_attempt(Round(1), Attempt(2), DIGEST))
    begun.run_tx("put", lambda tx: tx.put_answer(SiteId("b"), _answer()))
    begun.run_tx("put", lambda tx: tx.put_answer(SiteId("a"), _answer(StepName.SHARE, bytes(3))))
    begun.run_tx("put", lambda tx: tx.put_answer(SiteId("a"), _answer(message=b"")))
    found = begun.run_tx("read", lambda tx: tx.answers(Round(1), Attempt(2)))
    assert found == (("a", _answer(message=b"")), ("b", _answer()), ("a", _answer(StepName.SHARE, bytes(3))))
    assert begun.run_tx("read", lambda tx: tx.answer(Round(1), Attempt(2), StepName.ADVERTISE, SiteId("b"))) == _answer()
    assert begun.run_tx("read", lambda tx: tx.answer(Round(1), Attempt(2), StepName.SHARE, SiteId("b"))) is None
    assert begun.run_tx("read", lambda tx: tx.audit_root(Round(1), Attempt(2))) == DIGEST
    assert begun.run_tx("read", lambda tx: tx.answered(Round(1), Attempt(2), StepName.ADVERTISE)) == {"a", "b"}
    assert begun.run_tx("read", lambda tx: tx.answered(Round(1), Attempt(2), StepName.REVEAL)) == frozenset()
    assert begun.run_tx("read", lambda tx: tx.answered(Round(1), Attempt(1), StepName.ADVERTISE)) == frozenset()


def test_a_site_says_one_thing_in_a_step(begun):
    begun.run_tx("open", lambda tx: tx.open_secure_attempt(Round(1), Attempt(2), DIGEST))
    begun.run_tx("put", lambda tx: tx.put_answer(SiteId("a"), _answer()))
    with pytest.raises(BrokenStore):
        begun.run_tx("put", lambda tx: tx.put_answer(SiteId("a"), _answer(message=b"other")))
    with pytest.raises(BrokenStore):
        begun.run_tx("open", lambda tx: tx.open_secure_attempt(Round(1), Attempt(2), DIGEST))
    assert begun.run_tx("read", lambda tx: tx.answers(Round(1), Attempt(2))) == (("a", _answer()),)


def test_the_next_attempt_forgets_what_was_said_in_the_last_one(begun):
    begun.run_tx("open", lambda tx: tx.open_secure_attempt(Round(1), Attempt(2), DIGEST))
    begun.run_tx("put", lambda tx: tx.put_answer(SiteId("a"), _answer()))
    begun.run_tx("open", lambda tx: tx.open_secure_attempt(Round(1), Attempt(3), DIGEST))
    assert begun.run_tx("read", lambda tx: tx.answers(Round(1), Attempt(2))) == ()
    assert begun.run_tx("read", lambda tx: tx.audit_root(Round(1), Attempt(2))) == DIGEST, (
        "roots stay: they belong to what was signed"
    )

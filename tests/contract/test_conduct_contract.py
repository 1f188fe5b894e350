"""The journal's part about conduct, gate and noise: in memory, SQLite in a file, and a file reopened between any two steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.conduct import GateRecord, SetAside, SiteFlag
from coordinator.state import SiteScores
from coordinator.store.memory import MemoryJournal
from coordinator.store.sqlite import SqliteJournal
from fedmentor.errors import BrokenStore
from fedmentor.ids import Attempt, Digest, Round, SiteId
from fedmentor.robust import Flag
from fedmentor.testing.clock import ManualClock

R, A = Round(3), Attempt(2)
SCORES = SiteScores(SiteId("a"), R, Digest("1" * 64), 4, 5, 0.5, 0.4, None)
RECORD = GateRecord(R, A, Digest("1" * 64), 4, 0.0125, passed=True)
SEED = bytes(range(32))


class Reopened:
    """Nothing survives from one transaction to the next but the file."""

    def __init__(self, path):
        self._path = path

    def run_tx(self, name, fn):
        """See Journal."""
        journal = SqliteJournal(self._path, ManualClock())
        try:
            return journal.run_tx(name, fn)
        finally:
            journal.close()

    def close(self):
        """See Journal."""


@pytest.fixture(params=["memory", "sqlite", "reopened"])
def journal(request, tmp_path):
    made = {
        "memory": lambda: MemoryJournal(ManualClock()),
        "sqlite": lambda: SqliteJournal(tmp_path / "j.sqlite", ManualClock()),
        "reopened": lambda: Reopened(tmp_path / "j.sqlite"),
    }[request.param]()
    yield made
    made.close()


def do(journal, name, *arguments):
    return journal.run_tx("test", lambda tx: getattr(tx, name)(*arguments))


def test_a_new_journal_says_nothing(journal):
    assert do(journal, "flags") == do(journal, "set_aside") == do(journal, "gate_records") == ()
    assert do(journal, "shares", R, A) == {}
    assert do(journal, "candidate_scores", R, A) == ()
    assert do(journal, "noise_seed", R, A) is None


def test_flags_are_kept_once_and_sorted(journal):
    flags = [SiteFlag(R, A, SiteId(site), kind) for site, kind in [("b", Flag.ZERO), ("a", Flag.REFUSED), ("a", Flag.COPY)]]
    assert [do(journal, "put_flag", flag) for flag in flags] == [True] * 3
    assert do(journal, "put_flag", flags[0]) is False
    assert do(journal, "flags") == (flags[2], flags[1], flags[0])


def test_who_is_set_aside_stays_so_since_the_first_time(journal):
    first = SetAside(SiteId("b"), R)
    assert do(journal, "put_set_aside", first)
    assert not do(journal, "put_set_aside", replace(first, round=Round(9)))
    do(journal, "put_set_aside", SetAside(SiteId("a"), Round(5)))
    assert do(journal, "set_aside") == (SetAside(SiteId("a"), Round(5)), first)


def test_shares_of_a_second_try_replace_the_first(journal):
    do(journal, "put_shares", R, A, {SiteId("b"): 0.25, SiteId("a"): 0.75})
    do(journal, "put_shares", R, A, {SiteId("b"): 1.0})
    assert do(journal, "shares", R, A) == {"b": 1.0}
    assert do(journal, "shares", R, Attempt(1)) == {}


def test_candidate_scores_are_kept_once_for_each_attempt(journal):
    assert do(journal, "put_candidate_scores", A, SCORES)
    assert not do(journal, "put_candidate_scores", A, replace(SCORES, dice=0.9))
    assert do(journal, "put_candidate_scores", Attempt(1), replace(SCORES, hd95=2.5, hd95_undefined=3))
    assert do(journal, "candidate_scores", R, A) == (SCORES,)
    assert do(journal, "candidate_scores", R, Attempt(1)) == (replace(SCORES, hd95=2.5, hd95_undefined=3),)
    assert do(journal, "scores") == (), "a candidate's scores are no round's until it is published"


def test_the_gate_speaks_once_in_an_attempt(journal):
    do(journal, "put_gate_record", RECORD)
    with pytest.raises(BrokenStore):
        do(journal, "put_gate_record", replace(RECORD, passed=False))
    do(journal, "put_gate_record", replace(RECORD, attempt=Attempt(1), passed=False))
    assert do(journal, "gate_records") == (replace(RECORD, attempt=Attempt(1), passed=False), RECORD)


def test_noise_is_drawn_once_and_forgotten(journal):
    do(journal, "put_noise_seed", R, A, SEED)
    with pytest.raises(BrokenStore):
        do(journal, "put_noise_seed", R, A, bytes(32))
    assert do(journal, "noise_seed", R, A) == SEED
    assert do(journal, "noise_seed", R, Attempt(1)) is None
    do(journal, "forget_noise")
    assert do(journal, "noise_seed", R, A) is None


def test_a_transaction_that_fails_keeps_nothing(journal):
    def write(tx):
        tx.put_flag(SiteFlag(R, A, SiteId("a"), Flag.ZERO))
        tx.put_set_aside(SetAside(SiteId("a"), R))
        tx.put_shares(R, A, {SiteId("a"): 1.0})
        tx.put_candidate_scores(A, SCORES)
        tx.put_gate_record(RECORD)
        tx.put_noise_seed(R, A, SEED)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised above
        journal.run_tx("test", write)
    test_a_new_journal_says_nothing(journal)


def test_a_forgotten_seed_is_not_in_the_file(tmp_path):
    path = tmp_path / "j.sqlite"
    journal = SqliteJournal(path, ManualClock())
    do(journal, "put_noise_seed", R, A, SEED)
    do(journal, "forget_noise")
    journal.close()  # which brings the log into the file and removes it
    assert SEED not in b"".join(file.read_bytes() for file in tmp_path.iterdir())

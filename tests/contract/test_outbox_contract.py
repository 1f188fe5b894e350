"""One suite, every Outbox: in memory and on disk. What only a disk can promise stands at the end."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fed_node.outbox import MemoryOutbox, Outbox, UpdateStage
from fed_node.outbox_store import DATABASE_FILE, SqliteOutbox
from fedmentor.errors import BrokenStore, ConfigError, PolicyRefusal
from fedmentor.federation import Receipt, RoundRef, RunManifest, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.tensors import sha256_hex

RUN, OTHER_RUN, SITE = RunId("run"), RunId("other"), SiteId("north")
BASE = Digest("b" * 64)
WORDS = bytes(range(256)) * 8


def ref(number: int = 0, attempt: int = 1, run: RunId = RUN) -> RoundRef:
    return RoundRef(run, Round(number), Attempt(attempt))


def header(at: RoundRef, words: bytes = WORDS) -> UpdateHeader:
    return UpdateHeader(at, sha256_hex([words]), len(words), BASE)


def receipt(at: RoundRef, words: bytes = WORDS) -> Receipt:
    return Receipt(at, SITE, sha256_hex([words]), "2026-01-01T00:00:00+00:00")


def manifest(rounds: int = 3, run: RunId = RUN) -> RunManifest:
    return RunManifest(
        run=run,
        roster=(SITE, SiteId("south"), SiteId("west")),
        rounds=rounds,
        architecture="quadratic-v1",
        tensors=(("vector", (2,)),),
        initial_model=BASE,
    )


@pytest.fixture(params=["memory", "sqlite"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outbox]:
    made: Outbox = MemoryOutbox() if request.param == "memory" else SqliteOutbox(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_an_update_that_was_put_is_ready_with_its_bytes(outbox: Outbox):
    assert outbox.find(ref()) is None
    outbox.put(header(ref()), WORDS)
    (entry,) = outbox.ready()
    assert (entry.header, entry.words, entry.stage) == (header(ref()), WORDS, UpdateStage.READY)
    assert outbox.find(ref(attempt=7)) == entry, "the attempt is no part of the key"


def test_putting_the_same_update_again_changes_nothing(outbox: Outbox):
    outbox.put(header(ref()), WORDS)
    outbox.mark_receipted(receipt(ref()))
    assert outbox.put(header(ref(attempt=2)), WORDS).stage is UpdateStage.RECEIPTED
    assert outbox.ready() == ()


def test_a_second_update_of_a_round_is_refused(outbox: Outbox):
    outbox.put(header(ref()), WORDS)
    with pytest.raises(PolicyRefusal, match="another update"):
        outbox.put(header(ref(attempt=2), b"other"), b"other")
    with pytest.raises(PolicyRefusal, match="another update"):
        outbox.put(replace(header(ref()), base_model=Digest("c" * 64)), WORDS)
    assert [entry.words for entry in outbox.ready()] == [WORDS]


def test_a_receipt_ends_the_wait_and_is_kept(outbox: Outbox):
    outbox.put(header(ref()), WORDS)
    outbox.mark_receipted(receipt(ref()))
    entry = outbox.find(ref())
    assert entry is not None
    assert entry.receipt == receipt(ref())
    assert entry.words == WORDS, "another attempt of this round may still ask for them"
    assert outbox.ready() == ()
    outbox.mark_receipted(receipt(ref()))
    assert outbox.find(ref()) == entry


def test_a_dropped_update_keeps_its_reason_and_goes_out_again_under_another_attempt(outbox: Outbox):
    outbox.put(header(ref()), WORDS)
    outbox.mark_dropped(ref(), "round 0 is closed")
    dropped = outbox.find(ref())
    assert dropped is not None
    assert (dropped.stage, dropped.reason) == (UpdateStage.DROPPED, "round 0 is closed")
    assert outbox.ready() == ()
    again = outbox.readdress(ref(attempt=2))
    assert (again.header, again.words, again.stage, again.reason) == (header(ref(attempt=2)), WORDS, UpdateStage.READY, "")
    assert outbox.ready() == (again,)


def test_only_a_ready_update_can_be_dropped(outbox: Outbox):
    outbox.mark_dropped(ref(), "nothing is there")
    outbox.put(header(ref()), WORDS)
    outbox.mark_receipted(receipt(ref()))
    outbox.mark_dropped(ref(), "too late to say so")
    entry = outbox.find(ref())
    assert entry is not None
    assert entry.stage is UpdateStage.RECEIPTED


def test_the_high_water_mark_survives_readdressing(outbox: Outbox):
    assert outbox.last_receipt(RUN) is None
    outbox.put(header(ref()), WORDS)
    outbox.mark_receipted(receipt(ref()))
    outbox.readdress(ref(attempt=2))
    assert outbox.last_receipt(RUN) == ref()
    outbox.mark_receipted(receipt(ref(attempt=2)))
    assert outbox.last_receipt(RUN) == ref(attempt=2)
    assert outbox.last_receipt(OTHER_RUN) is None


def test_a_receipt_for_what_was_never_put_changes_nothing(outbox: Outbox):
    outbox.mark_receipted(receipt(ref()))
    assert outbox.last_receipt(RUN) is None


def test_words_of_earlier_rounds_are_forgotten_and_their_receipts_are_not(outbox: Outbox):
    outbox.put(header(ref(0)), WORDS)
    outbox.mark_receipted(receipt(ref(0)))
    outbox.put(header(ref(0, run=OTHER_RUN)), WORDS)
    outbox.put(header(ref(1)), WORDS)
    old = outbox.find(ref(0))
    assert old is not None
    assert (old.words, old.receipt) == (b"", receipt(ref(0)))
    assert [entry.header.round for entry in outbox.ready()] == [ref(0, run=OTHER_RUN), ref(1)]
    with pytest.raises(PolicyRefusal, match="no longer kept"):
        outbox.readdress(ref(0, attempt=2))


def test_an_update_without_words_is_never_offered(outbox: Outbox):
    outbox.put(header(ref(0)), WORDS)
    outbox.retire(RUN)
    assert outbox.ready() == ()
    with pytest.raises(PolicyRefusal, match="no longer kept"):
        outbox.readdress(ref(0))
    with pytest.raises(PolicyRefusal, match="no longer kept"):
        outbox.readdress(ref(5))


def test_a_manifest_is_pinned_once(outbox: Outbox):
    outbox.pin(manifest())
    outbox.pin(manifest())
    with pytest.raises(PolicyRefusal, match="other rules"):
        outbox.pin(manifest(rounds=4))
    outbox.pin(manifest(rounds=4, run=OTHER_RUN))


def test_words_of_a_run_whose_end_was_missed_are_forgotten_with_the_next_run(outbox: Outbox):
    outbox.pin(manifest())
    outbox.put(header(ref()), WORDS)
    outbox.pin(manifest())
    assert [entry.words for entry in outbox.ready()] == [WORDS], "the run that is pinned already goes on"
    outbox.pin(manifest(run=OTHER_RUN))
    assert outbox.ready() == ()
    old = outbox.find(ref())
    assert old is not None
    assert old.words == b""


def test_the_pinned_manifest_can_be_asked_for(outbox: Outbox):
    assert outbox.pinned(RUN) is None
    outbox.pin(manifest())
    assert outbox.pinned(RUN) == manifest()
    assert outbox.pinned(OTHER_RUN) is None


# What only a disk can promise.


def test_everything_is_there_after_reopening(folder: Path):
    first = SqliteOutbox(folder)
    first.pin(manifest())
    first.put(header(ref(0)), WORDS)
    first.mark_receipted(receipt(ref(0)))
    first.put(header(ref(1)), WORDS)
    before = (first.find(ref(0)), first.ready(), first.last_receipt(RUN))
    first.close()
    second = SqliteOutbox(folder)
    assert (second.find(ref(0)), second.ready(), second.last_receipt(RUN)) == before
    with pytest.raises(PolicyRefusal, match="other rules"):
        second.pin(manifest(rounds=4))
    second.close()


PUT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from fed_node.outbox_store import SqliteOutbox
from fedmentor.federation import RoundRef, UpdateHeader
from fedmentor.tensors import sha256_hex
words = bytes(range(256)) * 8
outbox = SqliteOutbox(Path(sys.argv[1]))
outbox.put(UpdateHeader(RoundRef("run", 0, 1), sha256_hex([words]), len(words), "b" * 64), words)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_put_survives_kill_9_and_the_lock_does_not(folder: Path):
    killed = subprocess.run([sys.executable, "-c", PUT_AND_DIE, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    outbox = SqliteOutbox(folder)
    assert [(entry.header, entry.words) for entry in outbox.ready()] == [(header(ref()), WORDS)]
    outbox.close()


def test_a_second_node_is_kept_out_of_the_state_folder(folder: Path):
    outbox = SqliteOutbox(folder)
    with pytest.raises(ConfigError, match="another node"):
        SqliteOutbox(folder)
    outbox.close()
    SqliteOutbox(folder).close()


@pytest.mark.parametrize("made_before", [False, True])
def test_only_the_owner_reads_the_state(folder: Path, *, made_before: bool):
    if made_before:
        folder.mkdir()
        folder.chmod(0o755)
    outbox = SqliteOutbox(folder)
    outbox.put(header(ref()), WORDS)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    outbox.close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert f"{DATABASE_FILE}-wal" in modes
    assert set(modes.values()) == {0o600}


def test_damaged_words_are_found_before_they_are_sent(folder: Path):
    outbox = SqliteOutbox(folder)
    outbox.put(header(ref()), WORDS)
    outbox.close()
    path = folder / DATABASE_FILE
    data = bytearray(path.read_bytes())
    data[data.index(WORDS[:64]) + 10] ^= 1
    path.write_bytes(data)
    reopened = SqliteOutbox(folder)
    with pytest.raises(BrokenStore, match="damaged"):
        reopened.ready()
    reopened.close()


def test_another_version_and_a_file_that_is_no_database_are_refused(folder: Path):
    folder.mkdir()
    (folder / DATABASE_FILE).write_bytes(b"not a database, but long enough to be taken for one" * 100)
    with pytest.raises(BrokenStore):
        SqliteOutbox(folder)
    (folder / DATABASE_FILE).unlink()
    SqliteOutbox(folder).close()
    data = bytearray((folder / DATABASE_FILE).read_bytes())
    data[60:64] = (99).to_bytes(4, "big")
    (folder / DATABASE_FILE).write_bytes(data)
    with pytest.raises(ConfigError, match="another version"):
        SqliteOutbox(folder)


def test_a_state_folder_that_cannot_be_made_is_a_setting_to_mend(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be used"):
        SqliteOutbox(tmp_path / "file" / "state")

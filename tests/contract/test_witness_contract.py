"""One suite for both memories of a witness, and for one that is opened anew between any two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fed_node.witness_store import DATABASE_FILE, MemoryWitnessStore, Noted, SqliteWitnessStore, WitnessStore
from fedmentor.audit import EMPTY, GENESIS, AuditRecord, head_of
from fedmentor.errors import BrokenStore, ConfigError, DataError
from fedmentor.ids import Digest, Round, RunId
from fedmentor.testing.audit import ToyTrail

RUN, OTHER = RunId("toy-run"), RunId("other")
MODELS = [Digest(str(number) * 64) for number in range(3)]

TOY = ToyTrail()
TOY.append("coordinator", "create_run", run="toy-run", model=MODELS[0])
TOY.append("site a", "publish_round", round=0, model="f" * 64)
TOY.append("coordinator", "publish_round", round=0, model=MODELS[1])
SIGNED = TOY.seal()
TOY.append("coordinator", "publish_round", round=1, model=MODELS[2])
NEWER = TOY.seal()
RECORDS = TOY.records


class _Reopened:
    """Nothing survives from one call to the next but the file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            with closing(SqliteWitnessStore(self._folder)) as store:
                return getattr(store, name)(*arguments)

        return call

    def close(self) -> None:
        pass


@pytest.fixture(params=["memory", "sqlite", "reopened"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WitnessStore]:
    made = {"memory": MemoryWitnessStore, "sqlite": lambda: SqliteWitnessStore(tmp_path), "reopened": lambda: _Reopened(tmp_path)}
    with closing(made[request.param]()) as one:
        yield one


def test_a_new_memory_is_empty(store: WitnessStore):
    assert store.noted(RUN) == Noted(EMPTY, None, countersigned=False)
    assert store.hash_of(RUN, 0) is None
    assert store.model_before(RUN, Round(5)) is None
    assert not store.knows(GENESIS)


def test_records_are_kept_and_found(store: WitnessStore):
    assert store.extend(RUN, iter(RECORDS[:3])).head == head_of(RECORDS[2])
    assert store.extend(RUN, iter(RECORDS[3:])) == store.noted(RUN) == Noted(head_of(RECORDS[-1]))
    assert store.extend(RUN, iter(())) == Noted(head_of(RECORDS[-1]))
    assert [store.hash_of(RUN, record.seq) for record in RECORDS] == [record.hash for record in RECORDS]
    assert store.hash_of(RUN, len(RECORDS)) is None
    assert store.hash_of(RUN, -1) is None
    assert store.knows(RECORDS[2].hash)
    assert not store.knows(Digest("0" * 64))


def test_runs_are_kept_apart(store: WitnessStore):
    store.extend(OTHER, iter(RECORDS[:1]))
    assert store.noted(RUN) == Noted()
    assert store.hash_of(RUN, 0) is None
    assert store.model_before(RUN, Round(0)) is None
    assert store.knows(RECORDS[0].hash), "hashes cannot meet by chance"


def test_the_trail_tells_which_model_is_in_force(store: WitnessStore):
    store.extend(RUN, iter(RECORDS))
    assert [store.model_before(RUN, Round(round_)) for round_ in range(4)] == [*MODELS, MODELS[2]]


def test_a_fault_on_the_way_leaves_nothing(store: WitnessStore):
    def broken() -> Iterator[AuditRecord]:
        yield from RECORDS[:2]
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        store.extend(RUN, broken())
    assert store.noted(RUN) == Noted()
    assert store.hash_of(RUN, 0) is None
    assert not store.knows(RECORDS[0].hash)


def test_a_checkpoint_is_countersigned_once_it_is(store: WitnessStore):
    store.extend(RUN, iter(RECORDS))
    head = head_of(RECORDS[-1])
    assert store.reach(RUN, SIGNED) == Noted(head, SIGNED, countersigned=False)
    store.countersigned(RUN, NEWER)
    assert not store.noted(RUN).countersigned, "another one is noted"
    store.countersigned(RUN, SIGNED)
    assert store.noted(RUN) == Noted(head, SIGNED, countersigned=True)
    assert store.reach(RUN, SIGNED).countersigned
    assert store.extend(RUN, iter(())).countersigned
    assert store.reach(RUN, NEWER) == Noted(head, NEWER, countersigned=False)


def test_two_witnesses_cannot_write_one_record_twice(tmp_path: Path):
    with closing(SqliteWitnessStore(tmp_path)) as store:
        store.extend(RUN, iter(RECORDS[:1]))
        with pytest.raises(BrokenStore):
            store.extend(RUN, iter(RECORDS[:1]))
        assert store.noted(RUN).head == head_of(RECORDS[0])


def test_a_reader_sees_the_checkpoints_and_writes_nothing(tmp_path: Path):
    with closing(SqliteWitnessStore(tmp_path)) as store:
        store.extend(RUN, iter(RECORDS))
        store.reach(RUN, SIGNED)
        store.reach(OTHER, NEWER)
        with closing(SqliteWitnessStore(tmp_path, read_only=True)) as reader:
            assert reader.checkpoints() == (NEWER, SIGNED)
            with pytest.raises(BrokenStore):
                reader.extend(RUN, iter(()))
    assert (tmp_path / DATABASE_FILE).stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_used_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="does not exist"):
        SqliteWitnessStore(tmp_path, read_only=True)
    with closing(SqliteWitnessStore(tmp_path)) as store:
        store._database.execute("PRAGMA user_version = 9")
    with pytest.raises(ConfigError, match="another version"):
        SqliteWitnessStore(tmp_path)
    (tmp_path / DATABASE_FILE).write_bytes(b"nonsense" * 1000)
    with pytest.raises(BrokenStore):
        SqliteWitnessStore(tmp_path)


def test_a_damaged_checkpoint_is_not_taken(tmp_path: Path):
    with closing(SqliteWitnessStore(tmp_path)) as store:
        store.reach(RUN, replace(SIGNED, signature=bytes(64)))
        store._database.execute("UPDATE chain SET content = x'00'")
        with pytest.raises(DataError):
            store.noted(RUN)

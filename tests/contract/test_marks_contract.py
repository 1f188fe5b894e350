"""One suite, every Marks: in memory and on disk. What only a disk can promise stands at the end."""

from __future__ import annotations

import resource
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fed_node.marks import MARKS_FILE, FileMarks, Marks, MemoryMarks
from fedmentor.errors import BrokenStore
from fedmentor.ids import Attempt, Digest, Round, RunId
from fedmentor.secagg.memory import Mark, Persist, SiteMemory

RUN, OTHER = RunId("run"), RunId("other")
UPDATE = Digest("d" * 64)


def persist(mark: Mark, number: int = 0, attempt: int = 1, run: RunId = RUN) -> Persist:
    update = UPDATE if mark is Mark.UPLOADED else None
    return Persist(mark, run, Round(number), Attempt(attempt), Digest("a" * 64), update)


@pytest.fixture(params=["memory", "file"])
def marks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Marks]:
    if request.param == "memory":
        yield MemoryMarks()
        return
    made = FileMarks(tmp_path)
    yield made
    made.close()


def test_a_new_site_remembers_nothing(marks: Marks):
    assert marks.memory(RUN) == SiteMemory(RUN)


def test_marks_add_up_and_runs_stay_apart(marks: Marks):
    for one in (persist(Mark.ADVERTISED), persist(Mark.UPLOADED), persist(Mark.REVEALED), persist(Mark.ADVERTISED, 4, 2, OTHER)):
        marks.keep(one)
    assert marks.memory(RUN) == SiteMemory(RUN, (Round(0), Attempt(1)), (Round(0), UPDATE), Round(0))
    assert marks.memory(OTHER) == SiteMemory(OTHER, (Round(4), Attempt(2)))


def test_the_same_mark_again_changes_nothing(marks: Marks):
    marks.keep(persist(Mark.ADVERTISED))
    before = marks.memory(RUN)
    marks.keep(persist(Mark.ADVERTISED))
    assert marks.memory(RUN) == before


def test_marks_are_there_after_a_restart_and_for_their_owner_alone(tmp_path: Path):
    first = FileMarks(tmp_path)
    first.keep(persist(Mark.ADVERTISED))
    first.keep(persist(Mark.ADVERTISED))
    first.keep(persist(Mark.REVEALED))
    first.close()
    assert len((tmp_path / MARKS_FILE).read_bytes().splitlines()) == 2, "a repeat is not written again"
    assert stat.S_IMODE((tmp_path / MARKS_FILE).stat().st_mode) == 0o600
    again = FileMarks(tmp_path)
    assert again.memory(RUN).revealed_round == 0
    again.close()


def test_a_torn_last_line_is_cut_off_and_the_file_goes_on(tmp_path: Path):
    first = FileMarks(tmp_path)
    first.keep(persist(Mark.ADVERTISED))
    first.close()
    whole = (tmp_path / MARKS_FILE).read_bytes()
    (tmp_path / MARKS_FILE).write_bytes(whole + b'{"mark":"reve')
    again = FileMarks(tmp_path)
    assert again.memory(RUN) == SiteMemory(RUN, (Round(0), Attempt(1)))
    again.keep(persist(Mark.UPLOADED))
    again.close()
    lines = (tmp_path / MARKS_FILE).read_bytes().splitlines()
    assert lines[0] == whole.rstrip(b"\n")
    assert len(lines) == 2


@pytest.mark.parametrize("junk", [b"junk\n", b"{}\n", b"\n", b'{"mark":"advertised"}\n'])
def test_a_site_with_a_damaged_memory_takes_no_part(tmp_path: Path, junk: bytes):
    first = FileMarks(tmp_path)
    first.keep(persist(Mark.REVEALED))
    first.close()
    path = tmp_path / MARKS_FILE
    path.write_bytes(junk + path.read_bytes())
    with pytest.raises(BrokenStore, match="memory of secure aggregation is damaged"):
        FileMarks(tmp_path)


def test_a_folder_that_is_none(tmp_path: Path):
    with pytest.raises(BrokenStore, match="marks of secure aggregation failed"):
        FileMarks(tmp_path / "missing")


def test_a_mark_that_does_not_fit_on_the_disk_is_an_error_and_not_a_mark(tmp_path: Path):
    with closing(FileMarks(tmp_path)) as made:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # room for a part of a line
        try:
            with pytest.raises(BrokenStore, match="marks of secure aggregation failed"):
                made.keep(persist(Mark.ADVERTISED))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert made.memory(RUN) == SiteMemory(RUN)
    with closing(FileMarks(tmp_path)) as again:
        assert again.memory(RUN) == SiteMemory(RUN), "the torn line is gone"

"""Children end with their block, however it ends, and their errors are told in one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import pytest

from fedmentor.errors import PeerUnreachable
from study.processes import ChildFailed, children, complete_lines, wait_for_file


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


PYTHON = (sys.executable, "-c")
SLEEP = "import time; open({ready!r}, 'w').write('up'); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP


@pytest.mark.parametrize("script", [SLEEP, STUBBORN], ids=["obedient", "ignores SIGTERM"])
def test_a_child_ends_with_the_block_even_on_an_error(tmp_path, script):
    ready = tmp_path / "ready"
    pids = []

    def fail_inside() -> None:
        with children(PYTHON, grace_s=1.0) as group:
            child = group.start("sleeper", [script.format(ready=str(ready))], tmp_path)
            wait_for_file(ready, child, timeout_s=60)
            pids.append(child.process.pid)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert not alive(pids[0])


def test_the_error_of_a_child_names_its_last_error_line(tmp_path):
    with children() as group:
        child = group.start("child", ["no-such-command"], tmp_path)
        child.process.wait()
        assert child.failed()
        error = child.error()
    assert isinstance(error, ChildFailed)
    assert error.code == 2
    assert "no-such-command" in error.message
    assert str(tmp_path / "child.log") in error.cure


def test_waiting_for_a_file_ends_when_the_child_ends(tmp_path):
    with children() as group:
        child = group.start("child", ["no-such-command"], tmp_path)
        with pytest.raises(ChildFailed):
            wait_for_file(tmp_path / "never", child, timeout_s=60)


def test_waiting_for_a_file_has_a_deadline(tmp_path):
    with children() as group:
        child = group.start("child", ["--help"], tmp_path)
        with pytest.raises((PeerUnreachable, ChildFailed)):
            wait_for_file(tmp_path / "never", child, timeout_s=0.05)


def test_a_line_is_passed_on_once_it_is_complete(tmp_path):
    path = tmp_path / "out"
    with path.open("w") as writer, path.open() as reader:
        writer.write("one\ntw")
        writer.flush()
        assert list(complete_lines(reader)) == ["one\n"]
        writer.write("o\nthree\n")
        writer.flush()
        assert list(complete_lines(reader)) == ["two\n", "three\n"]
        assert list(complete_lines(reader)) == []


def test_a_second_ctrl_c_cuts_the_grace_short_and_still_leaves_nobody(tmp_path):
    ready = tmp_path / "ready"
    with contextlib.suppress(KeyboardInterrupt), children(PYTHON, grace_s=600.0) as group:
        child = group.start("stubborn", [STUBBORN.format(ready=str(ready))], tmp_path)
        wait_for_file(ready, child, timeout_s=60)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert child.process.returncode == -signal.SIGKILL
    assert not alive(child.process.pid)


TIED = """
import os, sys, time
from study.child import end_with
end_with(int(sys.argv[2]))
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path):
    ready, script = tmp_path / "ready", tmp_path / "tied.py"
    script.write_text(TIED)
    parent = "import os, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:], str(os.getpid())])"
    with children(PYTHON) as group:
        started = group.start("parent", [parent, str(script), str(ready)], tmp_path)
        pid = int(wait_for_file(ready, started, timeout_s=60))
        started.process.kill()
        started.process.wait()
        deadline = time.monotonic() + 60
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_child_whose_parent_is_gone_does_not_begin(tmp_path):
    script = tmp_path / "tied.py"
    script.write_text(TIED)
    with children((sys.executable,)) as group:
        child = group.start("orphan", [str(script), "unused", "1"], tmp_path)
        assert child.process.wait(60) == 128 + signal.SIGTERM

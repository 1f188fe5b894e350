"""The keeper with a small program in the server's place: however its owner ends, the server ends and leaves nothing."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from fedmentor.errors import DigestMismatch
from fedmentor.teacher.endpoint import STATE_FILE
from fedmentor.teacher.payload import decode_error
from teacher_service.keeper import LONGEST_CONSOLE_BYTES, SERVER_DIED, Plan
from teacher_service.settings import CONSOLE_LOG, KEY_FILE, LOG_FOLDER, REFUSAL_FILE, TEMPORARY_FOLDER

SERVER = """
import os, pathlib, subprocess, sys, time
worker = subprocess.Popen(["sleep", "600"])
pathlib.Path("pids").write_text(f"{os.getpid()} {worker.pid}")
"""


@pytest.fixture
def run_folder(tmp_path):
    """What teacher_service.server prepares."""
    for name in (LOG_FOLDER, TEMPORARY_FOLDER):
        (tmp_path / name).mkdir()
    (tmp_path / KEY_FILE).write_text("{}")
    return tmp_path


def keep(run_folder, program, short_name="", **plan):
    command = [sys.executable, "-c", program]
    Plan(command=command, management_port=1, renew_s=3600, short_name=short_name, **plan).write(run_folder)
    keeper = subprocess.Popen(
        [sys.executable, "-m", "teacher_service.keeper", str(run_folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not (run_folder / "pids").exists() or not (run_folder / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return keeper, [int(pid) for pid in (run_folder / "pids").read_text().split()]


def assert_gone(pids):
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end_of_input(keeper):
    keeper.stdin.close()


def terminate(keeper):
    keeper.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("ask", [end_of_input, terminate])
def test_server_and_worker_end_and_nothing_is_left(run_folder, ask):
    keeper, pids = keep(run_folder, SERVER + "time.sleep(600)")
    with keeper:
        ask(keeper)
        assert keeper.wait(30) == 0
    assert_gone(pids)
    assert sorted(path.name for path in run_folder.iterdir()) == [LOG_FOLDER, "pids"]


def test_the_short_name_of_the_temporary_folder_is_removed_with_it(run_folder, tmp_path_factory):
    link = tmp_path_factory.mktemp("short") / "t"
    link.symlink_to(run_folder / TEMPORARY_FOLDER)
    keeper, pids = keep(run_folder, SERVER + "time.sleep(600)", str(link))
    with keeper:
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert_gone(pids)
    assert not link.parent.exists()


def test_a_server_that_ends_by_itself_is_noticed_and_its_worker_ends(run_folder):
    keeper, pids = keep(run_folder, SERVER + "sys.exit(3)")
    with keeper:
        assert keeper.wait(30) == SERVER_DIED
    assert_gone(pids)
    assert not (run_folder / KEY_FILE).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells a child of its parent's death on Linux only")
def test_a_killed_keeper_takes_the_server_along(run_folder):
    keeper, (server, worker) = keep(run_folder, SERVER + "time.sleep(600)")
    with keeper:
        keeper.kill()
    assert_gone([server])
    os.kill(worker, signal.SIGKILL)  # the small program does not stop its worker; TorchServe does


def test_interrupts_from_the_terminal_do_not_reach_the_server(run_folder):
    keeper, pids = keep(run_folder, SERVER + "time.sleep(600)")
    with keeper:
        keeper.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            keeper.wait(0.3)
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert_gone(pids)


def next_life(run_folder, before):
    """Wait until the server's program wrote other process ids than before."""
    deadline = time.monotonic() + 30
    while True:
        text = (run_folder / "pids").read_text()
        if len(text.split()) == 2 and [int(pid) for pid in text.split()] != before:
            return [int(pid) for pid in text.split()]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_that_was_up_and_dies_is_started_again_without_its_leavings(run_folder):
    keeper, first = keep(run_folder, SERVER + "time.sleep(600)")
    with keeper:
        (run_folder / STATE_FILE).write_text("{}")
        (run_folder / TEMPORARY_FOLDER / "socket").touch()
        (run_folder / TEMPORARY_FOLDER / "models").mkdir()
        os.kill(first[0], signal.SIGKILL)
        second = next_life(run_folder, first)
        assert_gone(first)  # the worker of the dead server as well
        assert keeper.poll() is None
        assert list((run_folder / TEMPORARY_FOLDER).iterdir()) == []
        assert (run_folder / STATE_FILE).exists()
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert_gone(second)
    assert not (run_folder / STATE_FILE).exists()


def test_a_server_that_dies_again_and_again_is_given_up(run_folder):
    (run_folder / STATE_FILE).write_text("{}")
    keeper, pids = keep(run_folder, SERVER + "sys.exit(3)", most_deaths=2)
    with keeper:
        assert keeper.wait(30) == SERVER_DIED
    assert_gone(pids)
    assert not (run_folder / STATE_FILE).exists()


def test_a_server_that_lives_but_does_not_answer_is_started_again(run_folder):
    probe = [sys.executable, "-c", "import pathlib, sys; sys.exit(not pathlib.Path('healthy').exists())"]
    probe[2] = probe[2].replace("'healthy'", repr(str(run_folder / "healthy")))
    (run_folder / "healthy").touch()
    keeper, first = keep(run_folder, SERVER + "time.sleep(600)", probe=probe, probe_s=0.1, unhealthy_s=1.5)
    with keeper:
        (run_folder / STATE_FILE).write_text("{}")
        time.sleep(2.5)  # longer than unhealthy_s
        assert psutil.pid_exists(first[0])
        (run_folder / "healthy").unlink()
        second = next_life(run_folder, first)
        assert_gone(first)
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert_gone(second)


def test_a_start_that_takes_long_is_not_taken_for_a_server_that_hangs(run_folder):
    keeper, first = keep(run_folder, SERVER + "time.sleep(600)", probe=["false"], probe_s=0.1, unhealthy_s=0.3)
    with keeper:
        time.sleep(1.5)
        assert psutil.pid_exists(first[0])
        assert (run_folder / "pids").read_text() == f"{first[0]} {first[1]}"
        keeper.stdin.close()
        assert keeper.wait(30) == 0


def kept_archive(run_folder):
    """A plan's words for an archive that lies there and is what it was."""
    archive = run_folder / "teacher.mar"
    archive.write_bytes(b"checked")
    return {"archive": str(archive), "archive_sha256": hashlib.sha256(b"checked").hexdigest()}


@pytest.mark.parametrize("change", [lambda archive: archive.write_bytes(b"changed"), lambda archive: archive.unlink()])
def test_an_archive_that_was_changed_does_not_run_at_the_next_start(run_folder, change):
    lives = SERVER + "pathlib.Path('lives').open('a').write('x'); time.sleep(600)"
    keeper, first = keep(run_folder, lives, **kept_archive(run_folder))
    with keeper:
        (run_folder / STATE_FILE).write_text("{}")
        change(run_folder / "teacher.mar")
        os.kill(first[0], signal.SIGKILL)
        assert keeper.wait(30) == SERVER_DIED
    assert_gone(first)
    assert (run_folder / "lives").read_text() == "x"
    refusal = decode_error(json.loads((run_folder / REFUSAL_FILE).read_text()))
    assert isinstance(refusal, DigestMismatch)
    assert "so the teacher is not started" in refusal.message
    assert refusal.cure
    assert not (run_folder / STATE_FILE).exists()


def test_an_archive_that_is_what_it_was_is_started_again(run_folder):
    keeper, first = keep(run_folder, SERVER + "time.sleep(600)", **kept_archive(run_folder))
    with keeper:
        (run_folder / STATE_FILE).write_text("{}")
        os.kill(first[0], signal.SIGKILL)
        second = next_life(run_folder, first)
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert_gone(second)


def test_a_console_log_that_has_become_long_is_put_aside_at_the_next_start(run_folder):
    log = run_folder / LOG_FOLDER / CONSOLE_LOG
    log.write_bytes(b"x" * (LONGEST_CONSOLE_BYTES + 1))
    keeper, pids = keep(run_folder, SERVER + "print('a new life', flush=True); time.sleep(600)")
    with keeper:
        keeper.stdin.close()
        assert keeper.wait(30) == 0
    assert_gone(pids)
    assert log.read_text() in ("", "a new life\n")
    assert log.with_name(f"{CONSOLE_LOG}.1").stat().st_size == LONGEST_CONSOLE_BYTES + 1

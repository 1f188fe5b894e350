"""The keeper with a small program in the server's place: however its owner ends, the server ends and leaves nothing."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from teacher_service.keeper import SERVER_DIED, Plan
from teacher_service.settings import KEY_FILE, LOG_FOLDER, TEMPORARY_FOLDER

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


def keep(run_folder, program, short_name=""):
    Plan(command=[sys.executable, "-c", program], management_port=1, renew_s=3600, short_name=short_name).write(run_folder)
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

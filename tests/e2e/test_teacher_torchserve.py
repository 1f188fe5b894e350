"""Real TorchServe: numbers, doors, tokens, and that nothing is left behind however it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from fedmentor.cli import run
from fedmentor.errors import EXIT_INTERRUPTED, ConfigError, DigestMismatch, PortInUse, TeacherUnreachable
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Box, Prompt
from fedmentor.teacher.endpoint import STATE_FILE, Endpoint
from fedmentor.teacher.images import png_bytes
from fedmentor.teacher.payload import DESCRIBE, request_prompt
from fedmentor.teacher.prompts import central_box
from teacher_service.archive import WEIGHTS_FILE, build_archive
from teacher_service.convert import convert_bundled
from teacher_service.keeper import renew_token
from teacher_service.local import local_teacher
from teacher_service.server import ServerConfig, serving, start, stop
from teacher_service.settings import CONSOLE_LOG, KEEPER_LOG, LOG_FOLDER

pytestmark = pytest.mark.e2e

PIXELS = np.clip(np.random.default_rng(1).normal(120, 30, (180, 140)), 0, 255).astype(np.uint8)
PROMPT = Prompt((Box(20, 20, 120, 160), Box(10, 10, 70, 90)))
ROLLED = ("access_log", "model_log", "model_metrics", "ts_log", "ts_metrics")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for the tests that do it no harm."""
    with serving(ServerConfig(tmp_path_factory.mktemp("teacher"))) as running:
        yield running


@pytest.fixture
def client(server):
    """A client of that server."""
    with TorchServeTeacher(server.endpoint) as client:
        yield client


def keys(server):
    return json.loads(server.endpoint.key_file.read_text())


def family(server):
    """The keeper, Java and the worker."""
    state = json.loads((server.endpoint.key_file.parent / STATE_FILE).read_text())
    keeper = psutil.Process(state["keeper_pid"])
    return [keeper, *keeper.children(recursive=True)]


def test_torchserve_and_this_process_give_the_same_bits(client):
    local = local_teacher()
    served, here = client.soften(PIXELS, PROMPT), local.soften(PIXELS, PROMPT)
    assert served.teacher == here.teacher == client.card()
    assert served.logits.tobytes() == here.logits.tobytes()
    assert served.predicted_iou.tobytes() == here.predicted_iou.tobytes()
    assert served.content == here.content == (256, 199)


def test_a_second_question_about_a_picture_costs_no_encoding(client):
    client.soften(PIXELS, PROMPT)
    assert client.soften(PIXELS, Prompt((Box(30, 30, 90, 90),))).timings_ms["embedding_cached"] == 1.0


def test_a_bad_request_gets_its_status_and_a_stable_code(server):
    url, headers = f"{server.endpoint.url}/predictions/teacher", {"Authorization": f"Bearer {keys(server)['inference']['key']}"}
    cases = [
        ({"prompt": (None, request_prompt(PROMPT))}, 400, "bad_request"),
        ({"prompt": (None, b"{}"), "image": ("x", png_bytes(PIXELS))}, 422, "prompt_refused"),
        ({"prompt": (None, request_prompt(PROMPT)), "image": ("x", b"text")}, 422, "unreadable_image"),
        ({"prompt": (None, request_prompt(PROMPT) + b" " * (1 << 20)), "image": ("x", b"text")}, 413, "limit_exceeded"),
    ]
    for files, status, code in cases:
        response = httpx.post(url, files=files, headers=headers, timeout=60)
        assert (response.status_code, response.json()["status"], response.json()["code"]) == (status, status, code)


def test_a_readable_answer_is_json(server):
    response = httpx.post(
        f"{server.endpoint.url}/predictions/teacher",
        files={
            "image": ("x.png", png_bytes(PIXELS), "image/png"),
            "prompt": (None, request_prompt(PROMPT, "json"), "application/json"),
        },
        headers={"Authorization": f"Bearer {keys(server)['inference']['key']}"},
        timeout=60,
    )
    assert response.headers["content-type"].startswith("application/json")
    assert [item["area_px"] > 0 for item in response.json()["objects"]] == [True, True]


def test_every_door_but_the_metrics_needs_a_token(server):
    ports = server.ports
    assert httpx.get(f"http://127.0.0.1:{ports.inference}/ping").status_code == 400
    assert (
        httpx.post(f"http://127.0.0.1:{ports.inference}/predictions/teacher", data={"prompt": DESCRIBE.decode()}).status_code == 400
    )
    assert httpx.get(f"http://127.0.0.1:{ports.management}/models").status_code == 400


def test_no_model_can_be_registered_even_with_the_management_token(server):
    response = httpx.post(
        f"http://127.0.0.1:{server.ports.management}/models",
        params={"url": "http://127.0.0.1:9/evil.mar"},
        headers={"Authorization": f"Bearer {keys(server)['management']['key']}"},
    )
    assert response.status_code == 405


def test_every_door_listens_on_loopback_only(server):
    java = family(server)[1]
    listening = {connection.laddr for connection in java.net_connections("tcp") if connection.status == psutil.CONN_LISTEN}
    assert {address.port for address in listening} == set(vars(server.ports).values())
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_the_token_is_for_its_owner_only(server):
    run_folder = server.endpoint.key_file.parent
    assert server.endpoint.key_file.stat().st_mode & 0o077 == 0
    assert run_folder.stat().st_mode & 0o077 == 0
    secrets = [keys(server)[kind]["key"] for kind in ("inference", "management", "API")]
    text = "".join(path.read_text(errors="replace") for path in run_folder.rglob("*.log")) + (run_folder / STATE_FILE).read_text()
    assert not any(secret in text for secret in secrets)


def test_a_renewed_token_is_picked_up_by_a_client_that_holds_the_old_one(server, client):
    client.describe()
    before = keys(server)["inference"]["key"]
    renew_token(server.endpoint.key_file, server.ports.management)
    assert keys(server)["inference"]["key"] != before
    assert client.describe() == server.card


def test_a_wrong_token_is_told(server, tmp_path):
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "wrong"}}')
    with (
        TorchServeTeacher(Endpoint(server.endpoint.url, tmp_path / "key_file.json")) as stranger,
        pytest.raises(TeacherUnreachable, match="refuses the token"),
    ):
        stranger.describe()


def test_a_second_server_in_the_same_folder_is_refused(server):
    with pytest.raises(ConfigError, match="already running"):
        start(ServerConfig(server.endpoint.key_file.parent))
    assert server.alive()


def test_a_port_in_use_is_refused(server, tmp_path):
    with pytest.raises(PortInUse):
        start(ServerConfig(tmp_path, port=server.ports.inference))


def test_status_and_query_find_the_running_teacher(server, tmp_path, capfd):
    run_folder = str(server.endpoint.key_file.parent)
    Image.fromarray(PIXELS).save(tmp_path / "x.png")
    assert run(["teacher", "status", "--run-dir", run_folder, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["teacher"] == server.card.to_json()
    assert run(["teacher", "query", str(tmp_path / "x.png"), "--box", "20,20,120,160", "--run-dir", run_folder]) == 0
    assert "lite-medsam" in capfd.readouterr().out
    elsewhere = ["--url", server.endpoint.url, "--key-file", str(server.endpoint.key_file), "--json"]
    assert run(["teacher", "query", str(tmp_path / "x.png"), "--auto", "central", *elsewhere]) == 0
    assert json.loads(capfd.readouterr().out)["prompt"] == Prompt(central_box(PIXELS.shape)).to_json()


def test_a_killed_worker_comes_back_and_the_client_waits_for_it(server, client):
    before = client.soften(PIXELS, PROMPT)
    worker = family(server)[-1]
    worker.kill()
    after = client.soften(PIXELS, PROMPT)
    assert after.logits.tobytes() == before.logits.tobytes()
    assert family(server)[-1].pid != worker.pid


def test_a_killed_server_comes_back_and_the_client_waits_for_it(server, client):
    before = client.soften(PIXELS, PROMPT)
    keeper, java, worker = family(server)[:3]
    java.kill()
    after = client.soften(PIXELS, PROMPT)
    assert after.logits.tobytes() == before.logits.tobytes()
    assert server.alive()
    again = family(server)
    assert again[0] == keeper
    assert java not in again
    assert worker not in again
    assert not psutil.pid_exists(worker.pid) or worker.status() == psutil.STATUS_ZOMBIE


def test_requests_make_logs_longer_that_have_an_end_and_no_other(server, client):
    logs = server.endpoint.key_file.parent / LOG_FOLDER
    client.soften(PIXELS, PROMPT)
    console, serving_log = (logs / CONSOLE_LOG).read_bytes(), logs / "ts_log.log"
    before = serving_log.stat().st_size
    for _ in range(20):
        client.soften(PIXELS, PROMPT)
    time.sleep(0.5)
    assert (logs / CONSOLE_LOG).read_bytes() == console
    assert b"POST" not in console
    assert serving_log.stat().st_size > before
    assert {path.name for path in logs.iterdir()} <= {CONSOLE_LOG, KEEPER_LOG, *(f"{name}.log" for name in ROLLED)}


def test_the_keepers_probe_tells_a_server_that_answers_from_one_that_does_not(server, tmp_path):
    probe = [sys.executable, "-m", "teacher_service.probe"]
    assert subprocess.run([*probe, str(server.endpoint.key_file.parent)], check=False, timeout=120).returncode == 0
    state = json.loads((server.endpoint.key_file.parent / STATE_FILE).read_text())
    (tmp_path / STATE_FILE).write_text(json.dumps({**state, "url": "http://127.0.0.1:1"}))
    assert subprocess.run([*probe, str(tmp_path)], check=False, timeout=120).returncode == 1
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "wrong"}}')
    (tmp_path / STATE_FILE).write_text(json.dumps({**state, "key_file": str(tmp_path / "key_file.json")}))
    assert subprocess.run([*probe, str(tmp_path)], check=False, timeout=120).returncode == 1
    assert subprocess.run([*probe, str(tmp_path / "nowhere")], check=False, timeout=120).returncode == 1


def test_stop_finishes_what_was_taken_and_tells_the_rest_to_come_again(tmp_path):
    running = start(ServerConfig(tmp_path))
    answered, refused = [], []

    def ask(seed):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
        with TorchServeTeacher(running.endpoint, Patience(busy_s=0.0, absent_s=0.0, lost_s=0.0)) as client:
            try:
                answered.append(client.soften(pixels, Prompt((Box(8, 8, 56, 56),))))
            except TeacherUnreachable as error:
                refused.append(error.message)

    with ThreadPoolExecutor(12) as pool:  # three times what the worker takes at once
        asked = [pool.submit(ask, seed) for seed in range(12)]
        while not answered:  # the worker has taken the first batch and is at the second
            time.sleep(0.02)
        stop(tmp_path)
        for each in asked:
            each.result()
    running.stop()
    assert len(answered) + len(refused) == 12
    assert refused
    assert set(refused) == {"the teacher is being stopped"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use this machine's GPU")
def test_a_gpu_that_torch_cannot_use_is_left_alone(tmp_path, monkeypatch):
    """TorchServe asks the driver's own tool, and gives the worker a GPU; the worker's torch is a build for processors."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\nprintf 'index\\n0\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    with serving(ServerConfig(tmp_path / "run")) as running, TorchServeTeacher(running.endpoint) as client:
        served = client.soften(PIXELS, PROMPT)
    assert served.logits.tobytes() == local_teacher().soften(PIXELS, PROMPT).logits.tobytes()
    assert "Number of GPUs: 1" in (tmp_path / "run" / LOG_FOLDER / "ts_log.log").read_text()


def test_weights_that_were_changed_after_packing_are_not_served(tmp_path):
    convert_bundled(tmp_path / WEIGHTS_FILE)
    archive = build_archive(tmp_path / WEIGHTS_FILE, tmp_path / "teacher.mar")
    with zipfile.ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    members[WEIGHTS_FILE] = members[WEIGHTS_FILE][:-1] + bytes([members[WEIGHTS_FILE][-1] ^ 1])  # one bit of one weight
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    with pytest.raises(DigestMismatch, match="not those that were packed"):
        start(ServerConfig(tmp_path / "run", archive=archive))
    assert not (tmp_path / "run" / STATE_FILE).exists()


def test_an_archive_that_is_changed_in_place_while_it_is_served_never_runs(tmp_path):
    convert_bundled(tmp_path / WEIGHTS_FILE)
    archive = build_archive(tmp_path / WEIGHTS_FILE, tmp_path / "teacher.mar")
    with serving(ServerConfig(tmp_path / "run", archive=archive)) as running, TorchServeTeacher(running.endpoint) as client:
        archive.write_bytes(b"changed")
        family(running)[1].kill()
        assert client.describe() == running.card  # the copy is what it was
        packed = tmp_path / "run" / "store" / "teacher.mar"
        packed.chmod(0o600)
        with packed.open("r+b") as file:
            file.write(b"changed")
        family(running)[1].kill()
        with pytest.raises(DigestMismatch, match="was changed after it was checked"):
            running.wait(60)


SERVE = "import sys; from fedmentor.cli import main; sys.argv = ['fedmentor', 'teacher', 'serve', '--run-dir', sys.argv[1]]; main()"


def serve_in_a_process(run_folder):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(run_folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (run_folder / STATE_FILE).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    state = json.loads((run_folder / STATE_FILE).read_text())
    keeper = psutil.Process(state["keeper_pid"])
    return process, [keeper, *keeper.children(recursive=True)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGKILL, -9)])
def test_serve_stops_everything_however_it_ends(tmp_path, number, code):
    process, processes = serve_in_a_process(tmp_path)
    assert len(processes) == 3
    process.send_signal(number)
    output, _errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"{tmp_path / 'key_file.json'}" in output or number == signal.SIGKILL
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert not (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / "key_file.json").exists()


def test_stop_from_elsewhere_leaves_no_process_no_port_and_no_token(tmp_path):
    process, processes = serve_in_a_process(tmp_path)
    ports = json.loads((tmp_path / STATE_FILE).read_text())["ports"].values()
    endpoint = stop(tmp_path)
    output, _errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert output.splitlines()[-1] == "stopped"
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    for port in ports:
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", port))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.properties", "lock", "log4j2.xml", "logs", "store"]
    with TorchServeTeacher(endpoint, Patience(absent_s=0.0)) as client, pytest.raises(TeacherUnreachable):
        client.describe()

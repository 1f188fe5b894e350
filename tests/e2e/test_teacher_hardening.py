"""A real TorchServe, and each of its closed settings shown to be closed."""

import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile

import grpc
import httpx
import numpy as np
import psutil
import pytest

from fedmentor.errors import ConfigError, DigestMismatch, ModelError, TeacherUnreachable
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Box, Prompt
from fedmentor.teacher.endpoint import STATE_FILE, Endpoint, read_endpoint, read_token
from fedmentor.teacher.images import png_bytes
from fedmentor.teacher.payload import decode_answer, request_prompt
from fedmentor.wire.v1.torchserve_pb2 import PredictionsRequest
from fedmentor.wire.v1.torchserve_pb2_grpc import InferenceAPIsServiceStub
from teacher_service import settings
from teacher_service.archive import HANDLER_FILE, WEIGHTS_FILE, build_archive, check_archive
from teacher_service.convert import convert_bundled
from teacher_service.java import find_java
from teacher_service.ports import choose_ports
from teacher_service.server import ServerConfig, _torchserve_home, serving

pytestmark = pytest.mark.e2e

PIXELS = np.clip(np.random.default_rng(1).normal(120, 30, (180, 140)), 0, 255).astype(np.uint8)
PROMPT = Prompt((Box(20, 20, 120, 160),))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An encrypted one; whatever holds here holds without TLS, which the other tests use."""
    with serving(ServerConfig(tmp_path_factory.mktemp("teacher"), tls=True)) as running:
        yield running


def run_folder(server):
    return server.endpoint.key_file.parent


def trusting(server):
    context = ssl.create_default_context(cafile=server.endpoint.ca_file)
    context.set_ciphers("ALL")
    return context


def other_addresses():
    """This machine's addresses beside loopback."""
    found = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET]
    return [address for address in found if not address.startswith("127.")]


def test_no_door_can_be_reached_from_another_interface(server):
    for address in other_addresses():
        for port in vars(server.ports).values():
            with socket.socket() as probe:
                probe.settimeout(5)
                assert probe.connect_ex((address, port)) != 0
    for port in vars(server.ports).values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_door_needs_a_token(server):
    with httpx.Client(verify=trusting(server)) as client:
        url, files = server.endpoint.url, {"prompt": (None, b"{}")}
        assert client.get(f"{url}/ping").status_code == 400
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "wrong"}):
            refused = client.post(f"{url}/predictions/teacher", files=files, headers=headers)
            assert (refused.status_code, refused.json()["type"]) == (400, "InvalidKeyException")
        assert client.get(f"http://127.0.0.1:{server.ports.management}/models").status_code == 400
    roots = grpc.ssl_channel_credentials(server.endpoint.ca_file.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{server.ports.grpc_inference}", roots) as channel:
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as caught:
                InferenceAPIsServiceStub(channel).Predictions(
                    PredictionsRequest(model_name="teacher"), metadata=metadata, timeout=20
                )
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_the_inference_token_opens_no_management(server):
    headers = {"Authorization": f"Bearer {read_token(server.endpoint.key_file)}"}
    url = f"http://127.0.0.1:{server.ports.management}"
    assert httpx.get(f"{url}/models", headers=headers).status_code == 400
    assert httpx.put(f"{url}/models/teacher?min_worker=0", headers=headers).status_code == 400


@pytest.mark.parametrize("door", ["url", "grpc_url"])
def test_both_doors_speak_tls_with_the_servers_own_certificate_only(server, door):
    endpoint = read_endpoint(run_folder(server), door)
    assert endpoint.url.startswith(("https://", "grpcs://"))
    with TorchServeTeacher(endpoint) as client:
        assert client.soften(PIXELS, PROMPT).teacher == server.card
    patience = Patience(answer_s=10.0, busy_s=0.0, absent_s=0.0)
    with TorchServeTeacher(Endpoint(endpoint.url, endpoint.key_file), patience) as stranger, pytest.raises(TeacherUnreachable):
        stranger.describe()
    plain = endpoint.url.replace("https://", "http://").replace("grpcs://", "grpc://")
    with TorchServeTeacher(Endpoint(plain, endpoint.key_file), patience) as naive, pytest.raises(TeacherUnreachable):
        naive.describe()


def test_the_keepers_probe_gets_its_prediction_through_tls(server):
    probe = [sys.executable, "-m", "teacher_service.probe", str(run_folder(server))]
    assert subprocess.run(probe, check=False, timeout=120).returncode == 0


def test_secrets_are_for_their_owner_only(server):
    folder = run_folder(server)
    assert folder.stat().st_mode & 0o077 == 0
    for name in (settings.KEY_FILE, settings.KEY_PEM):
        assert (folder / name).stat().st_mode & 0o077 == 0


def test_a_streaming_call_cannot_take_the_worker_down(server):
    keeper = psutil.Process(json.loads((run_folder(server) / STATE_FILE).read_text())["keeper_pid"])
    worker = keeper.children(recursive=True)[-1].pid
    request = PredictionsRequest(model_name="teacher", input={"image": png_bytes(PIXELS), "prompt": request_prompt(PROMPT)})
    bad = PredictionsRequest(model_name="teacher", input={"image": b"text"})
    metadata = (("authorization", f"Bearer {read_token(server.endpoint.key_file)}"),)
    roots = grpc.ssl_channel_credentials(server.endpoint.ca_file.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{server.ports.grpc_inference}", roots) as channel:
        stub = InferenceAPIsServiceStub(channel)
        (answer,) = stub.StreamPredictions(request, metadata=metadata, timeout=60)
        assert decode_answer(answer.prediction).prompt == PROMPT
        (refusal,) = stub.StreamPredictions(bad, metadata=metadata, timeout=60)
        assert json.loads(refusal.prediction)["code"] == "unreadable_image"
    with TorchServeTeacher(server.endpoint) as client:
        assert client.describe() == server.card
    assert keeper.children(recursive=True)[-1].pid == worker


def test_logs_hold_no_token_no_prompt_and_no_picture(server):
    with httpx.Client(verify=trusting(server)) as client:
        headers = {"Authorization": f"Bearer {read_token(server.endpoint.key_file)}"}
        files = {"image": ("patient-4711.png", b"secret-pixels"), "prompt": (None, b'{"boxes": [[1.2345, 0, 9, 9]]}')}
        assert client.post(f"{server.endpoint.url}/predictions/teacher", files=files, headers=headers).status_code == 422
    time.sleep(0.5)
    text = "".join(path.read_text(errors="replace") for path in (run_folder(server) / settings.LOG_FOLDER).iterdir())
    assert "unreadable_image" in text
    for secret in (read_token(server.endpoint.key_file), "patient-4711", "secret-pixels", "1.2345"):
        assert secret not in text


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """TorchServe under our settings with the outermost lock opened, the model API, to see whether the inner ones hold."""
    folder = tmp_path_factory.mktemp("opened")
    for name in (settings.TEMPORARY_FOLDER, settings.STORE_FOLDER, settings.LOG_FOLDER):
        (folder / name).mkdir()
    ports = choose_ports()
    text = settings.properties(folder, settings.Doors(ports), 60.0)
    (folder / settings.PROPERTIES_FILE).write_text(text.replace("enable_model_api=false", "enable_model_api=true"))
    (folder / settings.LOGGING_FILE).write_text(settings.logging())
    command = settings.command(find_java(), _torchserve_home(), folder, folder / settings.TEMPORARY_FOLDER, 256)[:-2]  # no model
    environment = settings.environment({"PATH": "/usr/bin:/bin", "TS_ALLOWED_URLS": ".*"}, folder, 1)
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=console, stderr=console, start_new_session=True)
    deadline = time.monotonic() + 60
    while not (folder / settings.KEY_FILE).exists() or httpx_down(ports):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield folder, ports
    process.terminate()
    process.wait(30)


def httpx_down(ports):
    try:
        httpx.get(f"http://127.0.0.1:{ports.management}/ping")
    except httpx.TransportError:
        return True
    return False


def register(opened, url):
    folder, ports = opened
    key = json.loads((folder / settings.KEY_FILE).read_text())["management"]["key"]
    return httpx.post(
        f"http://127.0.0.1:{ports.management}/models",
        params={"url": url, "initial_workers": 0},
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def tiny_archive(path, requirements=None):
    """An archive of somebody else's, with something to install."""
    model = {"modelName": "tiny", "handler": "handler.py", "modelVersion": "1.0"}
    with zipfile.ZipFile(path, "w") as archive:
        if requirements:
            model["requirementsFile"] = "requirements.txt"
            archive.writestr("requirements.txt", requirements)
        archive.writestr("handler.py", "def handle(data, context):\n    return data\n")
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model, "archiverVersion": "0.12.0"}))
    return path


def test_no_url_is_allowed_but_the_servers_own_store(opened, tmp_path):
    archive = tiny_archive(tmp_path / "tiny.mar")
    handler = lambda *arguments: http.server.SimpleHTTPRequestHandler(*arguments, directory=tmp_path)  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for url in (f"http://127.0.0.1:{web.server_port}/tiny.mar", f"file://{archive}", "s3://bucket/tiny.mar", "../tiny.mar"):
            refused = register(opened, url)
            assert refused.status_code >= 400, url
        web.shutdown()


def test_nothing_is_installed_with_a_model(opened):
    folder, _ports = opened
    tiny_archive(folder / settings.STORE_FOLDER / "tiny.mar", "fedmentor-there-is-no-such-package==9.9.9\n")
    assert register(opened, "tiny.mar").status_code == 200  # with installs on, this would end in an error of pip
    assert "fedmentor-there-is-no-such-package" not in (folder / "console.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """One of ours."""
    folder = tmp_path_factory.mktemp("archive")
    convert_bundled(folder / WEIGHTS_FILE)
    return build_archive(folder / WEIGHTS_FILE, folder / "teacher.mar")


def rebuilt(archive, target, changes):
    """The archive with members replaced or added."""
    with zipfile.ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()} | changes
    with zipfile.ZipFile(target, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return target


def test_an_archive_of_ours_is_taken(archive):
    check_archive(archive)


MANIFEST = "MAR-INF/MANIFEST.json"


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        (HANDLER_FILE, b"import os\nos.system('true')\n", ModelError, "other code"),
        ("model-config.yaml", b"minWorkers: 9\n", ModelError, "other code or settings"),
        ("extra.py", b"", ModelError, "extra.py"),
        ("requirements.txt", b"evil", ModelError, "requirements.txt"),
        (WEIGHTS_FILE, b"\0" * 64, DigestMismatch, "not those that were packed"),
        (MANIFEST, b'{"model": {"handler": "teacher.json", "modelName": "teacher"}}', ModelError, "other code"),
        (MANIFEST, b"[]", ModelError, "other code"),
        (MANIFEST, b"{", ModelError, "cannot be read"),
        ("teacher.json", b"[]", DigestMismatch, "not those"),
        ("teacher.json", b"x" * (2 << 20), ModelError, "too large"),
    ],
)
def test_what_was_changed_in_an_archive_is_found_before_anything_runs(archive, tmp_path, name, content, error, sentence):
    with pytest.raises(error, match=sentence):
        check_archive(rebuilt(archive, tmp_path / "changed.mar", {name: content}))


def test_serve_refuses_another_archive_than_the_pinned_one(archive, tmp_path):
    words = ["teacher", "serve", "--archive", str(archive), "--archive-sha256", "0" * 64, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-m", "fedmentor", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ConfigError.exit_code
    assert "not the archive that was pinned" in done.stderr

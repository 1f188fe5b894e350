"""The small parts around the server: settings, ports, Java, locks."""

import os
import socket
import tempfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from fedmentor.errors import ModelError, PortInUse, TeacherUnreachable
from fedmentor.teacher.endpoint import STATE_FILE
from fedmentor.teacher.images import MAX_IMAGE_BYTES
from teacher_service import java
from teacher_service.archive import build_archive, check_archive, model_config
from teacher_service.convert import convert_bundled
from teacher_service.payload import MAX_ANSWER_BYTES
from teacher_service.ports import choose_ports
from teacher_service.server import ServerConfig, _take_archive, is_running, short_name, start, stop
from teacher_service.settings import Doors, Ports, command, environment, properties

RUN = Path("/run/teacher")
PORTS = Ports(1, 2, 3, 4, 5)


def settings(**doors):
    return dict(line.split("=", 1) for line in properties(RUN, Doors(PORTS, **doors), 60.0).splitlines() if line and line[0] != "#")


def test_every_door_is_on_loopback():
    doors = {name: value for name, value in settings().items() if "address" in name}
    assert len(doors) == 5
    assert all("127.0.0.1" in value for value in doors.values())


def test_what_hardening_asks_for_is_set():
    found = settings()
    assert found["disable_token_authorization"] == "false"
    assert found["enable_model_api"] == "false"
    assert found["install_py_dep_per_model"] == "false"
    assert found["enable_envvars_config"] == "false"
    assert found["allowed_urls"] == "file:///run/teacher/store/.*"


def test_only_encrypted_doors_may_leave_the_machine_by_grpc():
    anywhere = "0.0.0.0"  # noqa: S104  # the point of the test
    everywhere = {name: value for name, value in settings(host=anywhere).items() if anywhere in value}
    assert set(everywhere) == {"inference_address"}
    encrypted = settings(host=anywhere, tls=True)
    assert encrypted["grpc_inference_address"] == anywhere
    assert encrypted["inference_address"] == f"https://{anywhere}:1"
    assert encrypted["enable_grpc_ssl"] == "true"
    assert {encrypted[name].split(":")[1] for name in ("management_address", "metrics_address")} == {"//127.0.0.1"}


def test_torchserve_accepts_what_the_teacher_accepts():
    assert int(settings()["max_request_size"]) > MAX_IMAGE_BYTES
    assert int(settings()["max_response_size"]) > MAX_ANSWER_BYTES


def test_another_torchserves_settings_do_not_reach_ours():
    found = environment({"TS_CONFIG_FILE": "/elsewhere", "PATH": "/bin"}, RUN, 2)
    assert "TS_CONFIG_FILE" not in found
    assert found["PATH"] == "/bin"
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["OMP_WAIT_POLICY"] == "PASSIVE"
    assert found["TEMP"] == found["TMPDIR"] == "/run/teacher/tmp"


def test_the_command_starts_one_model_and_keeps_no_snapshots():
    words = command(Path("/bin/java"), Path("/site"), RUN, RUN / "tmp", 128)
    assert words[0] == "/bin/java"
    assert "-Xmx128m" in words
    assert "-ncs" in words
    assert words[-1] == "teacher=teacher.mar"


def test_one_worker_because_its_cache_is_its_own():
    assert "maxWorkers: 1\n" in model_config()


def test_chosen_ports_are_free_and_differ():
    ports = choose_ports()
    numbers = [ports.inference, ports.management, ports.metrics, ports.grpc_inference, ports.grpc_management]
    assert len(set(numbers)) == 5
    for number in numbers:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", number))


def test_a_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(PortInUse, match="is in use"):
            choose_ports(other.getsockname()[1])


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("line", "major"), [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_202"', 1), ("no version", None)]
)
def test_the_version_of_a_java_is_read(tmp_path, line, major):
    assert java.java_version(str(script(tmp_path / "java", f"echo '{line}' >&2"))) == major


def test_a_java_that_does_not_run_has_no_version(tmp_path):
    assert java.java_version(str(tmp_path / "absent")) is None
    assert java.java_version(str(script(tmp_path / "java", "exit 1"))) is None


def test_an_old_java_is_passed_over_for_the_bundled_one(tmp_path, monkeypatch):
    script(tmp_path / "bin" / "java", "echo 'java version \"11.0.1\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = java.find_java()
    assert found.parent != tmp_path / "bin"
    assert (java.java_version(str(found)) or 0) >= java.OLDEST


def test_java_home_comes_first(tmp_path, monkeypatch):
    mine = script(tmp_path / "bin" / "java", "echo 'openjdk version \"21\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java() == mine


def test_nothing_runs_in_an_empty_folder(tmp_path):
    assert not is_running(tmp_path)
    with pytest.raises(TeacherUnreachable, match="no teacher is running"):
        stop(tmp_path)


def test_a_state_file_left_by_a_crash_is_removed(tmp_path):
    (tmp_path / STATE_FILE).write_text('{"url": "http://127.0.0.1:1", "key_file": "/nowhere", "keeper_pid": 1}')
    (tmp_path / "lock").touch()
    with pytest.raises(TeacherUnreachable, match="no teacher is running"):
        stop(tmp_path)
    assert not (tmp_path / STATE_FILE).exists()


def test_an_archive_that_is_none_is_refused_before_anything_is_started(tmp_path):
    (tmp_path / "junk.mar").write_bytes(os.urandom(64))
    with ZipFile(tmp_path / "other.mar", "w") as other:
        other.writestr("handler.py", "")
    for name, sentence in {
        "absent": "cannot be read",
        "junk": "cannot be read",
        "other": "it lacks MAR-INF/MANIFEST.json, model-config.yaml, teacher.json",
    }.items():
        with pytest.raises(ModelError, match=sentence):
            start(ServerConfig(tmp_path / "run", archive=tmp_path / f"{name}.mar"))
        assert not is_running(tmp_path / "run")


def test_a_long_path_gets_a_short_name_for_its_sockets(tmp_path, monkeypatch):
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        link = short_name(deep)
        assert link != deep
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(link / ".ts.sock.65535"))
        assert (deep / ".ts.sock.65535").is_socket()
        assert short_name(link) == link


def test_an_archive_behind_a_relative_symlink_is_taken(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "real.mar").write_bytes(b"archive")
    (tmp_path / "teacher.mar").symlink_to("real.mar")
    _take_archive(tmp_path / "teacher.mar", tmp_path / "store" / "teacher.mar")
    assert (tmp_path / "store" / "teacher.mar").read_bytes() == b"archive"


def test_an_archive_is_built_where_a_relative_path_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert_bundled(Path("weights.safetensors"))
    build_archive(Path("weights.safetensors"), Path("teacher.mar"))
    check_archive(tmp_path / "teacher.mar")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["teacher.mar", "weights.safetensors"]


def test_only_converted_weights_are_packed(tmp_path):
    (tmp_path / "w.pth").write_bytes(os.urandom(64))
    with pytest.raises(Exception, match="not a converted weights file"):
        build_archive(tmp_path / "w.pth", tmp_path / "teacher.mar")
    assert not (tmp_path / "teacher.mar").exists()

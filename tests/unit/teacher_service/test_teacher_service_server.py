"""The small parts around the server: settings, ports, Java, locks."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET
from zipfile import ZipFile

import pytest

from fedmentor.errors import ConfigError, DigestMismatch, ModelError, PortInUse, TeacherUnreachable
from fedmentor.teacher.endpoint import STATE_FILE, Endpoint
from fedmentor.teacher.images import MAX_IMAGE_BYTES
from teacher_service import java
from teacher_service.archive import build_archive, check_archive
from teacher_service.convert import convert_bundled
from teacher_service.payload import MAX_ANSWER_BYTES
from teacher_service.ports import choose_ports
from teacher_service.server import Server, ServerConfig, is_running, short_name, start, stop
from teacher_service.settings import (
    CONSOLE_LOG,
    LOG_FOLDER,
    REFUSAL_FILE,
    Doors,
    Ports,
    command,
    environment,
    logging,
    properties,
)

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


def test_every_log_has_an_end_and_none_is_the_console():
    root = ET.fromstring(logging())  # noqa: S314  # our own file
    appenders = list(root.find("Appenders"))
    assert [appender.tag for appender in appenders] == ["RollingFile"] * 5
    for appender in appenders:
        assert appender.find("SizeBasedTriggeringPolicy").get("size") == "10 MB"
        assert appender.find("DefaultRolloverStrategy").get("max") == "3"
        assert "%i" in appender.get("filePattern")  # without it, max would count nothing
    used = {reference.get("ref") for reference in root.iter("AppenderRef")}
    assert used == {appender.get("name") for appender in appenders}


def test_java_is_told_of_it_whatever_the_run_folder_is_called():
    words = command(Path("/bin/java"), Path("/site"), Path("/a run,folder"), RUN / "tmp", 128)
    assert "-Dlog4j2.configurationFile=file:///a%20run%2Cfolder/log4j2.xml" in words


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


def test_why_a_start_fails_is_not_read_from_an_earlier_one(tmp_path, monkeypatch):
    script(
        tmp_path / "bin" / "java",
        "echo 'openjdk version \"21\"' >&2; test $1 = -version || { echo 'no room for the heap'; exit 1; }",
    )
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    logs = tmp_path / "run" / LOG_FOLDER
    logs.mkdir(parents=True)
    (logs / CONSOLE_LOG).write_text("java.net.BindException: Address already in use\n")
    with pytest.raises(ConfigError, match="ended while it started: no room for the heap"):
        start(ServerConfig(tmp_path / "run"))
    assert "BindException" in (logs / f"{CONSOLE_LOG}.1").read_text()


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


def test_a_server_that_is_not_started_again_says_why(tmp_path):
    refusal = {"status": 500, "code": "digest_mismatch", "message": "teacher.mar was changed", "cure": "find out who writes there"}
    (tmp_path / REFUSAL_FILE).write_text(json.dumps(refusal))
    endpoint = Endpoint("http://127.0.0.1:1", tmp_path / "key_file.json")
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"], stdin=subprocess.PIPE) as keeper:
        with pytest.raises(DigestMismatch, match=r"teacher\.mar was changed"):
            Server(endpoint, None, PORTS, keeper).wait(30)
        (tmp_path / REFUSAL_FILE).unlink()
        with pytest.raises(TeacherUnreachable, match="ended by itself"):
            Server(endpoint, None, PORTS, keeper).wait(30)


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

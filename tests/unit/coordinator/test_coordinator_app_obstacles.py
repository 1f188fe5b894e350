"""What a coordinator says when it cannot begin."""

import signal
import socket
import stat

from coordinator_process import SITES, Process, arguments_of

from coordinator.manifests import make_manifest
from coordinator.store.lock import state_lock
from coordinator.testing import toy_model
from fedmentor.cli import run


def _fails(capsys, code, *arguments):
    assert run(["coordinator", *(str(argument) for argument in arguments)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_a_port_in_use(place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"{listen} is in use, or not an address" in _fails(capsys, 3, *arguments_of(place, listen=listen))


def test_an_address_of_a_killed_coordinator_is_not_left_to_be_read(place, capsys):
    (place / "ready").write_text("127.0.0.1:1\n")
    _fails(capsys, 3, *arguments_of(place, certificates=place / "none"))
    assert not (place / "ready").exists()


def test_only_the_owner_reads_the_state(place, capsys):
    (place / "state").mkdir(mode=0o755)
    _fails(capsys, 3, *arguments_of(place, certificates=place / "none"))
    assert stat.S_IMODE((place / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "state" / "journal.sqlite").stat().st_mode) == 0o600


def test_a_state_folder_that_cannot_be_made(place, capsys):
    (place / "file").touch()
    assert "cannot be made a private folder" in _fails(capsys, 3, *arguments_of(place, state=place / "file" / "state"))


def test_a_metrics_port_in_use(place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} for metrics is in use" in _fails(capsys, 3, *arguments_of(place), "--metrics", port)


def test_a_metrics_host_that_is_none(place, capsys):
    options = ["--metrics", 0, "--metrics-host", "no-such-host.invalid"]
    assert "metrics cannot be served on no-such-host.invalid" in _fails(capsys, 3, *arguments_of(place), *options)


def test_two_coordinators_on_one_state_folder(place, capsys):
    (place / "state").mkdir()
    with state_lock(place / "state"):
        assert "another coordinator" in _fails(capsys, 3, *arguments_of(place))


def test_another_run_in_the_state_folder(place, capsys):
    Process(place).end(signal.SIGTERM)
    options = {"rounds": 3}
    (place / "manifest.json").write_bytes(make_manifest(place / "model", "other", SITES, options).to_bytes())
    assert "holds run toy-run" in _fails(capsys, 3, *arguments_of(place))


def test_another_model_than_the_manifests(place, capsys):
    toy_model(place / "model", seed=1)
    assert "not the one that the run starts from" in _fails(capsys, 3, *arguments_of(place))


def test_missing_files(place, capsys):
    assert "none.json cannot be read" in _fails(capsys, 3, *arguments_of(place, manifest=place / "none.json"))
    assert "ca.pem cannot be read" in _fails(capsys, 3, *arguments_of(place, certificates=place / "none"))
    assert "does not exist" in _fails(capsys, 3, "status", "--state", place / "none")
    assert "'manifest'" in _fails(capsys, 3, "run")

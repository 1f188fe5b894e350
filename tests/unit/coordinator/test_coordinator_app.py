"""The coordinator as a process: begins, is killed, goes on, ends; and what it says when it cannot begin."""

import json
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import datetime, timezone

import grpc
import pytest
from click.testing import CliRunner

from coordinator.app import read_manifest
from coordinator.config import CoordinatorSettings, settings_of
from coordinator.manifests import make_manifest
from coordinator.store.lock import state_lock
from coordinator.testing import toy_manifest, toy_model, toy_words
from fedmentor.cli import run
from fedmentor.cli.federation import federation
from fedmentor.errors import ConfigError
from fedmentor.federation import Evaluate, Finished, Train, UpdateHeader
from fedmentor.identity.authority import throwaway
from fedmentor.identity.credentials import site_credentials
from fedmentor.identity.names import coordinator_host
from fedmentor.models import load_model
from fedmentor.tensors import sha256_hex
from fedmentor.wire import codec
from fedmentor.wire.channel import client_channel
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

SITES = ("a", "b", "c")
TIMEOUT_S = 60.0
PROGRAM = [sys.executable, "-c", "import sys; from fedmentor.cli import run; sys.exit(run(sys.argv[1:]))", "coordinator"]


@pytest.fixture
def place(tmp_path):
    """A folder with certificates, model and manifest."""
    throwaway(tmp_path / "certificates", "fed.example", SITES, ["localhost", "127.0.0.1"])
    toy_model(tmp_path / "model")
    options = {"rounds": 2, "seed": 3, "collect_seconds": 50.0}
    (tmp_path / "manifest.json").write_bytes(make_manifest(tmp_path / "model", "toy-run", SITES, options).to_bytes())
    return tmp_path


def _arguments(place, **changes):
    options = {
        "manifest": place / "manifest.json",
        "model": place / "model",
        "state": place / "state",
        "certificates": place / "certificates",
        "listen": "127.0.0.1:0",
        "ready-file": place / "ready",
        "log-file": place / "events.log",
        **changes,
    }
    return ["run", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


class _Process:
    """A running coordinator."""

    def __init__(self, place, *more):
        (place / "ready").unlink(missing_ok=True)
        self._process = subprocess.Popen([*PROGRAM, *_arguments(place), *more], stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + TIMEOUT_S
        while not (place / "ready").exists():
            assert self._process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        self.address = (place / "ready").read_text().strip()

    def end(self, number=None):
        """Send a signal, if any; gives exit code and standard output."""
        if number is not None:
            self._process.send_signal(number)
        output, _ = self._process.communicate(timeout=TIMEOUT_S)
        return self._process.returncode, output


class _Site(threading.Thread):
    """Takes part in a toy run; finds the coordinator again after a break. Holds its updates of round 1 back until ``go`` is set."""

    def __init__(self, name, place, go):
        super().__init__(daemon=True)
        self._site = name
        self._place = place
        self._go = go
        self.reached = threading.Event()
        self.finished = None
        self.start()

    def run(self):
        manifest = read_manifest(self._place / "manifest.json")
        credentials = site_credentials(self._place / "certificates", self._site, datetime.now(timezone.utc))
        while self.finished is None:
            try:
                address = (self._place / "ready").read_text().strip()
                with client_channel(address, credentials, coordinator_host("fed.example")) as channel:
                    self._follow(FederationStub(channel), manifest)
            except (OSError, grpc.RpcError):
                time.sleep(0.02)

    def _follow(self, stub, manifest):
        for message in stub.Follow(pb.FollowRequest(), timeout=TIMEOUT_S):
            directive = codec.directive_from_wire(message)
            if isinstance(directive, Train | Evaluate):
                fields = {"patients": 1, "images": 1, "dice": 0.5, "iou": 0.4, "hd95": 1.0}
                ref = codec.round_to_wire(directive.round)
                stub.ReportScores(pb.Scores(round=ref, model_digest=directive.model.digest, **fields), timeout=TIMEOUT_S)
            if isinstance(directive, Train):
                if directive.round.round == 1 and self._site == "c":
                    self.reached.set()
                    self._go.wait(TIMEOUT_S)
                words = toy_words(self._site, directive.round, manifest)
                header = UpdateHeader(directive.round, sha256_hex([words]), len(words), directive.model.digest)
                parts = [pb.UpdatePart(header=codec.header_to_wire(header)), pb.UpdatePart(chunk=codec.chunk_to_wire(0, words))]
                stub.SendUpdate(iter(parts), timeout=TIMEOUT_S)
            if isinstance(directive, Finished):
                self.finished = directive


def test_a_run_survives_a_kill_and_ends(place):
    go = threading.Event()
    coordinator = _Process(place)
    sites = [_Site(name, place, go) for name in SITES]
    assert sites[2].reached.wait(TIMEOUT_S)
    code, output = coordinator.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert output.splitlines()[0].startswith("run begun, listening on 127.0.0.1:")
    assert output.splitlines()[1].startswith("round 0/2  3 sites  Dice 0.5000  worst 0.5000 (a)")

    standing = json.loads(
        subprocess.run([*PROGRAM, "status", "--state", place / "state", "--json"], check=True, capture_output=True).stdout
    )
    assert (standing["round"], standing["outcome"]) == (1, None)

    coordinator = _Process(place, "--json")
    go.set()
    code, output = coordinator.end()
    for site in sites:
        site.join(TIMEOUT_S)
    assert [site.finished.outcome.value for site in sites] == ["completed"] * 3
    assert code == 0
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events] == ["listening", "round", "round", "finished"]
    assert events[0]["resumed"] is True
    assert not (place / "ready").exists()

    report = json.loads((place / "state" / "report.json").read_text())
    assert report["model"] == events[-1]["model"]
    _, record = load_model(place / "state" / "models" / report["model"])
    assert record.round == 2
    log = (place / "events.log").read_text()
    assert "event=update_accepted site=a run=toy-run round=0" in log
    assert "level=warning" not in log

    again = subprocess.run([*PROGRAM, *_arguments(place)], check=True, capture_output=True, text=True)
    assert "run toy-run is finished: completed" in again.stdout
    text = subprocess.run([*PROGRAM, "status", "--state", place / "state"], check=True, capture_output=True, text=True).stdout
    assert text.splitlines()[0] == "run toy-run: completed"


def _health(place):
    command = [*PROGRAM, "health", "--state", place / "state", "--ready-file", place / "ready"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_coordinator_that_stays_serves_after_the_run(place):
    go = threading.Event()
    go.set()
    assert _health(place)[0] == 5
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    staying = ["--stay", "--linger", "0", "--metrics", str(port), "--metrics-host", "localhost"]
    coordinator = _Process(place, *staying)
    code, standing = _health(place)
    assert (code, standing.split(":")[0]) == (0, "run toy-run")
    for site in [_Site(name, place, go) for name in SITES]:
        site.join(TIMEOUT_S)
        assert site.finished.outcome.value == "completed"
    assert _health(place) == (0, "run toy-run: completed, round 2/2\n")
    code, output = coordinator.end(signal.SIGTERM)
    assert code == 0
    assert "run toy-run is finished: completed" in output

    coordinator = _Process(place, *staying)
    late = _Site("a", place, go)
    late.join(TIMEOUT_S)
    assert late.finished.outcome.value == "completed"
    with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=TIMEOUT_S) as metrics:
        assert b"fedmentor_dice 0.5" in metrics.read()
    assert coordinator.end(signal.SIGTERM)[0] == 0
    assert _health(place)[0] == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_without_loss(place, number):
    coordinator = _Process(place)
    site = _Site("a", place, threading.Event())
    assert coordinator.end(number)[0] == 130
    assert not (place / "ready").exists()
    site.finished = "stop"
    with state_lock(place / "state"):
        pass
    coordinator = _Process(place)
    assert coordinator.end(number)[0] == 130


def test_a_disk_that_fails_stops_it_and_the_run_goes_on_after_the_repair(place):
    coordinator = _Process(place)
    obstacle = place / "state" / "spool" / "a"
    obstacle.write_bytes(b"a file where a folder belongs")
    go = threading.Event()
    go.set()
    sites = [_Site(name, place, go) for name in SITES]
    assert coordinator.end()[0] == 70
    obstacle.unlink()
    coordinator = _Process(place)
    assert coordinator.end()[0] == 0
    for site in sites:
        site.join(TIMEOUT_S)
    assert [site.finished.outcome.value for site in sites] == ["completed"] * 3


def test_a_run_without_a_quorum_ends_with_the_policy_code(place):
    process = subprocess.run(
        [*PROGRAM, *_arguments(place), "--gather", "0.05", "--straggler-grace", "0", "--linger", "0"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 4
    assert "round 0 failed 3 times" in process.stderr
    assert "Traceback" not in process.stderr
    with socket.create_server(("127.0.0.1", 0)) as listening:
        (place / "ready").write_text(f"127.0.0.1:{listening.getsockname()[1]}\n")
        code, said = _health(place)
    assert code == 4
    assert "run toy-run failed: round 0 failed 3 times" in said


# --- what stands in the way ---


def _fails(capsys, code, *arguments):
    assert run(["coordinator", *(str(argument) for argument in arguments)]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_a_port_in_use(place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"{listen} is in use, or not an address" in _fails(capsys, 3, *_arguments(place, listen=listen))


def test_an_address_of_a_killed_coordinator_is_not_left_to_be_read(place, capsys):
    (place / "ready").write_text("127.0.0.1:1\n")
    _fails(capsys, 3, *_arguments(place, certificates=place / "none"))
    assert not (place / "ready").exists()


def test_only_the_owner_reads_the_state(place, capsys):
    (place / "state").mkdir(mode=0o755)
    _fails(capsys, 3, *_arguments(place, certificates=place / "none"))
    assert stat.S_IMODE((place / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "state" / "journal.sqlite").stat().st_mode) == 0o600


def test_a_state_folder_that_cannot_be_made(place, capsys):
    (place / "file").touch()
    assert "cannot be made a private folder" in _fails(capsys, 3, *_arguments(place, state=place / "file" / "state"))


def test_a_metrics_port_in_use(place, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} for metrics is in use" in _fails(capsys, 3, *_arguments(place), "--metrics", port)


def test_a_metrics_host_that_is_none(place, capsys):
    options = ["--metrics", 0, "--metrics-host", "no-such-host.invalid"]
    assert "metrics cannot be served on no-such-host.invalid" in _fails(capsys, 3, *_arguments(place), *options)


def test_two_coordinators_on_one_state_folder(place, capsys):
    (place / "state").mkdir()
    with state_lock(place / "state"):
        assert "another coordinator" in _fails(capsys, 3, *_arguments(place))


def test_another_run_in_the_state_folder(place, capsys):
    _Process(place).end(signal.SIGTERM)
    options = {"rounds": 3}
    (place / "manifest.json").write_bytes(make_manifest(place / "model", "other", SITES, options).to_bytes())
    assert "holds run toy-run" in _fails(capsys, 3, *_arguments(place))


def test_another_model_than_the_manifests(place, capsys):
    toy_model(place / "model", seed=1)
    assert "not the one that the run starts from" in _fails(capsys, 3, *_arguments(place))


def test_missing_files(place, capsys):
    assert "none.json cannot be read" in _fails(capsys, 3, *_arguments(place, manifest=place / "none.json"))
    assert "ca.pem cannot be read" in _fails(capsys, 3, *_arguments(place, certificates=place / "none"))
    assert "does not exist" in _fails(capsys, 3, "status", "--state", place / "none")
    assert "'manifest'" in _fails(capsys, 3, "run")


# --- manifest and settings ---


def test_the_manifest_command_writes_what_the_model_says(place):
    arguments = ["coordinator", "manifest", "--model", place / "model", "--rounds", 5, "--out", place / "m.json", "--seed", 9]
    arguments += [part for site in ("c", "a", "b", "a") for part in ("--site", site)]
    assert run([str(argument) for argument in arguments]) == 0
    manifest = read_manifest(place / "m.json")
    assert manifest.roster == SITES
    assert (manifest.rounds, manifest.quorum, manifest.training.seed) == (5, 3, 9)
    assert manifest.tensors == toy_manifest(manifest.initial_model).tensors


@pytest.mark.parametrize(
    ("options", "sites", "message"),
    [
        ({"rounds": 0}, SITES, "'rounds'"),
        ({"rounds": 1, "surprise": 1}, SITES, "'surprise'"),
        ({"rounds": 1, "learning_rate": -1.0}, SITES, "'learning_rate'"),
        ({"rounds": 1}, ("a", "b"), "quorum of 3"),
        ({"rounds": 1}, ("A", "b", "c"), "site name"),
    ],
)
def test_manifests_out_of_range(place, options, sites, message):
    with pytest.raises(ConfigError, match=message):
        make_manifest(place / "model", "run", sites, options)


NEEDED = {"manifest": "m", "model": "x", "state": "s", "certificates": "c"}


def test_settings_come_from_a_file_and_arguments_win(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('manifest = "m"\nmodel = "x"\nstate = "s"\ncertificates = "c"\nlinger_seconds = 5\nlisten = "0.0.0.0:1"\n')
    settings = settings_of(file, {"listen": "127.0.0.1:2", "state": None})
    assert (settings.listen, settings.limits.linger_s, str(settings.state)) == ("127.0.0.1:2", 5.0, "s")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"surprise": 1}, "surprise"),
        ({"listen": "nowhere"}, "listen"),
        ({"listen": "x:65536"}, "listen"),
        ({"linger_seconds": -1}, "linger_seconds"),
    ],
)
def test_settings_out_of_range(change, name):
    with pytest.raises(ConfigError, match=name):
        settings_of(None, NEEDED | change)


def test_settings_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        settings_of(tmp_path / "none", {})
    (tmp_path / "bad").write_text("= =")
    with pytest.raises(ConfigError, match="not TOML"):
        settings_of(tmp_path / "bad", {})


def test_every_setting_has_its_unit_or_none():
    numbers = {name for name, field in CoordinatorSettings.model_fields.items() if field.annotation is float}
    assert all(name.endswith("_seconds") for name in numbers)


# --- imports ---


def test_the_coordinator_never_imports_torch():
    names = "coordinator.app, coordinator.cli, coordinator.servicer, coordinator.testing"
    check = f"import sys, {names}; print(sorted({{'torch', 'monai', 'opacus', 'torchvision'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_the_command_line_imports_no_grpc_before_it_is_needed():
    check = "import sys, coordinator.cli; print(sorted({'grpc', 'numpy', 'sqlite3', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_certificates_command(tmp_path):
    arguments = ["certificates", "--out", str(tmp_path / "x"), "--site", "a", "--site", "b", "--host", "localhost"]
    result = CliRunner().invoke(federation, arguments)
    assert result.exit_code == 0
    assert "2 sites, valid 7 days" in result.output
    site_credentials(tmp_path / "x", "a", datetime.now(timezone.utc))

"""A running coordinator, a registrar beside it, and a site that is revoked while its stream is open."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import grpc
import pytest

from coordinator.app import JOURNAL_FILE
from coordinator.manifests import make_manifest
from coordinator.store.sqlite import SqliteJournal
from coordinator.testing import toy_model
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.identity.names import coordinator_host
from fedmentor.testing.registrar import RegistrarTown
from fedmentor.wire.channel import client_channel
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationStub

PROGRAM = [sys.executable, "-c", "import sys; from fedmentor.cli import run; sys.exit(run(sys.argv[1:]))", "coordinator", "run"]
SITES = ("a", "b", "c")
TIMEOUT_S = 60.0
CUT_OFF_SECONDS = 10.0

pytestmark = pytest.mark.e2e


@pytest.fixture
def town(tmp_path):
    made = RegistrarTown(tmp_path, SystemClock())
    for site in (None, *SITES):
        made.enrol(made.peer(site))
    return made


@pytest.fixture
def address(town, tmp_path):
    """Where a coordinator listens that waits for its sites."""
    toy_model(tmp_path / "model")
    manifest = make_manifest(tmp_path / "model", "toy-run", SITES, {"rounds": 1})
    (tmp_path / "manifest.json").write_bytes(manifest.to_bytes())
    options = {
        "manifest": tmp_path / "manifest.json",
        "model": tmp_path / "model",
        "state": tmp_path / "state",
        "certificates": town.place(town.peer(None)).certificates,
        "listen": "127.0.0.1:0",
        "ready-file": tmp_path / "ready",
        "log-file": tmp_path / "events.log",
    }
    command = [*PROGRAM, *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            while not (tmp_path / "ready").exists():
                assert process.poll() is None
                time.sleep(0.05)
            yield (tmp_path / "ready").read_text().strip()
        finally:
            process.terminate()
            watchdog.cancel()


def test_a_revoked_site_is_cut_off_within_ten_seconds(town, address, tmp_path, capsys):
    def channel(site):
        return client_channel(address, town.credentials(town.peer(site)), coordinator_host(town.federation))

    with channel("a") as first, channel("b") as second:
        streams = [FederationStub(one).Follow(pb.FollowRequest()) for one in (first, second)]
        assert [next(stream).WhichOneof("kind") for stream in streams] == ["manifest", "manifest"]
        next(streams[0])
        registrar = ["--registrar", str(tmp_path / "registrar")]
        assert run(["federation", "revoke", "a", *registrar]) == 0
        begin = time.monotonic()
        assert run(["federation", "roster", *registrar, "--out", str(town.place(town.peer(None)).certificates)]) == 0
        with pytest.raises(grpc.RpcError) as caught:
            list(streams[0])
        assert time.monotonic() - begin < CUT_OFF_SECONDS
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.RpcError) as caught:
            next(FederationStub(first).Follow(pb.FollowRequest(), timeout=TIMEOUT_S))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert streams[1].is_active()
        streams[1].cancel()
    assert "event=deny_list_changed version=1 serials=1 keys=2" in (tmp_path / "events.log").read_text()
    journal = SqliteJournal(tmp_path / "state" / JOURNAL_FILE, SystemClock(), read_only=True)
    records = [record for record in journal.run_tx("audit", lambda tx: list(tx.audit_records())) if record.event == "deny_list"]
    journal.close()
    assert [json.loads(record.fields) for record in records] == [{"keys": 2, "serials": 1, "version": 1}]
    assert "revoked" in capsys.readouterr().out

"""A running coordinator, its registrar, and a site that is revoked while its stream is open."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import grpc
import pytest

from coordinator.app import JOURNAL_FILE
from coordinator.manifests import make_manifest
from coordinator.store.sqlite import SqliteJournal
from coordinator.testing import toy_model
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.identity.door import Addresses, open_door
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


@contextmanager
def coordinator(town, *more):
    """The address of a coordinator that waits for its sites."""
    folder = town.folder
    toy_model(folder / "model")
    manifest = make_manifest(folder / "model", "toy-run", SITES, {"rounds": 1})
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    options = {
        "manifest": folder / "manifest.json",
        "model": folder / "model",
        "state": folder / "state",
        "certificates": town.place(town.peer(None)).certificates,
        "listen": "127.0.0.1:0",
        "ready-file": folder / "ready",
        "log-file": folder / "events.log",
    }
    command = [*PROGRAM, *(str(part) for name, value in options.items() for part in (f"--{name}", value)), *more]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        watchdog = threading.Timer(TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            while not (folder / "ready").exists():
                assert process.poll() is None
                time.sleep(0.05)
            yield (folder / "ready").read_text().strip()
        finally:
            process.terminate()
            watchdog.cancel()


@contextmanager
def stream_of(town, address, site):
    """A site's open stream of directives."""
    with client_channel(address, town.credentials(town.peer(site)), coordinator_host(town.federation)) as channel:
        stream = FederationStub(channel).Follow(pb.FollowRequest())
        assert next(stream).WhichOneof("kind") == "manifest"
        next(stream)
        yield stream
        stream.cancel()


def cut_off(stream):
    """Seconds until a stream ends, which must be by a refusal."""
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    return time.monotonic() - begin


def test_a_revoked_site_is_cut_off_within_ten_seconds_of_the_files_arrival(town, capsys):
    registrar = ["--registrar", str(town.folder / "registrar")]
    with coordinator(town) as address, stream_of(town, address, "a") as revoked, stream_of(town, address, "b") as other:
        assert run(["federation", "revoke", "a", *registrar]) == 0
        assert run(["federation", "roster", *registrar, "--out", str(town.place(town.peer(None)).certificates)]) == 0
        assert cut_off(revoked) < CUT_OFF_SECONDS
        with pytest.raises(grpc.RpcError) as caught, stream_of(town, address, "a"):
            pass
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert other.is_active()
    assert "event=deny_list_changed version=1 serials=1 keys=2" in (town.folder / "events.log").read_text()
    journal = SqliteJournal(town.folder / "state" / JOURNAL_FILE, SystemClock(), read_only=True)
    records = [record for record in journal.run_tx("audit", lambda tx: list(tx.audit_records())) if record.event == "deny_list"]
    journal.close()
    assert [json.loads(record.fields) for record in records] == [{"keys": 2, "serials": 1, "version": 1}]
    assert "revoked" in capsys.readouterr().out


def test_with_the_registrar_online_nobody_has_to_carry_the_files(town):
    with (
        open_door(town.registrar, Addresses("127.0.0.1:0", None), town.clock, lambda _event: None) as door,
        coordinator(town, "--registrar", door.enrolment) as address,
        stream_of(town, address, "a") as revoked,
        stream_of(town, address, "b") as other,
    ):
        assert run(["federation", "revoke", "a", "--registrar", str(town.folder / "registrar")]) == 0
        assert cut_off(revoked) < CUT_OFF_SECONDS
        assert other.is_active()
        town.registrar.rotate("begin")
        bundle = town.place(town.peer(None)).certificates / "ca.pem"
        end = time.monotonic() + TIMEOUT_S
        while bundle.read_bytes() != town.registrar.bundle():
            assert time.monotonic() < end
            time.sleep(0.1)
        with stream_of(town, address, "c"):
            pass
    assert "renewal_failed" not in (town.folder / "events.log").read_text()

"""``fedmentor node check`` on whole sites, against a server that speaks TLS as a coordinator does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from fed_node.data.dataset import open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.doctor.probe import Journey, go
from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger, Spend
from fed_node.ledger.sqlite import FileAnchor, SqliteStore
from fed_node.outbox_store import SqliteOutbox
from fed_node.testing.proxy import connect_proxy
from fedmentor.cli import run
from fedmentor.clock import SystemClock
from fedmentor.identity.authority import Authority, throwaway
from fedmentor.identity.credentials import coordinator_credentials
from fedmentor.ids import Round, RunId, SiteId
from fedmentor.privacy.accounting import Segment, no_tight_bound
from fedmentor.wire.channel import server_credentials
from fedmentor.wire.codec import time_to_wire
from fedmentor.wire.v1 import federation_pb2 as pb
from fedmentor.wire.v1.federation_pb2_grpc import FederationServicer, add_FederationServicer_to_server

NORTH, SOUTH = SiteId("north"), SiteId("south")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site that is in order, but for a coordinator."""
    folder = tmp_path_factory.mktemp("site")
    throwaway(folder / "certificates", "federation", [NORTH, SOUTH], ["localhost"])
    write_phantoms(folder / "all", 4, seed=0, side=64)
    dataset = open_dataset(folder / "all")
    ids = [sample.id for sample in dataset]
    write_subset(dataset, ids, folder / "data", held_out=ids[:1])
    shutil.rmtree(folder / "all")
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    shutil.copytree(made, tmp_path / "site")
    return tmp_path / "site"


class Telling(FederationServicer):
    """A coordinator that tells the time and does nothing else."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def TellTime(self, _request: pb.TimeRequest, _context: grpc.ServicerContext) -> pb.TimeReading:  # noqa: N802 - the proto's name
        """See federation.proto."""
        return time_to_wire(SystemClock().now() + self._ahead)


def serve(certificates: Path, ahead: timedelta | None = None) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    if ahead is not None:
        add_FederationServicer_to_server(Telling(ahead), server)
    tls = server_credentials(coordinator_credentials(certificates, SystemClock().now()), lambda: None)
    port = server.add_secure_port("127.0.0.1:0", tls)
    server.start()
    yield port
    server.stop(0).wait()


@pytest.fixture
def port(site: Path) -> Iterator[int]:
    """Where the coordinator listens."""
    yield from serve(site / "certificates")


def arguments(site: Path, coordinator: str, *more: str) -> list[str]:
    settings = {name: str(site / name) for name in ("certificates", "data", "state")}
    settings |= {"site": "north", "coordinator": coordinator}
    return ["node", "check", *(part for name, value in settings.items() for part in (f"--{name}", value)), *more]


@pytest.fixture
def check(site: Path, capsys: pytest.CaptureFixture[str]):
    """Run the command; gives its exit code and its findings."""

    def check(coordinator: str, *more: str) -> tuple[int, list[dict[str, str]]]:
        code = run(arguments(site, coordinator, *more, "--json"))
        report = json.loads(capsys.readouterr().out)
        assert report["exit_code"] == code
        return code, report["findings"]

    return check


def faults(findings: list[dict[str, str]]) -> list[tuple[str, str]]:
    assert all(finding["cure"] for finding in findings if finding["level"] == "fault")
    return [(finding["check"], finding["what"]) for finding in findings if finding["level"] == "fault"]


def tree(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Every file and folder with its time, mode and content."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


def test_a_site_in_order(check, port):
    code, findings = check(f"127.0.0.1:{port}")
    assert (code, faults(findings)) == (0, [])
    said = " ".join(finding["what"] for finding in findings)
    for words in (
        "coordinator.federation answers, and its certificate is good",
        "the coordinator takes this site's certificate",
        "4 usable images of",
        "3 images to train on, 1 held out",
        "2 sites, this one among them",
    ):
        assert words in said


def test_lines_for_people(site, port, capsys):
    assert run(arguments(site, f"127.0.0.1:{port}")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ok       settings    those of site north"
    assert all(line.startswith(("ok ", "note ", "warning ", " " * 20 + " try: ")) for line in lines)


def test_nothing_is_changed(site, check, port):
    """No ledger, no outbox, no key; also not where there are some already."""
    before = tree(site)
    check(f"127.0.0.1:{port}")
    assert tree(site) == before
    SqliteOutbox(site / "state").close()
    ledger = PrivacyLedger(
        NORTH,
        BudgetPolicy(8.0, 1e-5),
        LedgerPorts(SqliteStore(site / "state"), b"k" * 32, SystemClock(), no_tight_bound, FileAnchor(site / "anchor")),
    )
    ledger.reserve(Spend(RunId("run"), Round(0), Segment(4.0, 0.1, 10), ("p1", "p2")))
    ledger.close()
    before = tree(site)
    (site / "node.toml").write_text('ledger_anchor = "anchor"\n')
    del before[str(site)]
    code, findings = check(f"127.0.0.1:{port}", "--config", str(site / "node.toml"))
    (site / "node.toml").unlink()
    assert (code, faults(findings)) == (0, [])
    assert "spent on 2 patients" in " ".join(finding["what"] for finding in findings)
    after = tree(site)
    del after[str(site)]
    assert after == before


def test_a_running_node_is_seen(site, check):
    outbox = SqliteOutbox(site / "state")
    _, findings = check("127.0.0.1:1", "--no-network")
    outbox.close()
    assert {"a node works in this state folder now"} <= {finding["what"] for finding in findings}


def test_a_lost_ledger_is_a_refusal(site, check):
    (site / "anchor").write_text(json.dumps({"records": 3, "hash": "ab" * 32}))
    (site / "node.toml").write_text('ledger_anchor = "anchor"\n')
    code, findings = check("127.0.0.1:1", "--no-network", "--config", str(site / "node.toml"))
    assert code == 4
    assert faults(findings)[0][0] == "ledger"


def test_nobody_listens(check):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    code, findings = check(nobody)
    assert code == 5
    assert faults(findings) == [("port", f"{nobody} does not accept a connection: Connection refused")]


def test_a_name_without_an_address(check):
    code, findings = check("coordinator.invalid:1")
    assert code == 5
    assert faults(findings)[0][0] == "dns"


def test_a_server_without_tls(check):
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer() -> None:
            for _ in range(2):
                connection, _ = plain.accept()
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        code, findings = check(f"127.0.0.1:{plain.getsockname()[1]}")
        thread.join()
    assert code == 5
    assert faults(findings)[0][0] == "tls"


def test_a_coordinator_of_another_federation(check, tmp_path):
    throwaway(tmp_path / "other", "elsewhere", [NORTH], ["localhost"])
    for port in serve(tmp_path / "other"):
        code, findings = check(f"127.0.0.1:{port}")
    assert code == 4
    ((name, what),) = faults(findings)
    assert (name, what.split(" answers ")[1]) == ("tls", "(issued by CN=elsewhere authority), expected coordinator.federation")


def test_a_coordinator_of_another_authority_of_the_same_name(check, tmp_path):
    throwaway(tmp_path / "other", "federation", [NORTH], ["localhost"])
    for port in serve(tmp_path / "other"):
        code, findings = check(f"127.0.0.1:{port}")
    assert code == 4
    assert "its certificate is refused: " in faults(findings)[0][1]


def test_a_coordinator_that_refuses_this_site(site, check, port):
    """The site has a certificate of another authority beside the right ca.pem; its own end would refuse, so go there by hand."""
    rogue = Authority.create("federation", SystemClock().now()).issue_site(NORTH, SystemClock().now())
    place = site / "certificates" / "sites" / "north"
    (place / "certificate.pem").write_bytes(rogue.certificate)
    (place / "key.pem").write_bytes(rogue.key)
    way = go(Journey(f"127.0.0.1:{port}", None, site / "certificates", NORTH, "coordinator.federation"))
    assert way.answer is not None
    assert way.answer.accepted is False
    code, findings = check(f"127.0.0.1:{port}")
    assert code == 3
    assert "was not issued by the authority" in faults(findings)[0][1]


def test_through_a_proxy(check, port):
    with connect_proxy({"coordinator.hospital.invalid": "127.0.0.1"}) as proxy:
        code, findings = check(f"coordinator.hospital.invalid:{port}", "--proxy", proxy.address)
        assert (code, faults(findings)) == (0, [])
        assert set(proxy.asked) == {f"coordinator.hospital.invalid:{port}"}
    with connect_proxy(refuse=True) as proxy:
        code, findings = check(f"127.0.0.1:{port}", "--proxy", proxy.address)
    assert code == 5
    assert faults(findings)[0][0] == "proxy"
    assert "403 Forbidden" in faults(findings)[0][1]


def test_a_registrar_out_of_reach_is_no_fault(site, check, port):
    (site / "node.toml").write_text(f'registrar = "127.0.0.1:{port}"\n')
    code, findings = check(f"127.0.0.1:{port}", "--config", str(site / "node.toml"))
    assert (code, faults(findings)) == (0, [])
    (site / "node.toml").write_text('registrar = "registrar.invalid:1"\n')
    code, findings = check(f"127.0.0.1:{port}", "--config", str(site / "node.toml"))
    assert code == 0
    assert [one["level"] for one in findings if one["check"] == "registrar"] == ["warning"]


def test_the_clock_of_a_proxy_is_a_witness(check, port):
    with connect_proxy(date="Mon, 04 May 2020 10:00:00 GMT") as proxy:
        code, findings = check(f"127.0.0.1:{port}", "--proxy", proxy.address)
    assert code == 3
    assert [name for name, _ in faults(findings)] == ["clock"]


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [
        (timedelta(hours=1), "warning", "60 minutes behind the coordinator's"),
        (-timedelta(hours=1), "warning", "60 minutes ahead of the coordinator's"),
        (timedelta(minutes=1), "ok", "within 5 minutes of the coordinator's"),
        (None, "ok", "after everything that is known to have happened"),  # an older coordinator, which does not tell
    ],
)
def test_the_clock_of_the_coordinator_is_a_witness(site, check, ahead, level, words):
    with contextmanager(serve)(site / "certificates", ahead) as port:
        code, findings = check(f"127.0.0.1:{port}")
    assert code == 0
    (found,) = (one for one in findings if one["check"] == "clock")
    assert (found["level"], words in found["what"]) == (level, True)


def test_a_key_that_others_can_read(site, check):
    (site / "certificates" / "sites" / "north" / "key.pem").chmod(0o644)
    code, findings = check("127.0.0.1:1", "--no-network")
    assert code == 3
    assert faults(findings)[0][0] == "keys"


def test_another_sites_certificate(site, check):
    shutil.rmtree(site / "certificates" / "sites" / "north")
    (site / "certificates" / "sites" / "south").rename(site / "certificates" / "sites" / "north")
    code, findings = check("127.0.0.1:1", "--no-network")
    assert code == 4
    assert "not that of site north" in faults(findings)[0][1]


def test_bad_images_are_counted_and_the_first_is_named(site, check):
    images = sorted((site / "data" / "images").iterdir())
    for path in images[:2]:
        path.unlink()
        path.write_bytes(b"no image")
    code, findings = check("127.0.0.1:1", "--no-network")
    assert code == 3
    assert f"2 x unreadable: images/{images[0].name}" in faults(findings)[0][1]
    assert check("127.0.0.1:1", "--no-network", "--no-pixels")[0] == 0


def test_missing_data_and_a_missing_split(site, check):
    (site / "data" / "metadata.csv").write_text("id\n")
    code, findings = check("127.0.0.1:1", "--no-network")
    assert code == 3
    assert {name for name, _ in faults(findings)} == {"data"}
    shutil.rmtree(site / "data")
    assert "is not a folder" in faults(check("127.0.0.1:1", "--no-network")[1])[0][1]


def test_a_teacher_that_does_not_run(site, check):
    code, findings = check("127.0.0.1:1", "--no-network", "--teacher", str(site))
    assert code == 5
    assert faults(findings)[0][0] == "teacher"


def test_a_bad_setting_is_a_finding_too(check):
    code, findings = check("127.0.0.1")
    assert code == 3
    assert faults(findings) == [("settings", "the node's setting 'coordinator' is wrong: expected HOST:PORT")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_state_folder_that_cannot_be_written(site, check):
    (site / "state").mkdir()
    (site / "state").chmod(0o500)
    code, findings = check("127.0.0.1:1", "--no-network")
    assert code == 3
    assert faults(findings)[0][0] == "state"

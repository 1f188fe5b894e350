"""``fedmentor node run``: everything that is wrong at this site is said in one line before the first connection."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from fed_node.cli.node import _signals
from fed_node.data.dataset import open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.outbox_store import SqliteOutbox
from fedmentor.cli import run
from fedmentor.errors import EXIT_CONFIG, EXIT_PEER, EXIT_POLICY
from fedmentor.identity.authority import throwaway
from fedmentor.ids import SiteId

NOBODY = "localhost:1"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Certificates, a data folder with a table and no rows, no state yet."""
    throwaway(tmp_path / "certificates", "test", [SiteId("north"), SiteId("south")], ["localhost"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.csv").write_text("id,split\n")
    return tmp_path


def arguments(folder: Path, **changes: str) -> list[str]:
    settings = {
        "site": "north",
        "coordinator": NOBODY,
        "certificates": str(folder / "certificates"),
        "data": str(folder / "data"),
        "state": str(folder / "state"),
        **changes,
    }
    return ["node", "run", *(part for name, value in settings.items() for part in (f"--{name}", value))]


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert captured.out == ""
    assert len(errors) == 1
    return errors[0]


def test_an_empty_site(site: Path, capsys: pytest.CaptureFixture[str]):
    assert run(arguments(site)) == EXIT_CONFIG
    assert "has no rows" in one_error(capsys)


def test_data_that_is_not_there(site: Path, capsys: pytest.CaptureFixture[str]):
    assert run(arguments(site, data=str(site / "nowhere"))) == EXIT_CONFIG
    assert "is not a folder" in one_error(capsys)


def test_an_image_that_cannot_be_read_is_named(site: Path, capsys: pytest.CaptureFixture[str]):
    (site / "data" / "metadata.csv").write_text("id,split\nscan,train\nother,held_out\n")
    (site / "data" / "images").mkdir()
    for name in ("scan", "other"):
        (site / "data" / "images" / f"{name}.png").write_bytes(b"not an image")
    assert run(arguments(site)) == EXIT_CONFIG
    assert "scan.png" in one_error(capsys)


def test_certificates_that_are_not_there(site: Path, capsys: pytest.CaptureFixture[str]):
    assert run(arguments(site, certificates=str(site / "nowhere"))) == EXIT_CONFIG
    assert "cannot be read" in one_error(capsys)


def test_the_certificate_of_another_site(site: Path, capsys: pytest.CaptureFixture[str]):
    sites = site / "certificates" / "sites"
    (sites / "north").rename(sites / "old")
    (sites / "south").rename(sites / "north")
    assert run(arguments(site)) == EXIT_POLICY
    assert "not that of site north" in one_error(capsys)


def test_a_second_node_of_a_site(site: Path, capsys: pytest.CaptureFixture[str]):
    first = SqliteOutbox(site / "state")
    assert run(arguments(site)) == EXIT_CONFIG
    assert "another node works in the state folder" in one_error(capsys)
    first.close()


def test_a_missing_setting(capsys: pytest.CaptureFixture[str]):
    assert run(["node", "run"]) == EXIT_CONFIG
    assert "'site' is missing" in one_error(capsys)


def test_help_loads_nothing_heavy():
    code = "import sys; import fed_node.cli.node; print([m for m in ('torch', 'grpc', 'numpy', 'structlog') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


def test_nobody_answers(site: Path, capsys: pytest.CaptureFixture[str]):
    write_phantoms(site / "all", 2, seed=0, side=64)
    dataset = open_dataset(site / "all")
    ids = [sample.id for sample in dataset]
    write_subset(dataset, ids, site / "phantoms", held_out=ids[:1])
    assert run([*arguments(site, data=str(site / "phantoms")), "--give-up-seconds", "0.1"]) == EXIT_PEER
    assert "has not answered for" in one_error(capsys)


@pytest.mark.parametrize("busy", [True, False])
def test_a_signal_asks_a_busy_node_to_stop_and_ends_one_that_still_reads(busy: bool):  # noqa: FBT001 - a parameter of the test
    stop, working, told = threading.Event(), threading.Event(), []
    if busy:
        working.set()
    before = signal.getsignal(signal.SIGTERM)
    with _signals(stop, working, lambda: told.append("stopping")):
        with nullcontext() if busy else pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before, "a second one ends it the hard way"
    assert stop.is_set()
    assert told == ["stopping"]

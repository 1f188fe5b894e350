"""``fedmentor audit`` on the state folder and the export of a run: what holds, what does not, and what is shown."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from coordinator.audit.cli import audit
from coordinator.audit.notary import open_notary
from coordinator.audit.reading import read_checkpoints, read_trail, write_export
from coordinator.store.sqlite import JOURNAL_FILE
from coordinator.testing import ToyFederation
from fedmentor.audit.checkpoint import countersign
from fedmentor.audit.export import checkpoint_to_line
from fedmentor.audit.keys import read_audit_keys, site_signing_key
from fedmentor.cli import run
from fedmentor.errors import ConfigError, DataError
from fedmentor.identity.authority import throwaway
from fedmentor.ids import RunId, SiteId
from fedmentor.testing.audit import ToyTrail

ROOT = Path(__file__).resolve().parents[3]
SITES = [SiteId(site) for site in "abc"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is over: ``state``, its ``certificates``, and ``export.jsonl``; a and b have signed the last checkpoint."""
    place = tmp_path_factory.mktemp("audited")
    throwaway(place / "certificates", "federation", SITES, ["localhost"])
    federation = ToyFederation(place, notary=open_notary(place / "certificates"))
    federation.connect()
    federation.play()
    checkpoint = federation.engine.journal.run_tx("read", lambda tx: tx.checkpoint()).checkpoint
    for site in SITES[:2]:
        key = site_signing_key(place / "certificates", site, read_audit_keys(place / "certificates"))
        federation.engine.service.countersign(site, checkpoint, countersign(checkpoint, site, key).signature)
    federation.close()
    write_export(read_trail(place / "state"), place / "export.jsonl")
    return place


def said(*arguments: object) -> tuple[int, str]:
    """Exit code and output of ``fedmentor audit``; errors leave as they are."""
    result = CliRunner().invoke(audit, [str(one) for one in arguments], standalone_mode=False, catch_exceptions=False)
    return result.return_value or 0, result.stdout


@pytest.fixture(params=["state", "export.jsonl"])
def source(request: pytest.FixtureRequest, folder: Path) -> Path:
    return folder / request.param


def test_a_run_verifies(folder: Path, source: Path):
    code, text = said("verify", source, "--certificates", folder / "certificates")
    assert code == 0
    assert "chained without a gap" in text
    assert "checkpoints: 3, signed by the coordinator" in text
    assert "countersigned by 2 sites: a, b" in text
    assert "records follow the newest checkpoint" in text


def test_what_was_not_checked_is_said(source: Path):
    code, text = said("verify", source)
    assert code == 0
    assert "SIGNATURES NOT CHECKED" in text


def test_a_verdict_as_json(folder: Path, source: Path):
    code, text = said("verify", source, "--certificates", folder / "certificates", "--json")
    found = json.loads(text)
    assert code == 0
    assert (found["sound"], found["signatures_checked"], found["record"], found["reason"]) == (True, True, None, "")
    assert list(found["countersigned"].values()) == [[], [], ["a", "b"]]
    assert found["records"] == len(read_trail(source).records)


def changed(folder: Path, tmp_path: Path, old: str, new: str) -> Path:
    """The export with one text replaced, once."""
    file = tmp_path / "changed.jsonl"
    text = (folder / "export.jsonl").read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


def test_the_first_bad_record_is_named(folder: Path, tmp_path: Path):
    code, text = said("verify", changed(folder, tmp_path, '"event":"gather_quorum"', '"event":"gather_quorums"'))
    assert code == 3
    assert text.splitlines() == [
        "run toy-run: DOES NOT HOLD: record 1 was changed",
        "first bad record: 1",
        "chained without a gap: 1 records",
    ]
    code, text = said("verify", changed(folder, tmp_path, '"event":"gather_quorum"', '"event":"gather_quorums"'), "--json")
    assert (code, json.loads(text)["record"]) == (3, 1)


def test_the_command_leaves_with_its_exit_codes(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert run(["audit", "verify", str(folder / "state")]) == 0
    assert run(["audit", "verify", str(changed(folder, tmp_path, '"event":"gather_quorum"', '"event":"gather"'))]) == 3
    assert run(["audit", "verify", str(changed(folder, tmp_path, '"seq":1,', '"seq":"1",'))]) == 3
    assert "record 1 was changed" in capfd.readouterr().err
    assert run(["audit", "verify", str(tmp_path / "nothing")]) == 3
    assert run(["audit", "verify", str(tmp_path)]) == 3
    assert run(["audit", "verify"]) == 2
    throwaway(tmp_path / "other", "federation", SITES, ["localhost"])
    assert run(["audit", "verify", str(folder / "state"), "--certificates", str(tmp_path / "other")]) == 3
    assert "not signed by this federation's coordinator" in capfd.readouterr().out
    (tmp_path / "other" / "ca.pem").write_bytes((folder / "certificates" / "ca.pem").read_bytes())
    assert run(["audit", "verify", str(folder / "state"), "--certificates", str(tmp_path / "other")]) == 4


def test_checkpoints_from_a_site_are_held_against_the_trail(folder: Path, source: Path, tmp_path: Path):
    newest = read_trail(folder / "state").checkpoints[-1]
    note = tmp_path / "noted.jsonl"
    elsewhere = ToyTrail(run="another-run")
    elsewhere.append("coordinator", "create_run", run="another-run")
    note.write_text(f'{{"evidence":1}}\n{checkpoint_to_line(elsewhere.seal())}\n{checkpoint_to_line(newest)}\n')
    code, text = said("verify", source, "--certificates", folder / "certificates", "--checkpoints", note)
    assert code == 0
    assert "noted elsewhere: 1 checkpoints, all reached" in text
    assert read_checkpoints(folder / "export.jsonl", RunId("toy-run")) == read_trail(folder / "state").checkpoints


def test_a_trail_that_was_set_back_with_all_its_signatures_is_found_by_a_note(folder: Path, tmp_path: Path):
    trail = read_trail(folder / "state")
    last = trail.checkpoints[0].records
    lines = (folder / "export.jsonl").read_text().splitlines()
    records = [line for line in lines if line.startswith('{"actor"')][: last + 1]
    end = f'{{"end":{{"checkpoints":1,"countersignatures":0,"records":{last + 1}}}}}'
    back = tmp_path / "back.jsonl"
    back.write_text("\n".join([lines[0], *records, checkpoint_to_line(trail.checkpoints[0]), end]) + "\n")
    assert said("verify", back, "--certificates", folder / "certificates")[0] == 0
    code, text = said("verify", back, "--certificates", folder / "certificates", "--checkpoints", folder / "export.jsonl")
    assert code == 3
    assert "that was noted elsewhere says that there were more" in text


def test_records_are_shown_and_chosen(source: Path):
    _, text = said("show", source)
    records = read_trail(source).records
    assert len(text.splitlines()) == len(records) + 1
    assert "create_run" in text
    _, text = said("show", source, "--site", "a", "--event", "accept_update", "--round", "1")
    assert len(text.splitlines()) == 2
    _, text = said("show", source, "--json", "--site", "b")
    assert {json.loads(line)["actor"] for line in text.splitlines()} == {"site b"}
    _, text = said("show", source, "--json")
    assert [json.loads(line)["hash"] for line in text.splitlines()] == [record.hash for record in records]


def test_what_a_record_says_can_do_nothing_to_the_terminal(folder: Path, tmp_path: Path):
    file = changed(folder, tmp_path, '"event":"gather_quorum"', '"event":"\x1b[2J[bold]gather\u202e"'.replace("\x1b", "\\u001b"))
    text = file.read_text().replace("\\u001b", "\x1b")
    file.write_text(text)
    with pytest.raises(DataError, match="record 1 was changed"):
        said("show", file)
    from coordinator.audit.cli import _show_records  # noqa: PLC0415 - past the reader that refuses such a line
    from fedmentor.audit.chain import EMPTY, next_record  # noqa: PLC0415
    from fedmentor.testing.audit import START  # noqa: PLC0415

    shown = CliRunner()
    with shown.isolation() as (output, *_):
        _show_records([next_record(EMPTY, START, "site a", "\x1b[2J[bold]gather\u202e", {"x": "\x07[red]"})])
        written = output.getvalue().decode()
    assert not {"\x1b", "\u202e", "\x07"} & set(written)
    assert "[bold]gather" in written
    assert "[red]" in written


def test_an_export_is_the_same_trail(folder: Path, tmp_path: Path):
    _, text = said("export", folder / "state", tmp_path / "again.jsonl")
    assert "3 checkpoints, 2 countersignatures" in text
    assert (tmp_path / "again.jsonl").read_bytes() == (folder / "export.jsonl").read_bytes()
    assert read_trail(tmp_path / "again.jsonl") == read_trail(folder / "state")


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    return tmp_path / "strange"


def test_what_is_no_audit_trail_is_refused(folder: Path, strange: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_trail(strange)
    strange.write_bytes(b"\xff\xfe" * 100)
    with pytest.raises(DataError, match="not text"):
        read_trail(strange)
    strange.write_bytes(b"[" * (5 << 20))
    with pytest.raises(DataError, match="too long"):
        read_trail(strange)
    strange.write_text("{}\n")
    with pytest.raises(DataError, match="holds no checkpoint of run toy-run"):
        read_checkpoints(strange, RunId("toy-run"))
    with pytest.raises(DataError, match="holds no checkpoint of run another-run"):
        read_checkpoints(folder / "export.jsonl", RunId("another-run"))
    strange.unlink()
    strange.mkdir()
    with pytest.raises(ConfigError, match=JOURNAL_FILE):
        read_trail(strange)


TOOLS = ("bash", "openssl", "sha256sum", "xxd", "base64")


@pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason="needs the tools that docs/audit.md names")
def test_the_check_by_hand_works_as_it_is_written(folder: Path, tmp_path: Path):
    (block,) = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "audit.md").read_text(), re.DOTALL)
    shutil.copy(folder / "export.jsonl", tmp_path / "audit.jsonl")
    (tmp_path / "certificates").symlink_to(folder / "certificates")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=True)
    computed, stated, roster, checkpoint = done.stdout.splitlines()
    assert computed.split()[0] == stated.split('"')[3] == read_trail(folder / "state").records[5].hash
    assert roster == "Verified OK"
    assert checkpoint == "Signature Verified Successfully"
    (tmp_path / "audit.jsonl").write_text((folder / "export.jsonl").read_text().replace('"checkpoint":{', '"checkpoint":{ '))
    forged = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert forged.returncode != 0
    assert "Signature Verified Successfully" not in forged.stdout

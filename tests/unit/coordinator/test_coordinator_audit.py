"""The notary and the desk: what is signed when, what sites see, whose signature is taken; and no patient data in any of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.audit.notary import Notary, open_notary
from coordinator.phases.shutdown import COUNTERSIGN_GRACE_S
from coordinator.state import PhaseName
from coordinator.testing import ToyFederation
from fedmentor.audit import values_of
from fedmentor.audit.checkpoint import SignedCheckpoint, countersign, is_signed
from fedmentor.audit.keys import coordinator_signing_key, has_roster, keys_of, read_audit_keys, site_signing_key
from fedmentor.audit.review import review
from fedmentor.audit.vocabulary import CHECKPOINT_EVENT, COUNTERSIGN_EVENT
from fedmentor.errors import ConfigError, IdentityRefused, PolicyRefusal, UpdateRejected
from fedmentor.federation import CHUNK_BYTES
from fedmentor.identity.authority import throwaway
from fedmentor.identity.layout import COORDINATOR_FOLDER, SIGNING_KEY_FILE, SITES_FOLDER
from fedmentor.identity.roster import ROSTER_FILE, read_roster
from fedmentor.ids import SiteId
from fedmentor.testing.audit import ToyTrail

ROOT = Path(__file__).resolve().parents[3]
KEYS = ToyTrail()
A, B = SiteId("a"), SiteId("b")


def trail_of(federation: ToyFederation):
    """The whole audit trail, as an export has it."""
    from coordinator.audit.reading import _trail  # noqa: PLC0415 - inside the engine's own journal

    return federation.engine.journal.run_tx("read_audit", _trail)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[ToyFederation]:
    made = ToyFederation(tmp_path, notary=Notary(KEYS.coordinator_key, lambda: KEYS.keys))
    made.connect()
    yield made
    made.close()


def witnessed(federation: ToyFederation, *sites: str) -> None:
    """Let sites sign the newest checkpoint."""
    checkpoint = federation.engine.journal.run_tx("read", lambda tx: tx.checkpoint()).checkpoint
    for site in sites:
        made = countersign(checkpoint, SiteId(site), KEYS.site_keys[SiteId(site)])
        federation.engine.service.countersign(SiteId(site), checkpoint, made.signature)


# --- the notary ---


def test_every_published_round_and_the_end_are_sealed(federation: ToyFederation):
    federation.play()
    assert federation.settle() is PhaseName.SHUTDOWN
    trail = trail_of(federation)
    ends = [record for record in trail.records if record.event in ("publish_round", "complete_run")]
    assert [signed.records for signed in trail.checkpoints] == [record.seq + 1 for record in ends]
    assert [signed.checkpoint.head for signed in trail.checkpoints] == [record.hash for record in ends]
    after = [trail.records[record.seq + 1] for record in ends]
    assert {record.event for record in after} == {CHECKPOINT_EVENT}
    assert [values_of(record)["round"] for record in after] == [0, 1, 2]
    assert all(is_signed(signed, KEYS.keys) for signed in trail.checkpoints)
    assert review(trail, KEYS.keys).sound


def test_the_end_of_a_run_that_failed_is_sealed(federation: ToyFederation):
    for site in "bc":
        federation.leave(site)
    federation.clock.advance(1000.0)
    for _ in range(6):
        federation.settle()
        federation.clock.advance(1000.0)
    trail = trail_of(federation)
    assert trail.records[-2].event == "fail_run"
    assert trail.checkpoints[-1].records == len(trail.records) - 1
    assert review(trail, KEYS.keys).sound


def test_the_seal_is_part_of_the_transaction_that_publishes(federation: ToyFederation):
    class Broken(Exception):
        """The process ends here."""

    def refuse() -> None:
        raise Broken

    federation.engine.service.close()
    broken = Notary(KEYS.coordinator_key, lambda: KEYS.keys)
    broken.seal = lambda *_arguments: refuse()  # type: ignore[method-assign] # dies between the two writes
    federation._notary = broken
    federation.reopen()
    federation.connect()
    with pytest.raises(Broken):
        federation.play()
    before = federation.moment.state
    assert before.phase is PhaseName.PUBLISH
    assert trail_of(federation).checkpoints == ()
    federation._notary = Notary(KEYS.coordinator_key, lambda: KEYS.keys)
    federation.reopen()
    federation.connect()
    federation.play()
    assert review(trail_of(federation), KEYS.keys).checkpoints


def test_without_a_notary_there_are_no_checkpoints(tmp_path: Path):
    federation = ToyFederation(tmp_path)
    federation.connect()
    federation.play()
    trail = trail_of(federation)
    assert trail.checkpoints == ()
    assert {record.event for record in trail.records} & {CHECKPOINT_EVENT, COUNTERSIGN_EVENT} == set()
    assert next(federation.engine.service.fetch_audit(A, 0)) == trail.records
    with pytest.raises(PolicyRefusal, match="signs no checkpoints"):
        federation.engine.service.countersign(A, KEYS.seal().checkpoint, bytes(64))
    federation.close()


# --- the desk ---


def test_sites_see_the_newest_checkpoint_and_then_every_record(federation: ToyFederation):
    federation.play()
    trail = trail_of(federation)
    first, *pages = federation.engine.service.fetch_audit(A, 0)
    assert first == trail.checkpoints[-1]
    assert [record for page in pages for record in page] == list(trail.records)
    _, *pages = federation.engine.service.fetch_audit(A, 5)
    assert [record for page in pages for record in page] == list(trail.records[5:])
    assert list(federation.engine.service.fetch_audit(A, 10_000)) == [first]
    assert len(list(federation.engine.service.fetch_audit(A, 0))) == 2


def test_pages_are_small(federation: ToyFederation):
    def long(tx) -> None:
        for number in range(600):
            tx.audit("coordinator", "x", {"reason": "x" * (CHUNK_BYTES // 3 if number % 200 == 0 else 10)})

    federation.engine.journal.run_tx("long", long)
    pages = list(federation.engine.service.fetch_audit(A, 0))
    assert [record.seq for page in pages for record in page] == list(range(601))
    assert len(pages) == 3, "three long records and their neighbours are over one page; the rest is another slice"
    assert all(sum(len(record.fields) for record in page) <= CHUNK_BYTES for page in pages)


def test_a_signature_is_kept_once_and_recorded(federation: ToyFederation):
    federation.play()
    before = len(trail_of(federation).records)
    witnessed(federation, "a", "a", "b", "a")
    trail = trail_of(federation)
    assert [item.site for item in trail.countersignatures] == [A, B]
    assert [record.actor for record in trail.records[before:]] == ["site a", "site b"]
    assert {record.event for record in trail.records[before:]} == {COUNTERSIGN_EVENT}
    assert review(trail, KEYS.keys).countersigned[trail.checkpoints[-1].records] == (A, B)


def test_an_older_checkpoint_may_still_be_signed(federation: ToyFederation):
    federation.play()
    oldest = trail_of(federation).checkpoints[0].checkpoint
    federation.engine.service.countersign(A, oldest, countersign(oldest, A, KEYS.site_keys[A]).signature)
    assert review(trail_of(federation), KEYS.keys).countersigned[oldest.records] == (A,)


def test_nobody_elses_signature_is_taken(federation: ToyFederation):
    federation.play()
    service, checkpoint = federation.engine.service, trail_of(federation).checkpoints[-1].checkpoint
    mine = countersign(checkpoint, A, KEYS.site_keys[A]).signature
    for site, what, signature, reason in (
        (B, checkpoint, mine, "not that of site b"),
        (A, checkpoint, bytes(64), "not that of site a"),
        (A, replace(checkpoint, utc="2026-01-01T00:00:01+00:00"), mine, "not that of site a"),
    ):
        with pytest.raises(PolicyRefusal, match=reason):
            service.countersign(site, what, signature)
    never = replace(checkpoint, records=checkpoint.records + 1)
    with pytest.raises(PolicyRefusal, match="no such checkpoint"):
        service.countersign(A, never, countersign(never, A, KEYS.site_keys[A]).signature)
    stranger = SiteId("stranger")
    with pytest.raises(IdentityRefused):
        service.countersign(stranger, checkpoint, mine)
    with pytest.raises(IdentityRefused):
        next(service.fetch_audit(stranger, 0))
    assert trail_of(federation).countersignatures == ()


# --- the end of a run ---


def over(federation: ToyFederation) -> bool:
    """Whether the driver is done."""
    return federation.engine.driver.step() is None


def told(federation: ToyFederation, *signers: str) -> None:
    """A run is over and every site knows; these have signed the first checkpoint."""
    federation.play()
    oldest = trail_of(federation).checkpoints[0].checkpoint
    for site in signers:
        made = countersign(oldest, SiteId(site), KEYS.site_keys[SiteId(site)])
        federation.engine.service.countersign(SiteId(site), oldest, made.signature)
    for site in "abc":
        federation.stream(site).poll()
        federation.leave(site)


def test_the_coordinator_waits_for_the_last_signatures_of_those_who_were_told(federation: ToyFederation):
    told(federation, "a", "b", "c")
    assert not over(federation)
    witnessed(federation, "a", "b")
    assert not over(federation)
    witnessed(federation, "c")
    assert over(federation)


def test_a_site_that_signs_no_more_holds_nobody_up_for_long(federation: ToyFederation):
    told(federation, "a", "b", "c")
    witnessed(federation, "a", "b")
    federation.clock.advance(COUNTERSIGN_GRACE_S - 1)
    assert not over(federation)
    federation.clock.advance(1.5)
    assert over(federation)


def test_a_site_that_never_signed_is_not_waited_for(federation: ToyFederation):
    told(federation, "a", "b")
    witnessed(federation, "a", "b")
    assert over(federation)


# --- keys ---


def test_the_notary_of_a_folder(tmp_path: Path):
    throwaway(tmp_path, "federation", [A, B], ["localhost"])
    assert has_roster(tmp_path)
    notary = open_notary(tmp_path)
    assert notary is not None
    assert notary.keys() == keys_of(read_roster(tmp_path)) == read_audit_keys(tmp_path)
    assert set(notary.keys().sites) == {A, B}
    assert site_signing_key(tmp_path, A, notary.keys()).public_key().public_bytes_raw() == notary.keys().sites[A]


def test_an_older_folder_has_no_notary(tmp_path: Path):
    throwaway(tmp_path, "federation", [A], ["localhost"])
    (tmp_path / ROSTER_FILE).unlink()
    assert open_notary(tmp_path) is None


def test_a_key_that_is_not_on_the_roster_is_refused(tmp_path: Path):
    throwaway(tmp_path, "federation", [A, B], ["localhost"])
    keys = read_audit_keys(tmp_path)
    coordinator = tmp_path / COORDINATOR_FOLDER / SIGNING_KEY_FILE
    site = tmp_path / SITES_FOLDER / A / SIGNING_KEY_FILE
    site.write_bytes(coordinator.read_bytes())
    with pytest.raises(ConfigError, match="not the key that stands on the federation's roster"):
        site_signing_key(tmp_path, A, keys)
    coordinator.write_bytes((tmp_path / SITES_FOLDER / B / SIGNING_KEY_FILE).read_bytes())
    with pytest.raises(ConfigError, match="not the key that stands on the federation's roster"):
        coordinator_signing_key(tmp_path, keys)
    with pytest.raises(ConfigError):
        open_notary(tmp_path)
    coordinator.unlink()
    with pytest.raises(ConfigError):
        open_notary(tmp_path)


# --- what stands in it ---

EVENT_ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", re.MULTILINE)
RECORDED = {"audit", "transition", "Refusals"}
"""Functions whose calls make audit records; the event's name is a text among the arguments."""


def documented() -> dict[str, set[str]]:
    """Events and their fields as docs/audit.md has them: the allow-list."""
    rows = EVENT_ROW.findall((ROOT / "docs" / "audit.md").read_text())
    return {event: set(re.findall(r"`(\w+)`", fields)) for event, fields in rows}


def event_of(argument: ast.expr) -> str | None:
    """A literal name, or how a name that is put together begins."""
    first = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def test_every_event_in_the_code_is_on_the_list():
    allowed = documented()
    for path in sorted((ROOT / "coordinator").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in RECORDED:
                continue
            for argument in node.args:
                known = event_of(argument)
                assert known is None or any(
                    event == known or (isinstance(argument, ast.JoinedStr) and event.startswith(known)) for event in allowed
                ), f"{path}:{node.lineno} records something that docs/audit.md does not list"


def test_no_field_is_recorded_that_is_not_on_the_list(federation: ToyFederation):
    federation.settle()
    header = federation.header(b"abcd")
    with pytest.raises(UpdateRejected):
        federation.send("a", b"abcd", replace(header, size_bytes=8))
    federation.play("bc")
    federation.clock.advance(1000.0)
    federation.play()
    witnessed(federation, "a")
    seen: dict[str, set[str]] = {}
    for record in trail_of(federation).records:
        seen.setdefault(record.event, set()).update(values_of(record))
    assert len(seen) >= 10
    allowed = documented()
    for event, fields in seen.items():
        assert fields <= allowed[event], event


def test_what_could_name_a_patient_is_not_on_the_list():
    names = {field for fields in documented().values() for field in fields}
    assert not {name for name in names if re.search(r"patient(?!s$)|image|file|path|name|birth|sex|age$", name)}


def test_a_page_begins_with_a_signed_checkpoint_or_not_at_all(federation: ToyFederation):
    assert not isinstance(next(federation.engine.service.fetch_audit(A, 0)), SignedCheckpoint)

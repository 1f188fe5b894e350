"""The review finds what does not hold, and names the first bad record; exports read back and no edit of a line goes unseen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmentor.audit.chain import head_of, next_record
from fedmentor.audit.checkpoint import Countersignature, SignedCheckpoint
from fedmentor.audit.export import AuditTrail, checkpoint_from_line, checkpoint_to_line, export_lines, trail_from_lines
from fedmentor.audit.review import Fault, review
from fedmentor.errors import DataError
from fedmentor.ids import RunId, SiteId
from fedmentor.testing.audit import START, ToyTrail


def toy() -> ToyTrail:
    """Two rounds, a checkpoint after each; a and b sign the first one, all sign the second; one record is open."""
    made = ToyTrail()
    made.append("coordinator", "create_run", run="toy-run", roster="a b c")
    for round_, signers in enumerate(("ab", "abc")):
        for site in "abc":
            made.append(f"site {site}", "accept_update", round=round_, attempt=1, sha256="0" * 64)
        made.append("coordinator", "publish_round", round=round_, model="1" * 64)
        made.seal()
        for site in signers:
            made.sign(site)
    made.append("coordinator", "gather_quorum", connected=3)
    return made


TOY = toy()
TRAIL = TOY.trail
LINES = list(export_lines(TRAIL))


def test_a_whole_trail_is_sound():
    found = review(TRAIL, TOY.keys, TRAIL.checkpoints)
    assert found.sound
    assert found.signatures_checked
    assert found.head == head_of(TRAIL.records[-1])
    assert found.checkpoints == (5, 12)
    assert found.countersigned == {5: ("a", "b"), 12: ("a", "b", "c")}
    assert found.open_records == len(TRAIL.records) - 12
    assert found.noted == 2


def test_without_keys_signatures_are_not_checked_but_held_against_the_chain():
    found = review(TRAIL)
    assert found.sound
    assert not found.signatures_checked
    forged = replace(TRAIL.checkpoints[0], signature=bytes(64))
    found = review(replace(TRAIL, checkpoints=(forged, *TRAIL.checkpoints[1:])))
    assert found.fault == Fault("record 5 tells of a checkpoint that is not there", 5)
    young = ToyTrail()
    young.append("coordinator", "create_run", run="toy-run")
    before = young.trail
    untold = review(replace(before, checkpoints=(young.seal(),)))
    assert untold.fault == Fault("no record tells of the checkpoint of the coordinator under 1 records")


def changed(**changes: object) -> AuditTrail:
    return replace(TRAIL, **changes)


def rechained(records: tuple, position: int, event: str) -> tuple:
    """The same records with another event at ``position``, and every hash after it made to fit: what an insider can do."""
    made: list = list(records[:position])
    for old in records[position:]:
        head = head_of(made[-1])
        fresh = next_record(head, START, old.actor, event if old.seq == position else old.event, {})
        made.append(replace(fresh, fields=old.fields, utc=old.utc))
        made[-1] = honest_hash(made[-1])
    return tuple(made)


def honest_hash(record):
    from fedmentor.audit.chain import _Content, _hash  # noqa: PLC0415 - an insider knows how it is made

    content = _Content(record.seq, record.prev_hash, record.utc, record.actor, record.event, record.fields)
    return replace(record, hash=_hash(content))


@pytest.mark.parametrize(
    ("trail", "record", "reason"),
    [
        (changed(records=()), 0, "no record"),
        (changed(records=TRAIL.records[1:]), 0, "missing"),
        (changed(records=TRAIL.records[:4] + TRAIL.records[5:]), 4, "missing"),
        (changed(records=TRAIL.records[:9]), 9, "says that there were more"),
        (changed(records=rechained(TRAIL.records, 2, "refuse_update")), 4, "not the one that the checkpoint"),
        (changed(run=RunId("other")), 0, "creation of run other"),
        (
            changed(checkpoints=TRAIL.checkpoints[1:], countersignatures=TRAIL.countersignatures[2:]),
            5,
            "checkpoint that is not there",
        ),
        (changed(checkpoints=TRAIL.checkpoints[::-1]), None, "twice or out of order"),
        (changed(checkpoints=(TRAIL.checkpoints[0], *TRAIL.checkpoints)), None, "twice or out of order"),
        (changed(countersignatures=TRAIL.countersignatures[1:]), 6, "countersignature that is not there"),
        (changed(countersignatures=TRAIL.countersignatures[::-1]), None, "twice or out of order"),
        (changed(countersignatures=(*TRAIL.countersignatures, TRAIL.countersignatures[-1])), None, "twice or out of order"),
        (
            changed(countersignatures=(replace(TRAIL.countersignatures[0], signature=bytes(64)), *TRAIL.countersignatures[1:])),
            None,
            "is not that site's",
        ),
        (changed(countersignatures=(Countersignature(4, SiteId("a"), bytes(64)), *TRAIL.countersignatures)), None, "no checkpoint"),
        (
            changed(checkpoints=(replace(TRAIL.checkpoints[0], signature=bytes(64)), TRAIL.checkpoints[1])),
            None,
            "not signed by this federation's coordinator",
        ),
    ],
)
def test_what_does_not_hold_is_named(trail: AuditTrail, record: int | None, reason: str):
    found = review(trail, TOY.keys)
    assert not found.sound
    assert reason in found.fault.reason
    assert found.fault.record == record


def test_a_chain_that_is_cut_together_with_its_signatures_is_found_by_what_was_noted_elsewhere():
    cut = TOY.cut(6).trail
    assert review(cut, TOY.keys).sound
    found = review(cut, TOY.keys, TRAIL.checkpoints[1:])
    reason = "the chain ends after 6 records; the checkpoint of 12 records that was noted elsewhere says that there were more"
    assert found.fault == Fault(reason, 6)


def test_a_chain_of_another_federation_or_run_is_no_witness():
    stranger = ToyTrail()
    stranger.append("coordinator", "create_run", run="toy-run")
    other = stranger.seal()
    assert "not signed" in review(TRAIL, TOY.keys, [other]).fault.reason
    elsewhere = replace(other, checkpoint=replace(other.checkpoint, run=RunId("other")))
    assert "another run" in review(TRAIL, None, [elsewhere]).fault.reason


def test_an_export_reads_back():
    assert trail_from_lines(f"{line}\n" for line in LINES) == TRAIL
    assert checkpoint_from_line(checkpoint_to_line(TRAIL.checkpoints[0])) == TRAIL.checkpoints[0]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "empty"),
        (["{}"], "line 1 .* not an audit export"),
        (['{"export":2,"run":"toy-run"}'], "not an audit export"),
        (['{"export":1,"run":"Toy Run"}'], "of any run"),
        (LINES[:-1], "no end"),
        ([*LINES, ""], "follows the end"),
        ([*LINES[:5], *LINES[6:]], "neither a record"),
        ([*LINES[:3], "x" * ((1 << 20) + 1), *LINES[3:]], "line 4 .* too long"),
        ([*LINES[:3], LINES[3].replace('"utc"', ' "utc"'), *LINES[4:]], "line 4 .* record 2 was changed"),
        ([*LINES[:3], LINES[-2], *LINES[3:]], "record stands behind"),
        ([*LINES[:-1], LINES[-3].replace('"records":12', '"records":"12"'), LINES[-1]], "not a countersignature"),
        ([*LINES[:-1], '{"countersignature":"!","records":1,"site":"a"}', LINES[-1]], "not a countersignature"),
        ([*LINES[:-1], '{"countersignature":"","records":1,"site":"A"}', LINES[-1]], "not a countersignature"),
        ([*LINES[:-1], '{"checkpoint":{},"signature":""}', LINES[-1]], "behind the countersignatures"),
    ],
)
def test_what_is_no_export_is_refused(lines: list[str], reason: str):
    with pytest.raises(DataError, match=reason):
        trail_from_lines(lines)


@pytest.mark.parametrize(
    "line", ["", "[]", "{}", '{"checkpoint":{},"signature":""}', '{"checkpoint":1,"signature":"AAAA"}', "[" * 100_000]
)
def test_what_is_no_checkpoint_line_is_refused(line: str):
    with pytest.raises(DataError):
        checkpoint_from_line(line)


@settings(max_examples=150)
@given(st.integers(0, len(LINES) - 1), st.integers(0, 10_000), st.integers(0, 6))
def test_no_flipped_bit_goes_unseen(number: int, where: int, bit: int):
    line = LINES[number]
    where %= len(line)
    flipped = line[:where] + chr(ord(line[where]) ^ 1 << bit) + line[where + 1 :]
    assert flipped != line
    try:
        found = review(trail_from_lines([*LINES[:number], flipped, *LINES[number + 1 :]]), TOY.keys)
    except DataError:
        return
    assert not found.sound


@given(st.lists(st.text(max_size=80), max_size=5))
def test_no_lines_do_more_than_be_refused(lines: list[str]):
    with pytest.raises(DataError):
        trail_from_lines(lines)


def test_a_signature_of_another_coordinator_is_not_taken():
    other = ToyTrail()
    signed = SignedCheckpoint(TRAIL.checkpoints[0].checkpoint, other.coordinator_key.sign(b"x"))
    assert "not signed" in review(changed(checkpoints=(signed, TRAIL.checkpoints[1])), TOY.keys).fault.reason

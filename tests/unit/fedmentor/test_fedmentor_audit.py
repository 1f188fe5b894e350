"""The audit chain: every edit, drop, swap and truncation is found, and the first bad record is named."""

from dataclasses import fields, replace
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmentor.audit import EMPTY, AuditRecord, head_of, next_record, record_from_line, record_to_line, verify
from fedmentor.errors import DataError
from fedmentor.ids import Digest

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def _chain(length):
    records, head = [], EMPTY
    for number in range(length):
        records.append(next_record(head, NOW, f"site s{number % 3}", "accept_update", {"round": number, "dice": 0.5, "ok": True}))
        head = head_of(records[-1])
    return records


CHAIN = _chain(12)
HEAD = head_of(CHAIN[-1])


def test_a_sound_chain():
    verdict = verify(CHAIN, HEAD)
    assert verdict.sound
    assert verdict.head == HEAD
    assert verify([]).sound
    assert verify(CHAIN, EMPTY).sound
    assert verify(CHAIN, head_of(CHAIN[4])).sound


@settings(max_examples=300)
@given(st.integers(0, 11), st.sampled_from([field.name for field in fields(AuditRecord)]), st.integers(0, 200), st.integers(1, 127))
def test_any_edit_names_its_record(position, name, where, flip):
    record = CHAIN[position]
    value = getattr(record, name)
    if name == "seq":
        changed = value + flip
    else:
        where %= len(value)
        changed = value[:where] + chr(ord(value[where]) ^ flip) + value[where + 1 :]
    records = [*CHAIN[:position], replace(record, **{name: changed}), *CHAIN[position + 1 :]]
    assert verify(records).first_bad == position


@given(st.integers(0, 10), st.integers(0, 11))
def test_drops_and_swaps_are_found(position, other):
    dropped = CHAIN[:position] + CHAIN[position + 1 :]
    assert verify(dropped, HEAD).first_bad == position
    swapped = list(CHAIN)
    swapped[position], swapped[other] = swapped[other], swapped[position]
    assert verify(swapped).first_bad == (None if position == other else min(position, other))


@given(st.integers(0, 11))
def test_truncation_is_found_against_a_noted_head(length):
    assert verify(CHAIN[:length]).sound
    assert verify(CHAIN[:length], HEAD).first_bad == length


def test_a_rewritten_chain_is_found_against_a_noted_head():
    forged = _chain(3)
    for number in range(3, 12):
        forged.append(next_record(head_of(forged[-1]), NOW, "site x", "accept_update", {"round": number}))
    assert verify(forged).sound
    assert verify(forged, HEAD).first_bad == 11


def test_lines_read_back():
    assert [record_from_line(record_to_line(record)) for record in CHAIN] == CHAIN


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{}",
        "nonsense",
        "[" * 100_000,
        '{"seq": true}',
        record_to_line(CHAIN[0]).replace('"seq":0', '"seq":"0"'),
        record_to_line(CHAIN[0]).replace("site s0", "\\ud800"),
    ],
)
def test_lines_that_are_no_record_are_refused(line):
    with pytest.raises(DataError):
        record_from_line(line)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", [1], {"a": 1}])
def test_only_plain_values_are_recorded(value):
    with pytest.raises(DataError, match="'x'"):
        next_record(EMPTY, NOW, "coordinator", "e", {"x": value})


def test_the_form_is_fixed():
    """A chain that was written years ago must still verify; the hash is that of sorted, dense UTF-8 JSON (sha256sum agrees)."""
    record = next_record(EMPTY, NOW, "coordinator", "create_run", {"b": 1, "a": "é"})
    assert record == AuditRecord(
        seq=0,
        prev_hash=Digest("0" * 64),
        utc="2026-01-01T00:00:00+00:00",
        actor="coordinator",
        event="create_run",
        fields='{"a":"é","b":1}',
        hash=Digest("18c75c70052b475f2b0701cd68c4bd65e653a2b12799a469c072bdf3ce6ff436"),
    )

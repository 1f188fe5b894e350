"""Audit messages: as they were signed and chained, or refused."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.audit.checkpoint import countersign
from fedmentor.errors import DataError, FedMentorError
from fedmentor.ids import SiteId
from fedmentor.testing.audit import ToyTrail
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb

TRAIL = ToyTrail()
TRAIL.append("coordinator", "create_run", run="toy-run", reason="é\u2028")
SIGNED = TRAIL.seal()


def test_a_checkpoint_travels_as_it_was_signed():
    part = codec.audit_page_to_wire(SIGNED)
    assert part.WhichOneof("kind") == "checkpoint"
    assert part.checkpoint.content == SIGNED.checkpoint.to_bytes()
    assert codec.checkpoint_from_wire(part.checkpoint) == SIGNED


def test_records_travel_in_order():
    part = codec.audit_page_to_wire(tuple(TRAIL.records))
    assert part.WhichOneof("kind") == "records"
    assert list(codec.records_from_wire(part.records)) == TRAIL.records


def test_a_countersignature_travels_with_what_it_is_under():
    mine = countersign(SIGNED.checkpoint, SiteId("a"), TRAIL.site_keys[SiteId("a")])
    message = codec.countersignature_to_wire(SIGNED.checkpoint, mine.signature)
    assert codec.countersignature_from_wire(message) == (SIGNED.checkpoint, mine.signature)


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff", b"[]", b'{"seq":0}'])
def test_what_is_no_record_is_refused(line):
    with pytest.raises(DataError):
        list(codec.records_from_wire(pb.AuditRecords(lines=[line])))


@pytest.mark.parametrize("content", [b"", SIGNED.checkpoint.to_bytes() + b" "])
def test_what_is_no_checkpoint_is_refused(content):
    with pytest.raises(DataError):
        codec.checkpoint_from_wire(pb.Checkpoint(content=content, signature=bytes(64)))
    with pytest.raises(DataError):
        codec.countersignature_from_wire(pb.Countersignature(content=content, signature=bytes(64)))


@given(st.binary(max_size=300))
def test_bytes_from_anywhere_give_a_value_or_a_domain_error(data):
    for kind, decode in ((pb.AuditPart, None), (pb.Countersignature, codec.countersignature_from_wire)):
        try:
            message = kind.FromString(data)
        except DecodeError:
            continue
        try:
            if decode is not None:
                decode(message)
            elif message.WhichOneof("kind") == "records":
                list(codec.records_from_wire(message.records))
            else:
                codec.checkpoint_from_wire(message.checkpoint)
        except FedMentorError:
            continue

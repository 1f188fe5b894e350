"""Both links: updates, scores, answers and refusals, each at most once, whatever is lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from link_federation import MODEL, NORTH, SITES, START, Coordinator, Serving, scores, servicer_of, update

from coordinator.app import Engine
from coordinator.servicer import Servicer
from fed_node.link import GrpcLink
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal, RoundClosed, UpdateConflict, UpdateRejected
from fedmentor.federation import CHUNK_BYTES, Offset, StepAnswer, StepName, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round
from fedmentor.tensors import sha256_hex
from fedmentor.testing.link import DirectLink, LinkFaults
from fedmentor.wire import codec
from fedmentor.wire.v1 import federation_pb2 as pb


def test_an_update_gets_a_receipt_and_the_same_one_again(coordinator: Coordinator):
    coordinator.open_round()
    header, words = update(NORTH)
    receipt = coordinator.link_of(NORTH).send_update(header, words)
    assert (receipt.round, receipt.site, receipt.sha256) == (START, NORTH, header.sha256)
    assert coordinator.link_of(NORTH).send_update(header, words) == receipt


def test_an_update_goes_on_from_what_is_stored(coordinator: Coordinator):
    coordinator.open_round()
    header, words = update(NORTH)
    coordinator.engine.service.append_update(NORTH, header, 0, words[:CHUNK_BYTES])
    coordinator.engine.service.append_update(NORTH, header, CHUNK_BYTES, words[CHUNK_BYTES : CHUNK_BYTES + 1000])
    assert coordinator.link_of(NORTH).send_update(header, words).sha256 == header.sha256


def test_stored_bytes_that_turn_out_damaged_are_sent_again(coordinator: Coordinator):
    coordinator.open_round()
    header, words = update(NORTH)
    coordinator.engine.service.append_update(NORTH, header, 0, bytes(CHUNK_BYTES))
    assert coordinator.link_of(NORTH).send_update(header, words).sha256 == header.sha256


def test_another_update_is_a_conflict(coordinator: Coordinator):
    coordinator.open_round()
    link = coordinator.link_of(NORTH)
    link.send_update(*update(NORTH))
    with pytest.raises(UpdateConflict):
        link.send_update(*update(NORTH, scale=2e-3))


def test_refusals_arrive_as_the_class_they_left_as(coordinator: Coordinator):
    link = coordinator.link_of(NORTH)
    header, words = update(NORTH)
    with pytest.raises(RoundClosed):
        link.send_update(header, words)
    coordinator.open_round()
    with pytest.raises(RoundClosed):
        link.send_update(replace(header, round=replace(START, attempt=Attempt(2))), words)
    with pytest.raises(UpdateRejected):
        link.send_update(replace(header, base_model=Digest("0" * 64)), words)
    with pytest.raises(UpdateRejected):
        link.report_scores(replace(scores(), model=Digest("0" * 64)))


def test_scores_are_kept_once(coordinator: Coordinator):
    coordinator.open_round()
    link = coordinator.link_of(NORTH)
    link.report_scores(scores(0.5))
    link.report_scores(scores(0.9))
    kept = coordinator.engine.journal.run_tx("read", lambda tx: tx.scores())
    assert [(one.site, one.dice, one.hd95) for one in kept] == [(NORTH, 0.5, None)]


def test_nobody_waits_for_a_site_that_sits_out(coordinator: Coordinator):
    coordinator.open_round()
    for site in SITES[1:]:
        coordinator.link_of(site).send_update(*update(site))
    for _ in range(2):  # a repeat is acknowledged
        coordinator.link_of(SITES[0]).sit_out(START, "its training diverged")
    coordinator.link_of(SITES[0]).sit_out(replace(START, round=Round(7)), "a round that is not in force changes nothing")
    coordinator.settle()
    assert "2 of 3 needed updates arrived, no other is to come" in coordinator.engine.report().reason


@pytest.mark.parametrize("step", [StepName.ADVERTISE, StepName.SHARE, StepName.CONSENT, StepName.REVEAL])
def test_an_answer_to_a_run_that_does_not_aggregate_securely_is_refused(coordinator: Coordinator, step: StepName):
    coordinator.open_round()
    with pytest.raises(UpdateRejected, match="does not aggregate securely"):
        coordinator.link_of(NORTH).answer_step(StepAnswer(START, step, b"signed"))


def test_a_lost_reply_leaves_the_update_accepted_and_a_lost_request_does_not(engine: Engine):
    direct = Coordinator(engine, lambda site: DirectLink(site, lambda: engine.service))
    direct.open_round()
    header, words = update(NORTH)
    link = DirectLink(NORTH, lambda: engine.service, LinkFaults(drop_requests=1))
    with pytest.raises(CoordinatorUnreachable, match="request"):
        link.send_update(header, words)
    assert not engine.journal.run_tx("read", lambda tx: tx.updates(Round(0), Attempt(1)))
    link.faults.drop_replies = 1
    with pytest.raises(CoordinatorUnreachable, match="reply"):
        link.send_update(header, words)
    (accepted,) = engine.journal.run_tx("read", lambda tx: tx.updates(Round(0), Attempt(1)))
    assert link.send_update(header, words) == accepted.receipt


def test_a_cut_transfer_keeps_what_came(engine: Engine):
    Coordinator(engine, lambda site: DirectLink(site, lambda: engine.service)).open_round()
    link = DirectLink(NORTH, lambda: engine.service, LinkFaults(cut_after_chunks=2))
    header, words = update(NORTH)
    with pytest.raises(CoordinatorUnreachable, match="cut"):
        link.send_update(header, words)
    assert engine.service.offer_update(NORTH, header).bytes_stored == 2 * CHUNK_BYTES
    link.faults.cut_after_chunks = 1
    assert len(link.fetch_model(MODEL)) == MODEL.size_bytes, "a model goes on by itself while bytes come"


class Generous(Servicer):
    """Always has a byte more than before."""

    stored = 0

    async def OfferUpdate(self, request: Any, context: Any) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        del request, context
        type(self).stored += 1
        return codec.state_to_wire(Offset(self.stored))

    async def SendUpdate(self, request_iterator: Any, context: Any) -> pb.UpdateState:  # noqa: N802 - the proto's name
        """See federation.proto."""
        assert type(self).stored < 100, "the site would go on for ever"
        return await self.OfferUpdate(request_iterator, context)


def test_more_stored_bytes_than_the_update_has_are_refused(engine: Engine, serving: Serving, grpc_links: Callable[..., GrpcLink]):
    Generous.stored = 0
    link = grpc_links(serving.start(servicer_of(engine, Generous)), NORTH)
    words = b"abcd"
    with pytest.raises(PolicyRefusal, match="bytes of an update of 4"):
        link.send_update(UpdateHeader(START, sha256_hex([words]), len(words), MODEL.digest), words)

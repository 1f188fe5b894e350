"""Both links: the audit trail arrives behind its newest checkpoint, and countersignatures are taken once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from link_federation import MODEL, NORTH, SIGNERS, SITES, Coordinator, update

from fedmentor.audit.checkpoint import SignedCheckpoint, countersign
from fedmentor.errors import PolicyRefusal
from fedmentor.federation import ModelRef


def publish(coordinator: Coordinator) -> SignedCheckpoint:
    """Let everybody deliver; gives the checkpoint of the published round."""
    coordinator.open_round()
    for site in SITES:
        coordinator.link_of(site).send_update(*update(site))
    coordinator.settle()
    signed = coordinator.engine.journal.run_tx("read", lambda tx: tx.checkpoint())
    assert signed is not None
    return signed


def test_the_audit_trail_arrives_whole_behind_its_newest_checkpoint(coordinator: Coordinator):
    link = coordinator.link_of(NORTH)
    assert [item.event for item in link.fetch_audit(0)] == ["create_run"], "nothing is signed yet"
    signed = publish(coordinator)
    records = coordinator.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    assert list(link.fetch_audit(0)) == [signed, *records]
    assert list(link.fetch_audit(4)) == [signed, *records[4:]]
    assert list(link.fetch_audit(len(records))) == [signed]


def test_who_has_enough_of_the_audit_trail_may_stop(coordinator: Coordinator):
    publish(coordinator)
    link = coordinator.link_of(NORTH)
    for _ in range(3):
        items = link.fetch_audit(0)
        next(items)
        next(items)
        items.close()
    assert link.fetch_model(coordinator_model(coordinator)), "the line is as good as before"


def coordinator_model(coordinator: Coordinator) -> ModelRef:
    """The model in force."""
    return replace(MODEL, digest=coordinator.engine.journal.run_tx("read", lambda tx: tx.state()).model)


def test_a_countersignature_is_kept_once(coordinator: Coordinator):
    checkpoint = publish(coordinator).checkpoint
    mine = countersign(checkpoint, NORTH, SIGNERS.site_keys[NORTH])
    for _ in range(2):
        coordinator.link_of(NORTH).countersign(checkpoint, mine.signature)
    assert coordinator.engine.journal.run_tx("read", lambda tx: tx.countersignatures()) == (mine,)


def test_a_countersignature_that_is_not_the_sites_is_refused(coordinator: Coordinator):
    checkpoint = publish(coordinator).checkpoint
    mine = countersign(checkpoint, NORTH, SIGNERS.site_keys[NORTH])
    with pytest.raises(PolicyRefusal, match="not that of site east"):
        coordinator.link_of(SITES[0]).countersign(checkpoint, mine.signature)
    never = replace(checkpoint, records=checkpoint.records + 1)
    with pytest.raises(PolicyRefusal, match="no such checkpoint"):
        coordinator.link_of(NORTH).countersign(never, countersign(never, NORTH, SIGNERS.site_keys[NORTH]).signature)

"""A site as witness of honest coordinators: what it follows, signs and knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from witness_site import MODELS, SITE, Site, begin, manifest, publish, said_by, train

from fed_node.events import SessionEvent, Witnessed, WitnessOff
from fed_node.witness import NoWitness
from fed_node.witness_store import Noted
from fedmentor.audit import head_of
from fedmentor.audit.checkpoint import Countersignature, is_countersigned
from fedmentor.federation import Evaluate, Manifest, ModelRef, SecureStep, StepName, Wait
from fedmentor.ids import Digest


def test_a_trail_that_holds_is_followed_and_signed(site: Site):
    first = site.trail.checkpoints[-1]
    site.hear(site.trail, train(1))
    assert site.noted == Noted(site.trail.head, first, countersigned=True)
    ((checkpoint, signature),) = site.link.countersigned
    assert is_countersigned(checkpoint, Countersignature(first.records, SITE, signature), site.trail.keys)
    assert site.events == [Witnessed(first.records, len(site.trail.records))]
    publish(site.trail, 1)
    site.hear(site.trail, train(2))
    assert site.noted.checkpoint == site.trail.checkpoints[-1]
    assert len(site.link.countersigned) == 2


def test_nothing_new_is_not_signed_again(site: Site):
    site.hear(site.trail)
    site.hear(site.trail)
    site.trail.append("coordinator", "gather_quorum", round=1, attempt=1, connected=3)
    site.hear(site.trail)
    assert len(site.link.countersigned) == 1
    assert site.noted.head == site.trail.head


def test_before_the_first_checkpoint_there_is_a_chain_and_nothing_to_sign(tmp_path: Path):
    site = Site(begin(), tmp_path)
    site.hear(site.trail, train(0))
    assert site.noted == Noted(site.trail.head)
    assert site.link.countersigned == []


@pytest.mark.parametrize(
    "directive",
    [
        Wait("for others"),
        Manifest(manifest()),
        SecureStep(train(0).round, train(0).model, 60.0, StepName.SHARE, b""),
        SecureStep(train(0).round, train(0).model, 60.0, StepName.REVEAL, b""),
    ],
)
def test_what_orders_nothing_is_not_looked_into(site: Site, directive: object):
    site.hear(["nonsense"], directive)
    assert site.noted == Noted()


def test_an_evaluation_is_looked_into_but_its_model_may_be_a_candidate(site: Site):
    order = train(1)
    site.hear(site.trail, Evaluate(order.round, ModelRef(MODELS[3], 4), 60.0))
    assert site.noted.head == site.trail.head


def test_knows_looks_once_for_what_is_new(site: Site):
    site.hear(site.trail)
    old = site.trail.records[3].hash
    site.link.audit = []
    assert site.witness.knows(old)
    publish(site.trail, 1)
    site.link.audit = said_by(site.trail)
    assert site.witness.knows(site.trail.records[-1].hash)
    assert not site.witness.knows(Digest("e" * 64))
    assert head_of(site.trail.records[-1]) == site.noted.head


def test_nothing_is_known_before_the_run(site: Site):
    site.link.audit = said_by(site.trail)
    assert not site.witness.knows(site.trail.records[-1].hash)


def test_without_keys_the_witness_says_once_that_it_is_off():
    events: list[SessionEvent] = []
    witness = NoWitness("no roster", events.append)
    witness.attend(train(0), manifest())
    witness.attend(train(1), manifest())
    assert events == [WitnessOff("no roster")]
    assert not witness.knows(Digest("0" * 64))

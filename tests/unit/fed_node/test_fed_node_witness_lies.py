"""A site as witness of coordinators that lie: forks, rollbacks, edits, gaps, false claims, two models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from witness_site import MODELS, OTHERS, SITE, Site, begin, manifest, publish, train

from fed_node.witness import Witness
from fedmentor.audit import AuditRecord
from fedmentor.audit.checkpoint import SignedCheckpoint, is_signed, sign_checkpoint
from fedmentor.audit.export import checkpoint_from_line
from fedmentor.errors import DataError, PolicyRefusal
from fedmentor.federation import Finished, Outcome, SecureStep, StepName
from fedmentor.ids import RunId
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.link import ScriptedLink


def test_a_fork_is_refused_and_both_checkpoints_are_kept(site: Site):
    fork = publish(site.trail.cut(1), 0, sha256=OTHERS)
    site.sent.add((0, OTHERS))
    site.hear(site.trail)
    assert fork.checkpoints[-1].records == site.trail.checkpoints[-1].records
    lines = site.refuses(fork, "two chains of 5 records")
    shown = [checkpoint_from_line(line) for line in lines[1:3]]
    assert shown == [site.trail.checkpoints[-1], fork.checkpoints[-1]]
    assert all(is_signed(one, site.trail.keys) for one in shown), "a proof for others"
    assert shown[0].checkpoint.head != shown[1].checkpoint.head


def test_a_longer_fork_is_refused(site: Site):
    fork = publish(publish(site.trail.cut(1), 0, sha256=OTHERS), 1)
    site.sent.add((0, OTHERS))
    site.hear(site.trail)
    site.refuses(fork, "record 5 is another one than this site has verified")


def test_a_rollback_is_refused(site: Site):
    old = site.trail.cut(len(site.trail.records))
    publish(site.trail, 1)
    site.hear(site.trail)
    lines = site.refuses(old, "the newest checkpoint is over 5 records, an earlier one was over 10")
    assert [checkpoint_from_line(line) for line in lines[1:3]] == [site.trail.checkpoints[-1], old.checkpoints[-1]]


def test_a_chain_that_lost_its_open_end_is_refused(site: Site):
    old = site.trail.cut(len(site.trail.records))
    site.trail.append("coordinator", "gather_quorum", round=1, attempt=1, connected=3)
    site.hear(site.trail)
    site.refuses(old, "shorter than the 7 records that this site has verified")


def test_a_coordinator_that_lost_its_checkpoints_is_refused(site: Site):
    site.hear(site.trail)
    site.refuses(list(site.trail.records), "has no checkpoint any more")


def test_a_coordinator_that_shows_nothing_is_refused(site: Site):
    site.refuses([], "the chain ends after 0 records")


def test_a_false_claim_is_refused_and_the_record_is_kept(site: Site):
    site.sent.clear()
    lines = site.refuses(site.trail, "record 2 says that this site sent an update that it did not send")
    assert json.loads(lines[-1])["seq"] == 2


def test_a_claim_about_another_round_is_refused(tmp_path: Path):
    trail = begin()
    trail.append("site b", "accept_update", round="x", attempt=True, sha256=None)
    Site(trail, tmp_path).refuses(trail, "did not send")


def test_another_run_is_refused(site: Site):
    elsewhere = ToyTrail()
    elsewhere.site_keys, elsewhere.coordinator_key = site.trail.site_keys, site.trail.coordinator_key
    elsewhere.keys = site.trail.keys
    elsewhere.append("coordinator", "create_run", run="toy-run", manifest="0" * 64, model=MODELS[0])
    site.refuses(elsewhere, "does not begin with the run that this site has joined")
    elsewhere.run = RunId("other")
    elsewhere.seal()
    for path in site.evidence.iterdir():
        path.unlink()
    site.refuses(elsewhere, "the newest checkpoint is of run other")


def test_a_checkpoint_of_somebody_else_is_refused(site: Site):
    stranger = ToyTrail()
    forged = sign_checkpoint(site.trail.checkpoints[-1].checkpoint, stranger.coordinator_key)
    site.refuses([forged, *site.trail.records], "not signed by the coordinator on the roster")


def test_a_checkpoint_that_the_chain_does_not_reach_is_refused(site: Site):
    site.refuses([site.trail.checkpoints[-1], *site.trail.records[:3]], "the chain ends after 3 records")


def test_a_coordinator_that_stops_signing_is_refused(site: Site):
    site.hear(site.trail)
    signed = site.trail.checkpoints[-1]
    publish(site.trail, 1)
    site.refuses([signed, *site.trail.records], "round 1 was published without a checkpoint")


def test_a_second_checkpoint_is_refused(site: Site):
    site.refuses([*site.trail.checkpoints, *site.trail.checkpoints, *site.trail.records], "second checkpoint")


class Endless(ScriptedLink):
    """Has always one more record."""

    trail: ToyTrail

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        yield from super().fetch_audit(from_record)
        while True:
            yield self.trail.append("coordinator", "gather_quorum", connected=3)


def test_records_without_end_are_refused(site: Site):
    site.link = Endless(SITE, {}, [])
    site.link.trail = site.trail
    site.witness = Witness(site.identity, replace(site.ports, link=site.link), max_open_records=20)
    site.refuses(site.trail, "more than 20 records follow the newest checkpoint")
    assert len(site.trail.records) == site.trail.checkpoints[-1].records + 21


def test_the_model_to_train_from_must_be_the_one_in_the_trail(site: Site):
    site.hear(site.trail, train(1))
    site.hear(site.trail, train(0))
    for order in (train(1, MODELS[0]), train(1, MODELS[2]), train(0, MODELS[1])):
        with pytest.raises(PolicyRefusal, match="not the one that the audit trail has in force"):
            site.hear(site.trail, order)


def test_a_round_that_published_nothing_leaves_the_model_in_force(site: Site):
    site.trail.append("coordinator", "withhold_round", round=1, attempt=1)
    site.trail.seal()
    site.hear(site.trail, train(2, MODELS[1]))
    with pytest.raises(PolicyRefusal):
        site.hear(site.trail, train(2, MODELS[2]))


def test_the_root_of_a_secure_attempt_must_be_in_the_trail(site: Site):
    order = train(1)
    root = bytes.fromhex(site.trail.records[-1].hash)
    site.hear(site.trail, SecureStep(order.round, order.model, 60.0, StepName.ADVERTISE, root))
    for wrong in (bytes(32), b"", b"x"):
        with pytest.raises(PolicyRefusal, match="audit root of round 1"):
            site.hear(site.trail, SecureStep(order.round, order.model, 60.0, StepName.ADVERTISE, wrong))


@given(st.data())
def test_no_edit_of_what_is_new_goes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    trail = publish(publish(begin(), 0), 1)
    site = Site(trail, tmp_path_factory.mktemp("evidence"))
    known = data.draw(st.sampled_from([0, 1, 6]), "records known")
    if known:
        site.hear(trail.cut(known))
    sound = trail.records
    # What comes after the newest checkpoint's own record is not signed yet; everything before it must be whole.
    last = trail.checkpoints[-1].records
    position = data.draw(st.integers(max(0, known - 1), last - 1), "position")
    record = sound[position]
    match data.draw(st.sampled_from(["edit", "drop", "swap", "repeat", "cut"]), "what"):
        case "edit":
            name = data.draw(st.sampled_from(["utc", "actor", "event", "fields", "hash", "prev_hash"]))
            changed = [*sound[:position], replace(record, **{name: getattr(record, name)[::-1] + " "}), *sound[position + 1 :]]
        case "drop":
            changed = [*sound[:position], *sound[position + 1 :]]
        case "swap":
            changed = [*sound[:position], sound[position + 1], record, *sound[position + 2 :]]
        case "repeat":
            changed = [*sound[:position], record, *sound[position:]]
        case "cut":
            changed = list(sound[:position])
    site.link.audit = [trail.checkpoints[-1], *changed]
    before = site.noted
    with pytest.raises(PolicyRefusal):
        site.witness.attend(Finished(Outcome.COMPLETED, ""), manifest())
    assert site.noted == before


class Malformed(ScriptedLink):
    """Sends what is no record."""

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        yield from super().fetch_audit(from_record)
        raise DataError("a line of the audit file is not an audit record")


def test_what_is_no_record_is_refused(site: Site):
    site.speak_to(Malformed(SITE, {}, []))
    site.refuses(site.trail, "not an audit record")

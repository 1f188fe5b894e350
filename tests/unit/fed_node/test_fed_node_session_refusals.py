"""What the session refuses: manifests, directives, models and receipts that are not what they should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted_session import AWAY, DONE, MANIFEST, NEXT, SITE, START, Bench, digest_of, ref, train

from fed_node.outbox import UpdateStage
from fed_node.rules import PlanLimits
from fedmentor.errors import DigestMismatch, FedMentorError, IdentityRefused, PolicyRefusal, WrongArchitecture
from fedmentor.federation import Directive, Manifest, ModelRef, Receipt, Train, TrainingPlan, UpdateHeader
from fedmentor.ids import Digest, SiteId
from fedmentor.tensors import vector_bytes
from fedmentor.testing.link import ScriptedLink


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"roster": (SiteId("east"), SiteId("south"), SiteId("west"))}, PolicyRefusal, "not on the roster"),
        ({"architecture": "sm-lite-v9"}, WrongArchitecture, "sm-lite-v9"),
        ({"tensors": (("vector", (4,)),)}, WrongArchitecture, "another version"),
        ({"rounds": 11}, PolicyRefusal, "rounds = 11"),
        ({"training": TrainingPlan(local_epochs=6)}, PolicyRefusal, "local_epochs = 6"),
        ({"quorum": 1}, PolicyRefusal, "at least 2"),
    ],
)
def test_a_manifest_that_this_site_does_not_accept(change: dict, error: type[FedMentorError], match: str):
    bench = Bench([[Manifest(MANIFEST.model_copy(update=change))]], limits=PlanLimits(rounds=10, local_epochs=5, quorum=2))
    with pytest.raises(error, match=match):
        bench.run()
    bench.outbox.pin(MANIFEST)  # nothing was pinned


def test_other_rules_for_a_pinned_run_are_refused():
    changed = MANIFEST.model_copy(update={"clip_norm": 1e6})
    bench = Bench([[Manifest(MANIFEST), AWAY], [Manifest(changed), train(), DONE]])
    with pytest.raises(PolicyRefusal, match="other rules"):
        bench.run()
    assert bench.link.sent == []


def big(directive: Train) -> Train:
    return replace(directive, model=ModelRef(directive.model.digest, 1 << 40))


@pytest.mark.parametrize(
    ("script", "match"),
    [
        ([train()], "before the run's manifest"),
        ([Manifest(MANIFEST), replace(train(), round=ref(run="other"))], "directs run 'other'"),
        ([Manifest(MANIFEST), train(2)], "not one of the 2 rounds"),
        ([Manifest(MANIFEST), big(train())], "1099511627776 bytes"),
        ([Manifest(MANIFEST), train(vector=NEXT)], "another start model"),
        ([Manifest(MANIFEST), train(1, vector=NEXT), train(0)], "holds a receipt for round 1"),
        ([Manifest(MANIFEST), train(1, 2, vector=NEXT), train(1, 1, vector=NEXT)], "attempt 2"),
        ([Manifest(MANIFEST), train(1, vector=NEXT), train(1, 2, vector=START)], "already trained here from another model"),
    ],
)
def test_directives_that_are_refused(script: list[Directive], match: str):
    bench = Bench([script])
    with pytest.raises(PolicyRefusal, match=match):
        bench.run()


def test_a_model_that_is_not_the_one_that_was_named_is_not_trained_from():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])
    bench.link._models = {digest_of(START): vector_bytes(NEXT)}
    with pytest.raises(DigestMismatch):
        bench.run()
    assert (bench.link.scores, bench.link.sent) == ([], [])


class ForgedReceipts(ScriptedLink):
    """Confirms something else than what it was sent."""

    def send_update(self, header: UpdateHeader, words: bytes) -> Receipt:
        """See CoordinatorLink."""
        return replace(super().send_update(header, words), sha256=Digest("f" * 64))


def test_a_receipt_for_something_else_is_refused_and_the_update_stays():
    bench = Bench([[Manifest(MANIFEST), train(), DONE]])
    bench.link = ForgedReceipts(SITE, bench.link._models, bench.scripts)
    with pytest.raises(PolicyRefusal, match="not for the update"):
        bench.run()
    assert bench.entry().stage is UpdateStage.READY


def test_an_identity_that_is_refused_is_not_tried_again():
    bench = Bench([[IdentityRefused("not on the roster")], [Manifest(MANIFEST), DONE]])
    with pytest.raises(IdentityRefused):
        bench.run()
    assert bench.pauses == []

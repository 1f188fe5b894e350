"""Both links: who may join, and what a site hears from its first directive to its last."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from link_federation import MODEL, NORTH, SIGNERS, SITES, START, STRANGER, Coordinator, manifest, scores, update

from fedmentor.errors import CoordinatorUnreachable, IdentityRefused, PolicyRefusal
from fedmentor.federation import Directive, Evaluate, Finished, Manifest, Scores, StepAnswer, StepName, Train, Wait
from fedmentor.ids import SiteId
from fedmentor.link import DirectiveStream


def test_a_stream_begins_with_the_manifest_and_ends_after_finished(coordinator: Coordinator):
    streams = {site: coordinator.link_of(site).follow() for site in SITES}
    heard: dict[SiteId, list[Directive]] = {site: [next(stream), next(stream)] for site, stream in streams.items()}
    assert all(first == Manifest(manifest()) and isinstance(second, Wait) for first, second in heard.values())
    coordinator.settle()
    for site, stream in streams.items():
        train = next(stream)
        assert isinstance(train, Train)
        assert (train.round, train.model) == (START, MODEL)
        assert 0 < train.deadline_s <= manifest().collect_seconds
        coordinator.link_of(site).send_update(*update(site))
    coordinator.settle()
    for site, stream in streams.items():
        asked = after_waits(stream)
        assert isinstance(asked, Evaluate)
        coordinator.link_of(site).report_scores(Scores(asked.round, asked.model.digest, 3, 4, 0.5, 0.4, 2.0))
    coordinator.settle()
    for stream in streams.values():
        assert isinstance(after_waits(stream), Finished)
        with pytest.raises(StopIteration):
            next(stream)


def after_waits(stream: DirectiveStream) -> Directive:
    """The next directive that is not Wait; how many of those come depends on who is faster."""
    return next(directive for directive in stream if not isinstance(directive, Wait))


def test_a_site_that_is_not_on_the_roster_is_refused_everywhere(coordinator: Coordinator):
    coordinator.open_round()
    link = coordinator.link_of(STRANGER)
    for call in (
        lambda: next(link.follow()),
        lambda: link.fetch_model(MODEL),
        lambda: link.send_update(*update(NORTH)),
        lambda: link.answer_step(StepAnswer(START, StepName.ADVERTISE, b"signed")),
        lambda: link.sit_out(START, "nobody asked"),
        lambda: link.report_scores(scores()),
        lambda: next(link.fetch_audit(0)),
        lambda: link.countersign(SIGNERS.seal().checkpoint, bytes(64)),
        link.tell_time,
    ):
        with pytest.raises(IdentityRefused):
            call()


def test_the_coordinator_tells_its_own_time(coordinator: Coordinator):
    service = coordinator.engine.service
    before, said, after = service.tell_time(NORTH), coordinator.link_of(NORTH).tell_time(), service.tell_time(NORTH)
    assert said.utcoffset() == timedelta(0)
    assert before - timedelta(milliseconds=1) <= said <= after


def test_another_thread_can_cancel_a_stream(coordinator: Coordinator):
    stream = coordinator.link_of(NORTH).follow()
    assert isinstance(next(stream), Manifest)
    assert isinstance(next(stream), Wait)
    canceller = threading.Timer(0.05, stream.cancel)
    canceller.start()
    with pytest.raises(CoordinatorUnreachable):
        next(stream)
    canceller.join()


def test_a_newer_stream_ends_the_older_one(coordinator: Coordinator):
    older = coordinator.link_of(NORTH).follow()
    assert isinstance(next(older), Manifest)
    newer = coordinator.link_of(NORTH).follow()
    assert isinstance(next(newer), Manifest)
    assert isinstance(next(older), Wait)
    with pytest.raises(PolicyRefusal, match="another node"):
        next(older)
    newer.cancel()

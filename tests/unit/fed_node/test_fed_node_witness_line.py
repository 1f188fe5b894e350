"""A site as witness over lines that break, and of coordinators that take no signature."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from witness_site import SITE, Site, train

from fed_node.events import Unwitnessed
from fed_node.witness_store import Noted
from fedmentor.audit import AuditRecord
from fedmentor.audit.checkpoint import SignedCheckpoint
from fedmentor.errors import CoordinatorUnreachable, PolicyRefusal
from fedmentor.testing.link import ScriptedLink


class Breaking(ScriptedLink):
    """Breaks after so many items."""

    items = 0

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        for number, item in enumerate(super().fetch_audit(from_record)):
            if number == self.items:
                raise CoordinatorUnreachable("the line broke")
            yield item
        if self.items < 100:
            raise CoordinatorUnreachable("the line broke")


@pytest.mark.parametrize("items", range(8))
def test_a_broken_line_ends_no_round_and_what_came_is_kept(site: Site, items: int):
    site.speak_to(Breaking(SITE, {}, []))
    site.link.items = items
    site.hear(site.trail, train(1))
    assert site.events == [Unwitnessed("the line broke")]
    assert site.noted.head.records == max(0, items - 1)
    assert site.link.countersigned == []
    site.link.items = 100
    site.hear(site.trail, train(1))
    assert site.noted == Noted(site.trail.head, site.trail.checkpoints[-1], countersigned=True)
    assert not list(site.evidence.iterdir())


class Deaf(ScriptedLink):
    """Does not take signatures."""

    error: Exception = CoordinatorUnreachable("no answer")

    def countersign(self, checkpoint: object, signature: bytes) -> None:
        """See CoordinatorLink."""
        del checkpoint, signature
        raise self.error


@pytest.mark.parametrize("error", [CoordinatorUnreachable("no answer"), PolicyRefusal("not your signature")])
def test_a_signature_that_is_not_taken_is_offered_again(site: Site, error: Exception):
    honest = site.link
    site.speak_to(Deaf(SITE, {}, []))
    site.link.error = error
    site.hear(site.trail)
    assert site.events == [Unwitnessed(error.args[0])]
    assert not site.noted.countersigned
    site.speak_to(honest)
    site.hear(site.trail)
    assert site.noted.countersigned
    assert len(honest.countersigned) == 1

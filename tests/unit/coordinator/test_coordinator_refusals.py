"""Every refusal names its site in the audit trail, and no site can fill the disk by being refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from coordinator.testing import ToyFederation
from fedmentor.errors import ConfigError, LimitExceeded, RoundClosed, UpdateConflict, UpdateRejected
from fedmentor.federation import CHUNK_BYTES, RoundRef, Scores, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round, SiteId
from fedmentor.robust import Flag

A = SiteId("a")
OTHER = Digest("0" * 64)


@pytest.fixture
def toys(tmp_path):
    federation = ToyFederation(tmp_path)
    federation.connect()
    federation.settle()
    yield federation
    federation.close()


def refusals(toys):
    records = toys.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    return [(one.event, one.actor, json.loads(one.fields)["kind"]) for one in records if one.event.startswith("refuse_")]


def header(toys, **changes):
    words = bytes(4 * 39)
    made = toys.header(words)
    return UpdateHeader(**{**{name: getattr(made, name) for name in ("round", "sha256", "size_bytes", "base_model")}, **changes})


def too_large(toys):
    toys.engine.service.offer_update(A, header(toys, size_bytes=10**9))


def too_small(toys):
    toys.engine.service.offer_update(A, header(toys, size_bytes=8))


def from_another_model(toys):
    toys.engine.service.offer_update(A, header(toys, base_model=OTHER))


def no_weight(toys):
    toys.send("a", bytes(4 * 39))


def over_the_bounds(toys):
    toys.send("a", np.array([2**25] * 38 + [2**24], "<u4").tobytes())


def another_digest(toys):
    toys.send("a", bytes(4 * 39), header(toys, sha256=OTHER))


def a_second_update(toys):
    toys.send("a")
    toys.send("a", bytes(4 * 39))


def a_chunk_too_long(toys):
    toys.engine.service.append_update(A, header(toys), 0, bytes(CHUNK_BYTES + 1))


def scores_of_another_model(toys):
    toys.engine.service.report_scores(A, Scores(toys.ref, OTHER, 4, 5, 0.5, 0.4, 1.0))


def an_unreadable_message(toys):
    with toys.engine.service.reading(A, "OfferUpdate"):
        raise ConfigError("a digest is 64 lower-case hexadecimal characters")


CASES = [
    (too_large, LimitExceeded, "refuse_update"),
    (too_small, UpdateRejected, "refuse_update"),
    (from_another_model, UpdateRejected, "refuse_update"),
    (no_weight, UpdateRejected, "refuse_update"),
    (over_the_bounds, UpdateRejected, "refuse_update"),
    (another_digest, UpdateRejected, "refuse_update"),
    (a_second_update, UpdateConflict, "refuse_update"),
    (a_chunk_too_long, LimitExceeded, "refuse_update"),
    (scores_of_another_model, UpdateRejected, "refuse_scores"),
    (an_unreadable_message, ConfigError, "refuse_message"),
]


@pytest.mark.parametrize(("case", "error", "event"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_the_site_is_named_and_flagged(toys, case, error, event):
    with pytest.raises(error):
        case(toys)
    assert refusals(toys) == [(event, "site a", error.__name__)]
    (flag,) = toys.engine.journal.run_tx("read", lambda tx: tx.flags())
    assert (flag.site, flag.flag, flag.round) == ("a", Flag.REFUSED, 0)


@pytest.mark.parametrize(("case", "error", "event"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_flood_is_cut_off(toys, case, error, event):
    for _ in range(20):
        with pytest.raises(error):
            case(toys)
    assert len(refusals(toys)) == 8, event


def test_naming_other_rounds_does_not_open_other_counts(toys):
    """The round in a message is its sender's word."""
    for number in range(50):
        ref = RoundRef(toys.manifest.run, Round(0), Attempt(number))
        with pytest.raises(UpdateRejected):
            toys.engine.service.report_scores(A, Scores(ref, OTHER, 4, 5, 0.5, 0.4, 1.0))
    assert len(refusals(toys)) == 8
    assert len(toys.engine.journal.run_tx("read", lambda tx: tx.flags())) == 1


def test_a_message_that_comes_too_late_is_no_offence(toys):
    for number in range(20):
        late = header(toys, round=RoundRef(toys.manifest.run, Round(number + 1), Attempt(1)))
        with pytest.raises(RoundClosed):
            toys.engine.service.offer_update(A, late)
    assert refusals(toys) == []


def test_refused_scores_do_not_end_a_sites_part_in_the_round(toys):
    with pytest.raises(UpdateRejected):
        scores_of_another_model(toys)
    assert toys.send("a").site == "a"

"""The service: updates in three idempotent steps, scores, models; refusals that leave a trace and change nothing."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
import pytest

from coordinator.events import UpdateAccepted, UpdateRefused
from coordinator.refusals import AUDITED_REFUSALS
from coordinator.state import PhaseName
from coordinator.store.spool import Spool
from coordinator.testing import PARAMETERS, ToyFederation, toy_words
from coordinator.uploads import Uploads
from fedmentor.errors import (
    CoordinatorUnreachable,
    IdentityRefused,
    LimitExceeded,
    RoundClosed,
    UpdateConflict,
    UpdateRejected,
)
from fedmentor.federation import CHUNK_BYTES, ModelRef, Offset, Receipt, Scores
from fedmentor.ids import Digest, Round, RunId, SiteId
from fedmentor.models import load_model
from fedmentor.tensors import flatten, sha256_hex, spec_of, vector_bytes

A, STRANGER = SiteId("a"), SiteId("x")
OTHER = Digest("2" * 64)
WAIT_S = 20.0


@pytest.fixture
def federation(tmp_path):
    made = ToyFederation(tmp_path)
    made.connect()
    made.settle()
    yield made
    made.close()


@pytest.fixture
def service(federation):
    return federation.engine.service


@pytest.fixture
def words(federation):
    return toy_words("a", federation.ref, federation.manifest)


def _audit(federation, event):
    records = federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    return [json.loads(record.fields) for record in records if record.event == event]


# --- updates ---


def test_an_update_in_pieces(federation, service, words):
    header = federation.header(words)
    assert service.offer_update(A, header) == Offset(0)
    service.append_update(A, header, 0, words[:100])
    assert service.finish_update(A, header) == Offset(100)
    assert service.offer_update(A, header) == Offset(100)
    service.append_update(A, header, 100, words[100:])
    receipt = service.finish_update(A, header)
    assert receipt == Receipt(federation.ref, A, header.sha256, federation.clock.now().isoformat())
    assert federation.moment.delivered == {A}
    assert UpdateAccepted(A, federation.ref, header.sha256, len(words)) in federation.events


def test_the_receipt_is_repeated_unchanged_for_ever(federation, service, words):
    header = federation.header(words)
    receipt = federation.send("a", words)
    federation.clock.advance(1)
    assert service.offer_update(A, header) == receipt
    assert service.finish_update(A, header) == receipt
    federation.play()
    assert federation.moment.state.phase is PhaseName.SHUTDOWN
    assert service.offer_update(A, header) == receipt
    federation.reopen()
    assert federation.engine.service.offer_update(A, header) == receipt
    assert len(_audit(federation, "accept_update")) == 6


def test_an_interrupted_upload_goes_on_after_a_restart(federation, service, words):
    header = federation.header(words)
    service.offer_update(A, header)
    service.append_update(A, header, 0, words[:64])
    federation.reopen()
    assert federation.engine.service.offer_update(A, header) == Offset(64)
    federation.engine.service.append_update(A, header, 64, words[64:])
    assert isinstance(federation.engine.service.finish_update(A, header), Receipt)


def test_resumed_bytes_that_are_damaged_are_asked_for_again(federation, words):
    header = federation.header(words)
    federation.engine.service.append_update(A, header, 0, bytes(64))
    federation.reopen()
    service = federation.engine.service
    assert service.offer_update(A, header) == Offset(64)
    service.append_update(A, header, 64, words[64:])
    assert service.finish_update(A, header, resumed=True) == Offset(0)
    assert isinstance(federation.send("a", words), Receipt)


@pytest.mark.parametrize("cut", [0, 4])
def test_bytes_that_a_power_cut_left_damaged_are_asked_for_again(federation, service, words, cut):
    header = federation.header(words)
    service.append_update(A, header, 0, words[: len(words) - cut])
    (part,) = (federation.state / "spool" / "a").glob("*.part")
    part.write_bytes(bytes(len(words) - cut))  # the length is on disk, the blocks are not
    federation.reopen()
    answers = [federation.send("a", words) for _ in range(2)]
    assert isinstance(answers[-1], Receipt)
    assert not any(isinstance(event, UpdateRefused) for event in federation.events)


class _Paused:
    """Words whose first reader waits in the middle until it is let go."""

    def __init__(self, words):
        self._words = words
        self.reached, self.go = threading.Event(), threading.Event()

    def words(self, start, stop):
        if not self.reached.is_set():
            self.reached.set()
            self.go.wait(WAIT_S)
        return self._words.words(start, stop)


class _PausingSpool(Spool):
    """Whoever opens an update first reads it slowly."""

    def __init__(self, folder):
        super().__init__(folder)
        self.paused = None

    def open(self, site, header):
        words = super().open(site, header)
        if self.paused is not None:
            return words
        self.paused = _Paused(words)
        return self.paused


@pytest.fixture
def uploads(federation):
    ports = federation.engine.service._ports
    return Uploads(federation.manifest, replace(ports, spool=_PausingSpool(federation.state / "spool")))


def _while_one_finishes(uploads, header, work):
    """Begin to finish an update, begin ``work`` while its words are being checked, let both end; gives what each returned."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(uploads.finish, A, header, resumed=False)
        while uploads._ports.spool.paused is None:
            pass
        assert uploads._ports.spool.paused.reached.wait(WAIT_S)
        second = pool.submit(work)
        done, _ = wait([second], 0.2)
        uploads._ports.spool.paused.go.set()
        assert not done, "two calls of one site ran at the same time"
        return first.result(WAIT_S), second.exception(WAIT_S) or second.result()


def test_two_calls_that_finish_one_update_give_one_receipt_and_keep_its_bytes(federation, uploads, words):
    header = federation.header(words)
    uploads.append(A, header, 0, words)
    first, second = _while_one_finishes(uploads, header, lambda: uploads.offer(A, header))
    assert isinstance(first, Receipt)
    assert second == first
    assert uploads._ports.spool.open(A, header).words(0, len(words) // 4).tobytes() == words


def test_another_update_cannot_take_the_bytes_away_from_under_a_check(federation, uploads, words):
    header, other = federation.header(words), toy_words("zz", federation.ref, federation.manifest)
    uploads.append(A, header, 0, words)
    first, _ = _while_one_finishes(uploads, header, lambda: uploads.append(A, federation.header(other), 0, other[:4]))
    assert isinstance(first, Receipt)
    assert uploads._ports.spool.open(A, header).words(0, len(words) // 4).tobytes() == words


def test_nothing_is_accepted_that_is_not_there_any_more(federation, words):
    class Vanishing(Spool):
        def seal(self, site, header):
            self.drop(site, header.sha256)
            super().seal(site, header)

    uploads = Uploads(federation.manifest, replace(federation.engine.service._ports, spool=Vanishing(federation.state / "spool")))
    header = federation.header(words)
    uploads.append(A, header, 0, words)
    with pytest.raises(UpdateRejected, match="gone"):
        uploads.finish(A, header, resumed=False)
    assert federation.moment.delivered == frozenset()


def test_a_round_that_closed_during_the_check_is_the_answer(federation, words):
    class Emptied(Spool):
        def open(self, site, header):
            source = super().open(site, header)
            for name in "bc":
                federation.send(name)
            federation.clock.advance(60)
            federation.settle()  # goes on with the two, opens the next round and empties the spool
            return source

    federation.close()
    quick = ToyFederation(federation.state.parent / "quick", quorum=2)
    quick.connect()
    quick.settle()
    federation = quick
    uploads = Uploads(quick.manifest, replace(quick.engine.service._ports, spool=Emptied(quick.state / "spool")))
    header = quick.header(words)
    uploads.append(A, header, 0, words)
    with pytest.raises(RoundClosed):
        uploads.finish(A, header, resumed=False)
    quick.close()


def test_other_bytes_than_declared_are_rejected_and_forgotten(federation, service, words):
    header = federation.header(words)
    service.offer_update(A, header)
    service.append_update(A, header, 0, bytes(len(words)))
    with pytest.raises(UpdateRejected, match="SHA-256"):
        service.finish_update(A, header)
    assert service.offer_update(A, header) == Offset(0)
    assert federation.moment.delivered == frozenset()


def test_inadmissible_words_are_rejected_and_forgotten(federation, service):
    huge = np.zeros(PARAMETERS + 1, np.int32)
    huge[0], huge[-1] = 2**31 - 1, 1
    data = huge.astype("<i4").tobytes()
    with pytest.raises(UpdateRejected, match="clip_value"):
        federation.send("a", data)
    assert service.offer_update(A, federation.header(data)) == Offset(0)
    refused = _audit(federation, "refuse_update")
    assert [entry["kind"] for entry in refused] == ["UpdateRejected"]


def test_a_second_update_is_a_conflict_and_the_first_one_stays(federation):
    first = federation.send("a")
    with pytest.raises(UpdateConflict):
        federation.send("a", toy_words("b", federation.ref, federation.manifest))
    assert federation.send("a") == first


def test_nothing_is_stored_for_what_no_offer_would_pass(federation, service, words):
    header = federation.header(words)
    for bad, error in (
        (replace(header, size_bytes=2**40), LimitExceeded),
        (replace(header, base_model=OTHER), UpdateRejected),
        (replace(header, round=replace(header.round, round=Round(5))), RoundClosed),
        (replace(header, round=replace(header.round, run=RunId("other"))), RoundClosed),
    ):
        for call in (
            lambda bad=bad: service.offer_update(A, bad),
            lambda bad=bad: service.append_update(A, bad, 0, b"1234"),
            lambda bad=bad: service.finish_update(A, bad),
        ):
            with pytest.raises(error):
                call()
    with pytest.raises(LimitExceeded, match="chunk"):
        service.append_update(A, header, 0, bytes(CHUNK_BYTES + 1))
    assert [path for path in (federation.state / "spool").rglob("*") if path.is_file()] == []


def test_bytes_out_of_place_are_to_be_offered_again(federation, service, words):
    header = federation.header(words)
    service.append_update(A, header, 0, words[:10])
    for offset in (0, 11):
        with pytest.raises(CoordinatorUnreachable, match="at byte 10"):
            service.append_update(A, header, offset, words[:5])
    with pytest.raises(CoordinatorUnreachable):
        service.append_update(A, header, 10, bytes(len(words)))


def test_refusals_cannot_fill_the_audit_chain(federation, service, words):
    header = replace(federation.header(words), base_model=OTHER)
    for _ in range(3 * AUDITED_REFUSALS):
        with pytest.raises(UpdateRejected):
            service.offer_update(A, header)
    assert len(_audit(federation, "refuse_update")) == AUDITED_REFUSALS
    assert sum(isinstance(event, UpdateRefused) for event in federation.events) == 3 * AUDITED_REFUSALS


def test_strangers_get_nothing(federation, service, words):
    header = federation.header(words)
    scores = Scores(federation.ref, federation.moment.state.model, 1, 1, 0.5, 0.5, 1.0)
    model = ModelRef(federation.moment.state.model, 4 * PARAMETERS)
    for call in (
        lambda: service.subscribe(STRANGER, lambda: None),
        lambda: list(service.fetch_model(STRANGER, model, 0)),
        lambda: service.offer_update(STRANGER, header),
        lambda: service.append_update(STRANGER, header, 0, b"1"),
        lambda: service.finish_update(STRANGER, header),
        lambda: service.report_scores(STRANGER, scores),
    ):
        with pytest.raises(IdentityRefused):
            call()


# --- models ---


def test_the_model_in_force_is_served_from_any_offset(federation, service):
    tensors, record = load_model(federation.model_folder)
    data = vector_bytes(flatten(tensors, spec_of(tensors)))
    ref = ModelRef(record.digest, len(data))
    for offset in (0, 1, 100, len(data)):
        assert b"".join(service.fetch_model(A, ref, offset)) == data[offset:]
    with pytest.raises(UpdateRejected, match="outside"):
        list(service.fetch_model(A, ref, len(data) + 1))
    federation.play()
    with pytest.raises(RoundClosed):
        list(service.fetch_model(A, ref, 0))


def test_traffic_is_counted_by_site(federation, service):
    ref = ModelRef(federation.moment.state.model, 4 * PARAMETERS)
    list(service.fetch_model(A, ref, 0))
    federation.play()
    first = federation.engine.report().rounds[0]
    assert first.bytes_down == {"a": 4 * PARAMETERS, "b": 0, "c": 0}
    assert first.bytes_up == dict.fromkeys("abc", 4 * (PARAMETERS + 1))


# --- scores ---


def test_scores_are_kept_once(federation):
    federation.score("a", 0.25)
    federation.score("a", 0.75)
    assert federation.engine.report().rounds[0].sites["a"].dice == 0.25
    assert len(_audit(federation, "report_scores")) == 1


def test_scores_of_an_earlier_round_are_still_welcome(federation):
    first = federation.moment.state
    ref = federation.ref
    for site in "abc":
        federation.send(site)
    federation.settle()
    federation.engine.service.report_scores(A, Scores(ref, first.model, 1, 1, 0.5, 0.5, 2.0))
    entry = federation.engine.report().rounds[0]
    assert (entry.dice, entry.hd95) == (0.5, 2.0)


def test_scores_of_other_models_rounds_and_runs_are_refused(federation, service):
    good = Scores(federation.ref, federation.moment.state.model, 1, 1, 0.5, 0.5, 1.0)
    with pytest.raises(UpdateRejected, match="not that of round 0"):
        service.report_scores(A, replace(good, model=OTHER))
    with pytest.raises(RoundClosed):
        service.report_scores(A, replace(good, round=replace(good.round, round=Round(1))))
    with pytest.raises(RoundClosed):
        service.report_scores(A, replace(good, round=replace(good.round, run=RunId("other"))))
    federation.play()
    with pytest.raises(RoundClosed):
        service.report_scores(A, good)


def test_the_bytes_name_the_update(federation, words):
    assert federation.header(words).sha256 == sha256_hex([words])

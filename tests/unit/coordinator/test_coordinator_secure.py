"""A coordinator that aggregates securely, step by step: what it takes, what it refuses, what it remembers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from coordinator.admission import check_sum
from coordinator.events import SatOut
from coordinator.refusals import AUDITED_REFUSALS
from coordinator.state import PhaseName
from coordinator.testing import PARAMETERS, ToyFederation, toy_words
from coordinator.unmasking import ClearSum
from fed_node.marks import MemoryMarks
from fed_node.outbox import OutboxEntry
from fed_node.secure import SecurePorts, SecureSite
from fedmentor.errors import PolicyRefusal, RoundClosed, UpdateRejected
from fedmentor.federation import Finished, Manifest, Outcome, Receipt, SecureStep, StepAnswer, StepName, Train, Wait
from fedmentor.ids import Attempt, SiteId
from fedmentor.models import load_model
from fedmentor.secagg.aggregator import Unmasking
from fedmentor.secagg.masks import Mask
from fedmentor.secagg.plan import plan_secure
from fedmentor.secagg.ring import Ring, quantise
from fedmentor.secagg.secret import Secret
from fedmentor.testing.secagg import enrol, seeded_entropy

ENROLLED = enrol(4)
SITES = tuple(SiteId(site) for site in "abcd")
KEYS = {site: signer.public_key for site, signer in zip(SITES, ENROLLED.signers, strict=True)}
A, B, C, D = SITES


class Secure:
    """A toy federation and its sites' side of the protocol."""

    def __init__(self, folder, **manifest):
        chosen = {"sites": SITES, "secure": plan_secure(KEYS, step_seconds=30.0), **manifest}
        self.federation = ToyFederation(folder, **chosen)
        self.marks = {site: MemoryMarks() for site in SITES}
        self.sites = {site: self.started(site) for site in SITES}
        self.streams = {}

    def started(self, site, life=b"1"):
        """The site's process begins: nothing but its marks is left of an earlier one."""
        signer = ENROLLED.signers[SITES.index(site)]
        ports = SecurePorts(signer._key, lambda: KEYS, self.marks[site], seeded_entropy(site.encode(), life))
        return SecureSite(site, self.federation.manifest, ports)

    def connect(self):
        """Open every stream; gives the phase that follows."""
        self.federation.connect()
        return self.federation.settle()

    def order(self, site):
        """The directive in force for a site, as a new stream would get it."""
        self.federation.connect(site)
        manifest, directive = self.federation.stream(site).poll()
        assert isinstance(manifest, Manifest)
        return directive

    def answer(self, *sites):
        """These sites, or all, do what they are told."""
        for site in sites or SITES:
            order = self.order(site)
            if isinstance(order, SecureStep):
                self.federation.engine.service.answer_step(site, self.sites[site].answer(order))
            elif isinstance(order, Train):
                self.upload(site, order)
        return self.federation.settle()

    def upload(self, site, order):
        """Send a site's masked update."""
        self.sites[site].accept(order.round, order.delivery, order.model.digest)
        words = toy_words(site, order.round, self.federation.manifest)
        header, masked = self.sites[site].mask(OutboxEntry(self.federation.header(words), words))
        return self.federation.send(site, masked, header)

    def until(self, phase):
        """Let everybody do what they are told until the run is at a phase."""
        assert self.connect() is PhaseName.ADVERTISE
        while self.federation.moment.state.phase is not phase:
            self.answer()

    def audit(self):
        """The audit trail."""
        return self.federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())


@pytest.fixture
def secure(tmp_path):
    made = Secure(tmp_path)
    yield made
    made.federation.close()


def test_a_round_goes_through_its_steps_and_makes_the_mean(secure):
    seen = [secure.connect()]
    while secure.federation.moment.state.round == 0:
        seen.append(secure.answer())
    steps = [PhaseName.ADVERTISE, PhaseName.SHARE, PhaseName.COLLECT, PhaseName.CONSENT, PhaseName.REVEAL]
    assert seen[:5] == steps
    manifest, state = secure.federation.manifest, secure.federation.moment.state
    models = secure.federation.state / "models"
    base, made = (load_model(models / digest)[0] for digest in (manifest.initial_model, state.model))
    ref = replace(state.ref(manifest.run), round=0)
    words = [np.frombuffer(toy_words(site, ref, manifest), "<u4") for site in SITES]
    total = np.sum([one.view(np.int32).astype(np.int64) for one in words], axis=0)
    mean = total[:-1] / total[-1]
    flat = np.concatenate([(made[name] - base[name]).ravel() for name in sorted(made)])
    np.testing.assert_allclose(flat, mean, atol=2e-7)


def test_every_step_survives_a_restart_of_the_coordinator(secure):
    secure.connect()
    while secure.federation.moment.state.round == 0:
        for site in SITES:
            secure.answer(site)
            secure.federation.reopen()
            secure.federation.connect()
            secure.federation.settle()
    assert secure.federation.moment.state.attempt == 1
    assert secure.federation.engine.report().rounds[0].attempt == 1, "nobody had to begin again"


def test_an_answer_is_taken_once_and_acknowledged_again(secure):
    secure.connect()
    order = secure.order(A)
    answer = secure.sites[A].answer(order)
    service = secure.federation.engine.service
    service.answer_step(A, answer)
    records = len(secure.audit())
    service.answer_step(A, answer)
    assert len(secure.audit()) == records
    assert isinstance(secure.order(A), Wait)
    with pytest.raises(PolicyRefusal, match="something else in this step"):
        service.answer_step(A, replace(answer, message=answer.message[:-1] + b"x"))


def test_what_a_site_says_in_anothers_name_is_refused_and_named(secure):
    secure.connect()
    answer = secure.sites[A].answer(secure.order(A))
    with pytest.raises(PolicyRefusal, match="names another site came from site b"):
        secure.federation.engine.service.answer_step(B, answer)
    last = secure.audit()[-1]
    assert (last.actor, last.event) == ("site b", "refuse_answer")
    assert json.loads(last.fields)["step"] == "advertise"
    assert secure.federation.moment.answered == frozenset()


def test_refusals_do_not_fill_the_audit_trail(secure):
    secure.connect()
    order = secure.order(A)
    before = len(secure.audit())
    for number in range(3 * AUDITED_REFUSALS):
        with pytest.raises(PolicyRefusal):
            secure.federation.engine.service.answer_step(A, StepAnswer(order.round, StepName.ADVERTISE, bytes([number]) * 70))
    assert len(secure.audit()) == before + AUDITED_REFUSALS


@pytest.mark.parametrize("message", [b"", b"\x00", bytes(64), bytes(65), bytes(200), bytes(100_000)])
@pytest.mark.parametrize("step", [StepName.ADVERTISE, StepName.SHARE, StepName.CONSENT, StepName.REVEAL])
def test_junk_changes_nothing(secure, step, message):
    secure.connect()
    state = secure.federation.moment.state
    with pytest.raises((PolicyRefusal, RoundClosed)):
        secure.federation.engine.service.answer_step(A, StepAnswer(state.ref(secure.federation.manifest.run), step, message))
    assert secure.federation.moment.answered == frozenset()
    assert secure.federation.moment.state == state


def test_another_round_attempt_or_step_is_closed(secure):
    secure.until(PhaseName.SHARE)
    service, here = secure.federation.engine.service, secure.federation.ref
    answer = secure.sites[A].answer(secure.order(A))
    for ref in (replace(here, round=1), replace(here, attempt=Attempt(2))):
        with pytest.raises(RoundClosed):
            service.answer_step(A, replace(answer, round=ref))
    with pytest.raises(RoundClosed):
        service.answer_step(A, replace(answer, step=StepName.CONSENT))
    with pytest.raises(UpdateRejected, match="not an answer"):
        service.answer_step(A, replace(answer, step=StepName.UPLOAD))


def test_a_plain_run_takes_no_answers_and_no_masks(tmp_path):
    plain = ToyFederation(tmp_path)
    plain.connect()
    plain.settle()
    with pytest.raises(UpdateRejected, match="does not aggregate securely"):
        plain.engine.service.answer_step(SiteId("a"), StepAnswer(plain.ref, StepName.ADVERTISE, b"x"))
    words = toy_words("a", plain.ref, plain.manifest)
    with pytest.raises(UpdateRejected, match="takes plain updates only"):
        plain.send("a", words, replace(plain.header(words), masked=b"signed"))
    plain.close()


def test_an_update_that_is_not_masked_is_refused(secure):
    secure.until(PhaseName.COLLECT)
    with pytest.raises(UpdateRejected, match="takes masked updates only"):
        secure.federation.send(A)


def test_words_that_are_not_those_of_the_signed_header_are_refused_and_dropped(secure):
    secure.until(PhaseName.COLLECT)
    order = secure.order(A)
    secure.sites[A].accept(order.round, order.delivery, order.model.digest)
    words = toy_words(A, order.round, secure.federation.manifest)
    header, masked = secure.sites[A].mask(OutboxEntry(secure.federation.header(words), words))
    other = bytes(len(masked))
    lying = replace(secure.federation.header(other), masked=header.masked)
    with pytest.raises(PolicyRefusal, match="not what its header says"):
        secure.federation.send(A, other, lying)
    assert list((secure.federation.state / "spool" / A).iterdir()) == []
    assert isinstance(secure.federation.send(A, masked, header), Receipt), "the honest one is still welcome"


def test_a_lost_site_is_left_out_and_its_mask_taken_away(secure):
    secure.until(PhaseName.COLLECT)
    secure.answer(A, B, C)
    secure.federation.leave("d")
    secure.federation.clock.advance(11)
    assert secure.federation.settle() is PhaseName.CONSENT
    assert secure.answer(A, B, C) is PhaseName.REVEAL
    secure.answer(A, B, C)
    published = secure.federation.engine.report().rounds[0]
    assert published.accepted == (A, B, C)
    assert published.published is not None


def test_a_site_that_restarts_sits_out_and_is_not_waited_for(secure):
    secure.until(PhaseName.COLLECT)
    secure.sites[D], order = secure.started(D, b"2"), secure.order(D)
    with pytest.raises(RoundClosed, match="no part in this attempt"):
        secure.sites[D].accept(order.round, order.delivery, order.model.digest)
    secure.federation.engine.service.sit_out(D, secure.federation.ref, "it was restarted")
    assert SatOut(D, secure.federation.ref, "it was restarted") in secure.federation.events
    assert secure.answer(A, B, C) is PhaseName.CONSENT


def test_too_few_sites_in_a_step_fail_the_attempt_and_the_next_one_begins_afresh(secure):
    secure.connect()
    secure.answer(A, B)
    secure.federation.clock.advance(31)
    secure.federation.settle()
    state = secure.federation.moment.state
    assert (state.phase, state.attempt) == (PhaseName.ADVERTISE, 2)
    assert secure.federation.moment.answered == frozenset()
    assert secure.answer() is PhaseName.SHARE


def test_a_round_that_cannot_be_opened_is_void_and_two_of_them_end_the_run(secure):
    for round_ in range(2):
        if round_ == 0:
            secure.connect()
        while secure.federation.moment.state.phase is not PhaseName.REVEAL:
            secure.answer()
        assert secure.federation.moment.state.round == round_
        secure.federation.clock.advance(31)  # nobody reveals
        secure.federation.settle()
    state = secure.federation.moment.state
    assert (state.phase, state.outcome) == (PhaseName.SHUTDOWN, Outcome.FAILED)
    assert state.model == secure.federation.manifest.initial_model
    assert "2 rounds in a row" in state.reason
    events = [record.event for record in secure.audit()]
    assert events.count("void_round") == 1
    assert isinstance(secure.order(A), Finished)


def test_an_upload_that_is_damaged_on_disk_after_the_reveal_voids_the_round(secure):
    secure.until(PhaseName.REVEAL)
    (path,) = (secure.federation.state / "spool" / B).iterdir()
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    secure.answer()
    done = secure.federation.engine.report().rounds[0]
    assert done.published == secure.federation.manifest.initial_model


@pytest.mark.parametrize("scale", [1e6, 3.0])
def test_a_sum_outside_its_bounds_is_refused(scale):
    ring = Ring()
    words = np.concatenate(([int(scale * 2**ring.fraction_bits) % 2**32], np.zeros(PARAMETERS - 1), [2**ring.fraction_bits]))
    with pytest.raises(UpdateRejected, match="of the sum is over"):
        check_sum(_Words(words.astype(np.uint32)), PARAMETERS, 2, ring)


def test_a_sum_inside_its_bounds_passes_and_noise_does_not():
    ring = Ring()
    random = np.random.default_rng(0)
    sites = [quantise(random.normal(scale=0.2, size=PARAMETERS).astype(np.float32), 1000, ring) for _ in range(5)]
    check_sum(_Words(np.sum(sites, axis=0, dtype=np.uint32)), PARAMETERS, 5, ring)
    passed = 0
    for _ in range(200):
        try:
            check_sum(_Words(random.integers(0, 2**32, PARAMETERS + 1, np.uint32)), PARAMETERS, 5, ring)
            passed += 1
        except UpdateRejected:
            pass
    assert passed == 0


def test_a_clear_sum_reads_the_same_in_any_piece():
    random = np.random.default_rng(1)
    uploads = [_Words(random.integers(0, 2**32, 1003, np.uint32)) for _ in range(3)]
    masks = tuple(Mask(Secret(bytes([number]) * 32), sign) for number, sign in enumerate((1, -1, 1)))
    clear = ClearSum(uploads, Unmasking((0, 1, 2), masks, ()))
    whole = clear.words(0, 1003)
    for start, stop in ((0, 1), (1, 2), (3, 9), (5, 1003), (1002, 1003), (500, 777)):
        np.testing.assert_array_equal(clear.words(start, stop), whole[start:stop])


class _Words:
    def __init__(self, words):
        self._words = words

    def words(self, start, stop):
        return self._words[start:stop]

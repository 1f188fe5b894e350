"""A site in secure aggregation: whose keys it takes, when it sits out, when it stops, and what is on its disk before it answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from coordinator.testing import toy_manifest
from fed_node.marks import MemoryMarks
from fed_node.outbox import OutboxEntry
from fed_node.ports import SessionPorts, secure_site
from fed_node.rules import PlanLimits, check_approval, check_manifest
from fed_node.secure import SecurePorts, SecureSite, check_signing_keys
from fedmentor.errors import BrokenStore, PolicyRefusal, RoundClosed
from fedmentor.federation import ModelRef, RoundRef, SecureStep, StepName, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.secagg.memory import Mark, Persist
from fedmentor.secagg.messages import bundle_bytes, delivery_from_bytes, shares_from_bytes
from fedmentor.secagg.plan import plan_secure
from fedmentor.secagg.reading import indexes_bytes
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.signing import signed_from_bytes
from fedmentor.tensors import sha256_hex
from fedmentor.testing.secagg import enrol, seeded_entropy

MODEL = Digest("1" * 64)
ROOT = bytes(32)
ENROLLED = enrol(4)
SITES = tuple(SiteId(site) for site in "abcd")
KEYS = {site: signer.public_key for site, signer in zip(SITES, ENROLLED.signers, strict=True)}
MANIFEST = toy_manifest(MODEL, SITES, secure=plan_secure(KEYS))
REF = RoundRef(MANIFEST.run, Round(0), Attempt(1))


class RecordingMarks(MemoryMarks):
    """Remembers which marks were kept, and may be told to fail."""

    def __init__(self):
        super().__init__()
        self.order = []
        self.broken = False

    def keep(self, persist):
        """See Marks."""
        if self.broken:
            raise BrokenStore("the disk is gone")
        self.order.append(persist.mark)
        super().keep(persist)


def site(name, marks=None, keys=KEYS, manifest=MANIFEST, life=b"1"):
    signer = ENROLLED.signers[SITES.index(name)]
    ports = SecurePorts(signer._key, lambda: keys, marks or RecordingMarks(), seeded_entropy(name.encode(), life))
    return SecureSite(SiteId(name), manifest, ports)


def step(name, message, ref=REF, model=MODEL):
    return SecureStep(ref, ModelRef(model, 152), 60.0, name, message)


def adverts(sites, ref=REF):
    return bundle_bytes([signed_from_bytes(one.answer(step(StepName.ADVERTISE, ROOT, ref)).message) for one in sites])


def test_keys_come_from_the_registrar_and_not_from_the_manifest():
    check_signing_keys(MANIFEST, KEYS)
    swapped = {**KEYS, SITES[1]: ENROLLED.signers[0].public_key}
    missing = {name: key for name, key in KEYS.items() if name != "d"}
    for keys, named in ((swapped, "site b"), (missing, "site d")):
        with pytest.raises(PolicyRefusal, match=f"another signing key for {named}"):
            site("a", keys=keys)


def test_a_node_without_a_signing_key_takes_no_part_in_a_secure_run(session_ports):
    assert secure_site(session_ports, SITES[0], toy_manifest(MODEL, SITES)) is None
    with pytest.raises(PolicyRefusal, match="this node has no signing key"):
        secure_site(session_ports, SITES[0], MANIFEST)


@pytest.fixture
def session_ports():
    nothing = dict.fromkeys(("link", "open_mailbox", "trainer", "outbox", "clock", "pause", "jitter", "stopping", "observe"))
    return SessionPorts(**nothing)


def test_a_site_may_insist_on_secure_runs():
    limits = PlanLimits(secure_required=True)
    check_manifest(MANIFEST, SITES[0], MANIFEST.architecture, MANIFEST.spec, limits)
    plain = toy_manifest(MODEL, SITES)
    with pytest.raises(PolicyRefusal, match="secure runs only"):
        check_manifest(plain, SITES[0], plain.architecture, plain.spec, limits)


def test_marks_are_kept_before_answers_leave_and_a_repeat_says_the_same():
    marks = RecordingMarks()
    here = site("a", marks)
    first = here.answer(step(StepName.ADVERTISE, ROOT))
    assert marks.order == [Mark.ADVERTISED]
    assert here.answer(step(StepName.ADVERTISE, ROOT)) == first
    marks.broken = True
    with pytest.raises(BrokenStore):
        here.answer(step(StepName.ADVERTISE, ROOT))


def test_a_restarted_site_sits_the_attempt_out_and_joins_the_next_one():
    marks = RecordingMarks()
    site("a", marks).answer(step(StepName.ADVERTISE, ROOT))
    again = site("a", marks, life=b"2")
    with pytest.raises(RoundClosed, match="sits the attempt out"):
        again.answer(step(StepName.ADVERTISE, ROOT))
    for name, message in ((StepName.SHARE, b""), (StepName.CONSENT, indexes_bytes((0, 1, 2))), (StepName.REVEAL, b"")):
        with pytest.raises(RoundClosed, match="no part in this attempt"):
            again.answer(step(name, message))
    assert again.answer(step(StepName.ADVERTISE, ROOT, replace(REF, attempt=Attempt(2))))


def test_a_model_that_the_site_did_not_compute_makes_another_context():
    sites = [site(name) for name in SITES]
    lied = [signed_from_bytes(sites[0].answer(step(StepName.ADVERTISE, ROOT, model=Digest("2" * 64))).message)]
    lied += [signed_from_bytes(one.answer(step(StepName.ADVERTISE, ROOT)).message) for one in sites[1:]]
    for number, one in enumerate(sites):
        shown = Digest("2" * 64) if number == 0 else MODEL
        with pytest.raises(ProtocolRefused) as refused:
            one.answer(step(StepName.SHARE, bundle_bytes(lied), model=shown))
        assert refused.value.reason is Reason.OTHER_CONTEXT


def test_an_announcement_without_an_audit_root_is_refused():
    with pytest.raises(ProtocolRefused, match="without its audit root"):
        site("a").answer(step(StepName.ADVERTISE, b"short"))


def deliveries(sites):
    """What a coordinator delivers to each of four sites once all have shared."""
    all_adverts = adverts(sites)
    shares = [shares_from_bytes(one.answer(step(StepName.SHARE, all_adverts)).message) for one in sites]
    commits = bundle_bytes([one.commit for one in shares])
    made = []
    for index in range(len(sites)):
        others = [sender for sender in range(len(sites)) if sender != index]
        boxes = [(sender, next(box.ciphertext for box in shares[sender].boxes if box.peer == index)) for sender in others]
        made.append(
            commits + len(boxes).to_bytes(2, "little") + b"".join(sender.to_bytes(2, "little") + box for sender, box in boxes)
        )
    return made


def test_boxes_of_a_malicious_site_cost_the_attempt_and_not_the_node():
    sites = [site(name) for name in SITES]
    all_adverts = adverts(sites)
    shares = [shares_from_bytes(one.answer(step(StepName.SHARE, all_adverts)).message) for one in sites]
    commits = bundle_bytes([one.commit for one in shares])
    boxes = [(sender, next(box.ciphertext for box in shares[sender].boxes if box.peer == 0)) for sender in (1, 2, 3)]
    boxes[1] = (2, bytes(len(boxes[1][1])))
    count = len(boxes).to_bytes(2, "little")
    delivery = commits + count + b"".join(sender.to_bytes(2, "little") + box for sender, box in boxes)
    assert len(delivery_from_bytes(delivery).boxes) == 3
    with pytest.raises(RoundClosed, match="sits the attempt out"):
        sites[0].accept(REF, delivery, MODEL)


def test_an_upload_needs_the_shares_first_and_is_the_same_when_it_is_sent_again():
    sites = [site(name) for name in SITES]
    words = np.arange(39, dtype="<u4").tobytes()
    entry = OutboxEntry(UpdateHeader(REF, sha256_hex([words]), len(words), MODEL), words)
    all_adverts = adverts(sites)
    shares = [shares_from_bytes(one.answer(step(StepName.SHARE, all_adverts)).message) for one in sites]
    with pytest.raises(RoundClosed, match="sits the attempt out"):
        sites[0].mask(entry)  # before the shares are out: out of order
    commits = bundle_bytes([one.commit for one in shares])
    boxes = [(sender, next(box.ciphertext for box in shares[sender].boxes if box.peer == 0)) for sender in (1, 2, 3)]
    delivery = commits + (3).to_bytes(2, "little") + b"".join(sender.to_bytes(2, "little") + box for sender, box in boxes)
    sites[0].accept(REF, delivery, MODEL)
    header, masked = sites[0].mask(entry)
    assert sites[0].mask(entry) == (header, masked)
    assert header.sha256 == sha256_hex([masked])
    assert header.masked
    assert masked != words
    assert len(masked) == len(words)
    other = words[:-4] + b"zzzz"
    sites[0].delivered()
    with pytest.raises(ProtocolRefused) as refused:
        sites[0].mask(OutboxEntry(replace(entry.header, sha256=sha256_hex([other])), other))
    assert refused.value.reason is Reason.SECOND_UPLOAD


def test_what_an_attempt_is_announced_with_is_what_a_site_trains_from():
    """One model in everybody's context and others to train from would leave a single update in the sum (Pasquini et al. 2022)."""
    sites = [site(name) for name in SITES]
    delivery = deliveries(sites)[0]
    crafted = Digest("2" * 64)
    with pytest.raises(ProtocolRefused) as refused:
        sites[0].accept(REF, delivery, crafted)
    assert refused.value.reason is Reason.OTHER_MODEL
    sites[0].accept(REF, delivery, MODEL)
    words = bytes(4 * 39)
    trained = OutboxEntry(UpdateHeader(REF, sha256_hex([words]), len(words), crafted), words)
    with pytest.raises(ProtocolRefused) as refused:
        sites[0].mask(trained)
    assert refused.value.reason is Reason.OTHER_MODEL
    for name in (StepName.SHARE, StepName.CONSENT, StepName.REVEAL):
        with pytest.raises(ProtocolRefused) as refused:
            sites[0].answer(step(name, indexes_bytes((0, 1, 2, 3)), model=crafted))
        assert refused.value.reason is Reason.OTHER_MODEL


def test_members_are_left_out_by_the_registrar_alone():
    smaller = toy_manifest(MODEL, SITES[:3], secure=plan_secure({name: KEYS[name] for name in SITES[:3]}))
    with pytest.raises(PolicyRefusal, match="leaves out 1 members"):
        site("a", manifest=smaller)
    check_signing_keys(smaller, KEYS, approved=True)


def revealed(run, model, count):
    """The marks of a site that has helped to open so many sums."""
    marks = RecordingMarks()
    for number in range(count):
        marks.keep(Persist(Mark.REVEALED, RunId(run), Round(number), Attempt(1), Digest("e" * 64), model=model))
    return marks


def test_two_runs_from_one_model_are_the_registrars_to_allow():
    marks = revealed("another-run", MODEL, 1)
    with pytest.raises(PolicyRefusal, match="very model in run 'another-run'"):
        site("a", marks).answer(step(StepName.ADVERTISE, ROOT))
    ports = SecurePorts(ENROLLED.signers[0]._key, lambda: KEYS, marks, seeded_entropy(b"a"))
    assert SecureSite(SITES[0], MANIFEST, ports, approved=True).answer(step(StepName.ADVERTISE, ROOT))
    assert site("a", revealed("another-run", Digest("3" * 64), 1)).answer(step(StepName.ADVERTISE, ROOT))


def test_void_rounds_from_one_model_come_to_an_end():
    late = replace(REF, round=Round(1))
    manifest = MANIFEST.model_copy(update={"rounds": 9})
    assert site("a", revealed(MANIFEST.run, MODEL, 1), manifest=manifest).answer(step(StepName.ADVERTISE, ROOT, late))
    with pytest.raises(PolicyRefusal, match="2 sums from this very model, the run allows 2"):
        site("a", revealed(MANIFEST.run, MODEL, 2), manifest=manifest).answer(
            step(StepName.ADVERTISE, ROOT, replace(REF, round=Round(2)))
        )


def test_a_site_may_insist_on_the_registrars_word():
    limits = PlanLimits(approval_required=True)
    check_approval(MANIFEST, limits, approved=True)
    check_approval(MANIFEST, PlanLimits(), approved=False)
    with pytest.raises(PolicyRefusal, match="the registrar did not sign"):
        check_approval(MANIFEST, limits, approved=False)


def test_a_quorum_is_that_of_the_smallest_group():
    enrolled = enrol(12)
    keys = {SiteId(f"s{index:02d}"): signer.public_key for index, signer in enumerate(enrolled.signers)}
    grouped = toy_manifest(MODEL, keys, secure=plan_secure(keys, groups=3))
    arguments = (grouped, SiteId("s00"), grouped.architecture, grouped.spec)
    check_manifest(*arguments, PlanLimits(quorum=3))
    with pytest.raises(PolicyRefusal, match="sums or models of 3 sites, this site asks for at least 4"):
        check_manifest(*arguments, PlanLimits(quorum=4))


def test_an_upload_is_never_asked_for_as_a_step():
    with pytest.raises(PolicyRefusal, match="order to train"):
        site("a").answer(step(StepName.UPLOAD, b""))

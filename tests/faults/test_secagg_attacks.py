"""A malicious coordinator, with a colluding site, against the real site: what it tries, and the check that stops it.

Site 0 is the victim, site 4 of five works for the coordinator, which sees and may bend every message. Each attack is one test; its
name says what is tried and which refusal answers. ``python -m pytest -rA tests/faults/test_secagg_attacks.py`` prints the table.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy.stats import kstest

from fedmentor.ids import Digest, RunId
from fedmentor.secagg.aggregator import Revealing, Sharing
from fedmentor.secagg.checks import check_adverts, check_commits
from fedmentor.secagg.masks import MaskedWords, apply_masks, pair_mask, self_mask, words_sha256
from fedmentor.secagg.memory import Mark, SiteMemory
from fedmentor.secagg.messages import (
    Box,
    Delivery,
    ShareKind,
    advert_from_bytes,
    commit_from_bytes,
    consent_from_bytes,
    reveal_from_bytes,
)
from fedmentor.secagg.rebuild import rebuild_verified
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.secret import Secret
from fedmentor.secagg.shamir import rebuild
from fedmentor.secagg.signing import Signed, Signer
from fedmentor.secagg.site import Pinned, SiteAttempt, Step, open_attempt
from fedmentor.secagg.terms import Roster, Terms, usual_terms
from fedmentor.testing.secagg import MANIFEST, MODEL, RUN, Enrolled, enrol, plain_sum, random_updates, seeded_entropy

SITES = 5
VICTIM, EVIL = 0, 4
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "secure-aggregation.md"
FORGER = Signer(VICTIM, Ed25519PrivateKey.from_private_bytes(b"f" * 32))


class _Play:
    """An attempt that is honest as far as a test asks for it: each property runs the protocol up to there."""

    def __init__(self, *, attempt=1, round_number=0, silent=(), enrolled=None, seed=b""):
        self.enrolled: Enrolled = enrolled or enrol(SITES)
        self.context = self.enrolled.context(attempt=attempt, round_number=round_number)
        self.sites: list[SiteAttempt] = [self.enrolled.site(i, self.context, seed=seed) for i in range(SITES)]
        self.victim = self.sites[VICTIM]
        self.evil_key = self.enrolled.signers[EVIL]
        self.words = random_updates(SITES, 4096)
        self.silent = silent

    @cached_property
    def adverts(self):
        return [site.advertise().message for site in self.sites]

    @cached_property
    def shares(self):
        return {i: self.sites[i].share(self.adverts) for i in range(SITES) if i not in self.silent}

    @cached_property
    def cohort(self):
        return check_adverts(self.enrolled.terms, self.context.digest(), self.adverts)

    @cached_property
    def deliveries(self):
        sharing = Sharing(self.cohort, 0)
        for shares in self.shares.values():
            sharing.add(shares)
        return sharing.close()[0]

    @cached_property
    def sharing(self):
        return check_commits(self.cohort, self.deliveries[VICTIM].commits)

    @cached_property
    def uploads(self):
        for i, delivery in self.deliveries.items():
            self.sites[i].accept(delivery)
        return {i: self.upload(i) for i in self.deliveries}

    @cached_property
    def consents(self):
        survivors = tuple(self.uploads)
        return [self.sites[i].consent(survivors).message for i in survivors]

    def upload(self, index, words=None):
        words = self.words[index] if words is None else words
        return self.sites[index].upload(words, Digest(words_sha256(words).hex()))

    def finish(self):
        """The sum, once everybody has done its part."""
        revealing = Revealing(self.sharing, tuple(self.uploads))
        for site in self.sites:
            revealing.add(site.reveal(self.consents).message)
        total = sum((upload.masked.words for upload in self.uploads.values()), np.zeros(4096, np.uint32))
        return revealing.close().remove(MaskedWords(total)).tolist()

    def advert_of_evil(self, **changes):
        """An advert of the colluding site, well signed."""
        return self.evil_key.sign(replace(advert_from_bytes(self.adverts[EVIL].body), **changes).to_bytes())

    def with_advert(self, index, advert):
        return [*self.adverts[:index], advert, *self.adverts[index + 1 :]]

    def delivery(self, *, commits=None, boxes=None):
        honest = self.deliveries[VICTIM]
        return Delivery(tuple(honest.commits if commits is None else commits), tuple(honest.boxes if boxes is None else boxes))

    def consent_of_evil(self, **changes):
        return self.evil_key.sign(replace(consent_from_bytes(self.consents[EVIL].body), **changes).to_bytes())


def _memory(*answers):
    memory = SiteMemory(RUN)
    for answer in answers:
        memory = memory.after(answer.persist)
    return memory


def _open(enrolled, context, memory=None, **pinned):
    known = {"run": RUN, "manifest": MANIFEST, "terms": enrolled.terms, "model": MODEL} | pinned
    return open_attempt(Pinned(**known), enrolled.signers[VICTIM], context, memory or SiteMemory(RUN), seeded_entropy(b"open"))


def _announce(**changes):
    enrolled = enrol(SITES)
    return _open(enrolled, replace(enrolled.context(), **changes))


OTHER = Digest("ee" * 32)
ATTACKS = {}


def attack(name, reason):
    """Register an attack; it has to end in a refusal for this reason."""

    def register(function):
        assert name not in ATTACKS
        ATTACKS[name] = (reason, function)
        return function

    return register


# Step 0: what is announced.


@attack("a crafted model for one site", Reason.OTHER_MODEL)
def _(_play):
    _announce(model=OTHER)


@attack("another manifest than the pinned one", Reason.OTHER_MANIFEST)
def _(_play):
    _announce(manifest=OTHER)


@attack("another run's attempt", Reason.OTHER_RUN)
def _(_play):
    _announce(run=RunId("other"))


@attack("another run's memory", Reason.OTHER_RUN)
def _(_play):
    enrolled = enrol(SITES)
    _open(enrolled, enrolled.context(), SiteMemory(RunId("other")))


@attack("a smaller roster, so that a smaller threshold suffices", Reason.OTHER_TERMS)
def _(play):
    some = Roster(play.enrolled.terms.roster.members[:3])
    _announce(terms=usual_terms(some).digest)


@attack("a roster on which the victim's key is the coordinator's", Reason.NOT_A_MEMBER)
def _(play):
    members = play.enrolled.terms.roster.members
    roster = Roster((replace(members[0], signing_key=FORGER.public_key), *members[1:]))
    terms = usual_terms(roster)
    _open(play.enrolled, replace(play.context, terms=terms.digest), terms=terms)


@attack("terms with a threshold of two", Reason.WEAK_TERMS)
def _(play):
    Terms(play.enrolled.terms.roster, 3, 2, 0)


@attack("terms that aggregate two sites", Reason.WEAK_TERMS)
def _(play):
    Terms(play.enrolled.terms.roster, 2, 4, 0)


@attack("the same attempt again", Reason.STALE_ATTEMPT)
def _(play):
    _open(play.enrolled, play.context, _memory(play.victim.advertise()))


@attack("the same attempt again after a restart between consent and reveal", Reason.STALE_ATTEMPT)
def _(play):
    upload, consent = play.uploads[VICTIM], play.victim.consent(tuple(range(SITES)))
    _open(play.enrolled, play.context, _memory(play.victim.advertise(), upload, consent))


@attack("an earlier attempt", Reason.STALE_ATTEMPT)
def _(play):
    later = _Play(attempt=5)
    _open(play.enrolled, play.context, _memory(later.victim.advertise()))


@attack("an earlier round", Reason.STALE_ATTEMPT)
def _(play):
    later = _Play(round_number=3)
    _open(play.enrolled, play.enrolled.context(round_number=2, attempt=9), _memory(later.victim.advertise()))


@attack("a second reveal in the round, in a later attempt with other survivors", Reason.ROUND_REVEALED)
def _(play):
    revealed = play.victim.reveal(play.consents)
    _open(play.enrolled, play.enrolled.context(attempt=2), _memory(revealed))


@attack("a stale high-water mark cannot hide a reveal", Reason.ROUND_REVEALED)
def _(play):
    memory = replace(_memory(play.victim.reveal(play.consents)), high_water=None)
    _open(play.enrolled, play.enrolled.context(attempt=2), memory)


# Step 1: adverts.


@attack("a peer's mask key swapped", Reason.BAD_SIGNATURE)
def _(play):
    mine = X25519PrivateKey.from_private_bytes(b"m" * 32).public_key().public_bytes_raw()
    body = replace(advert_from_bytes(play.adverts[1].body), mask_key=mine).to_bytes()
    play.victim.share(play.with_advert(1, Signed(body, play.adverts[1].signature)))


@attack("a peer's share key swapped", Reason.BAD_SIGNATURE)
def _(play):
    mine = X25519PrivateKey.from_private_bytes(b"m" * 32).public_key().public_bytes_raw()
    body = replace(advert_from_bytes(play.adverts[1].body), share_key=mine).to_bytes()
    play.victim.share(play.with_advert(1, Signed(body, play.adverts[1].signature)))


@attack("a forged advert of a peer, signed with another key", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.share(play.with_advert(1, FORGER.sign(play.adverts[1].body)))


@attack("an unsigned advert", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.share(play.with_advert(1, Signed(play.adverts[1].body, bytes(64))))


@attack("a lying roster index: the colluding site as somebody else", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.share(play.with_advert(1, play.advert_of_evil(sender=1)))


@attack("an index that is not on the roster", Reason.FOREIGN_SITE)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(sender=99)))


@attack("the colluding site advertises twice", Reason.REPEATED_SITE)
def _(play):
    play.victim.share([*play.adverts, play.adverts[EVIL]])


@attack("a partition of the cohort: three of five sites", Reason.TOO_FEW_SITES)
def _(play):
    play.victim.share(play.adverts[:3])


@attack("the victim and the colluding site alone", Reason.TOO_FEW_SITES)
def _(play):
    play.victim.share([play.adverts[VICTIM], play.adverts[EVIL]])


@attack("the victim's own advert left out", Reason.OWN_ADVERT_CHANGED)
def _(play):
    play.victim.share(play.adverts[1:])


@attack("the victim's own advert from an earlier life of the same attempt", Reason.OWN_ADVERT_CHANGED)
def _(play):
    earlier = _Play(seed=b"earlier life")
    play.victim.share(play.with_advert(VICTIM, earlier.adverts[VICTIM]))


@attack("split models: peers signed for another model", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, model=OTHER).digest())))


@attack("split manifests: peers signed for another manifest", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, manifest=OTHER).digest())))


@attack("split audit logs: peers countersigned another audit root", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, audit_root=OTHER).digest())))


@attack("adverts of the attempt before", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share([play.adverts[VICTIM], *_Play(attempt=0).adverts[1:]])


@attack("adverts of another round", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share([play.adverts[VICTIM], *_Play(round_number=7).adverts[1:]])


@attack("adverts of another run", Reason.OTHER_CONTEXT)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(context=replace(play.context, run=RunId("other")).digest())))


@attack("the victim's own mask key reflected", Reason.REPEATED_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(mask_key=advert_from_bytes(play.adverts[VICTIM].body).mask_key)))


@attack("a peer's mask key as the colluding site's share key", Reason.REPEATED_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(share_key=advert_from_bytes(play.adverts[1].body).mask_key)))


@attack("one key for shares and masks", Reason.REPEATED_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(share_key=advert_from_bytes(play.adverts[EVIL].body).mask_key)))


@attack("a key of low order, whose shared secret everybody knows", Reason.BAD_KEY)
def _(play):
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(mask_key=(1).to_bytes(32, "little"))))


@attack("the victim's own key in another spelling", Reason.BAD_KEY)
def _(play):
    key = bytearray(advert_from_bytes(play.adverts[VICTIM].body).mask_key)
    key[31] |= 0x80
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(mask_key=bytes(key))))


@attack("another cohort after the first was accepted", Reason.SECOND_COHORT)
def _(play):
    play.victim.share(play.adverts)
    play.victim.share(play.with_advert(EVIL, play.advert_of_evil(anchor=b"x" * 32)))


@attack("a message of another kind in place of an advert", Reason.MALFORMED)
def _(play):
    other = _Play()
    play.victim.share(play.with_advert(EVIL, other.shares[EVIL].commit))


# Step 2: shares.


@attack("two senders' boxes swapped", Reason.BAD_SHARES)
def _(play):
    first, second, *rest = play.deliveries[VICTIM].boxes
    swapped = [Box(first.peer, second.ciphertext), Box(second.peer, first.ciphertext), *rest]
    play.victim.accept(play.delivery(boxes=swapped))


@attack("a box that was meant for somebody else", Reason.BAD_SHARES)
def _(play):
    theirs = next(box for box in play.deliveries[2].boxes if box.peer == 1)
    play.victim.accept(play.delivery(boxes=[theirs, *play.deliveries[VICTIM].boxes[1:]]))


@attack("the victim's own box sent back to it", Reason.BAD_SHARES)
def _(play):
    mine = next(box for box in play.shares[VICTIM].boxes if box.peer == 1)
    play.victim.accept(play.delivery(boxes=[mine, *play.deliveries[VICTIM].boxes[1:]]))


@attack("a box of the attempt before", Reason.BAD_SHARES)
def _(play):
    earlier = _Play(attempt=0).deliveries[VICTIM].boxes[0]
    play.victim.accept(play.delivery(boxes=[earlier, *play.deliveries[VICTIM].boxes[1:]]))


@attack("a damaged box", Reason.BAD_SHARES)
def _(play):
    first, *rest = play.deliveries[VICTIM].boxes
    play.victim.accept(play.delivery(boxes=[Box(first.peer, bytes(len(first.ciphertext))), *rest]))


@attack("a box held back", Reason.SHARES_MISSING)
def _(play):
    play.victim.accept(play.delivery(boxes=play.deliveries[VICTIM].boxes[1:]))


@attack("a second box of one sender", Reason.SHARES_MISSING)
def _(play):
    boxes = play.deliveries[VICTIM].boxes
    play.victim.accept(play.delivery(boxes=[*boxes, boxes[0]]))


@attack("a partition in step 2: three of five commits", Reason.TOO_FEW_SITES)
def _(play):
    play.victim.accept(play.delivery(commits=play.deliveries[VICTIM].commits[:3]))


@attack("a forged commit, to swap a self mask", Reason.BAD_SIGNATURE)
def _(play):
    commits = list(play.deliveries[VICTIM].commits)
    forged = replace(commit_from_bytes(commits[1].body), commitment=bytes(32))
    play.victim.accept(play.delivery(commits=[commits[0], Signed(forged.to_bytes(), commits[1].signature), *commits[2:]]))


@attack("commits of the attempt before", Reason.OTHER_TRANSCRIPT)
def _(play):
    earlier = _Play(attempt=0).deliveries[VICTIM].commits
    play.victim.accept(play.delivery(commits=[play.deliveries[VICTIM].commits[0], *earlier[1:]]))


@attack("the victim's own commit left out", Reason.OWN_COMMIT_CHANGED)
def _(play):
    play.victim.accept(play.delivery(commits=play.deliveries[VICTIM].commits[1:]))


@attack("a commit of a site that did not advertise", Reason.FOREIGN_SITE)
def _(play):
    four = play.adverts[:EVIL]
    shares = {i: play.sites[i].share(four) for i in range(EVIL)}
    transcript = commit_from_bytes(shares[VICTIM].commit.body).transcript
    foreign = play.evil_key.sign(replace(commit_from_bytes(shares[1].commit.body), transcript=transcript, sender=EVIL).to_bytes())
    play.victim.accept(Delivery((*(one.commit for one in shares.values()), foreign), ()))


@attack("another delivery after the first was accepted", Reason.SECOND_DELIVERY)
def _(play):
    play.victim.accept(play.deliveries[VICTIM])
    play.victim.accept(play.delivery(boxes=play.deliveries[VICTIM].boxes[::-1]))


# Step 3: uploads.


@attack("a second masked upload under the same masks", Reason.SECOND_UPLOAD)
def _(play):
    assert play.uploads
    play.upload(VICTIM, play.words[1])


@attack("another update in a later attempt of the round", Reason.OTHER_UPDATE)
def _(play):
    later = _Play(attempt=2)
    later.sites[VICTIM] = _open(play.enrolled, later.context, _memory(play.uploads[VICTIM]))
    later.words[VICTIM] = later.words[1]
    assert later.uploads


@attack("an upload before the shares are out", Reason.OUT_OF_ORDER)
def _(play):
    assert play.shares
    play.upload(VICTIM)


# Step 4: consent.


@attack("survivors without the victim", Reason.LEFT_OUT)
def _(play):
    assert play.uploads
    play.victim.consent((1, 2, 3, 4))


@attack("survivors with one site repeated", Reason.REPEATED_SITE)
def _(play):
    assert play.uploads
    play.victim.consent((0, 1, 4, 4))


@attack("survivors with a site that is not on the roster", Reason.FOREIGN_SITE)
def _(play):
    assert play.uploads
    play.victim.consent((0, 1, 4, 77))


@attack("survivors with a site that did not share", Reason.NOT_SHARING)
def _(_play):
    play = _Play(silent=(3,))
    assert play.uploads
    play.victim.consent((0, 1, 2, 3, 4))


@attack("survivors below the threshold", Reason.TOO_FEW_SITES)
def _(play):
    assert play.uploads
    play.victim.consent((0, 1, 4))


@attack("survivors below the manifest's minimum", Reason.TOO_FEW_SITES)
def _(play):
    strict = replace(play.enrolled, terms=replace(play.enrolled.terms, min_sites=5))
    play = _Play(enrolled=strict)
    assert play.uploads
    play.victim.consent((0, 1, 2, 4))


@attack("survivors in another order, for a second signature on one set", Reason.MALFORMED)
def _(play):
    assert play.uploads
    play.victim.consent((1, 0, 2, 3, 4))


@attack("consent to a second set that differs by one site", Reason.SECOND_SURVIVOR_SET)
def _(play):
    assert play.consents
    play.victim.consent((0, 1, 2, 4))


@attack("consent before the upload", Reason.OUT_OF_ORDER)
def _(play):
    play.victim.accept(play.deliveries[VICTIM])
    play.victim.consent((0, 1, 2, 3, 4))


# Step 5: reveal.


@attack("a reveal without the victim's consent", Reason.OUT_OF_ORDER)
def _(play):
    assert play.uploads
    consents = [play.sites[i].consent(tuple(range(SITES))).message for i in range(1, SITES)]
    play.victim.reveal(consents)


@attack("consents dropped", Reason.TOO_FEW_CONSENTS)
def _(play):
    play.victim.reveal(play.consents[:3])


@attack("consents forged", Reason.BAD_SIGNATURE)
def _(play):
    play.victim.reveal([*play.consents[:3], FORGER.sign(play.consents[3].body)])


@attack("a consent counted twice", Reason.REPEATED_SITE)
def _(play):
    play.victim.reveal([*play.consents[:3], play.consents[2]])


@attack("consents to another set of survivors", Reason.OTHER_SURVIVORS)
def _(play):
    play.victim.reveal([*play.consents[:4], play.consent_of_evil(survivors=(0, 1, 2, 4))])


@attack("consents of sites that saw another set share", Reason.OTHER_SURVIVORS)
def _(play):
    play.victim.reveal([*play.consents[:4], play.consent_of_evil(sharing=b"s" * 32)])


@attack("consents of the attempt before", Reason.OTHER_TRANSCRIPT)
def _(play):
    play.victim.reveal([play.consents[VICTIM], *_Play(attempt=0).consents[1:]])


@attack("a consent of a site that is no survivor", Reason.LEFT_OUT)
def _(play):
    assert play.uploads
    survivors = (0, 1, 2, 3)
    consents = [play.sites[i].consent(survivors).message for i in survivors]
    body = replace(consent_from_bytes(consents[0].body), sender=EVIL).to_bytes()
    play.victim.reveal([*consents[:3], play.evil_key.sign(body)])


@attack("a second reveal for other survivors", Reason.OTHER_SURVIVORS)
def _(play):
    play.victim.reveal(play.consents)
    play.victim.reveal([play.consent_of_evil(survivors=(0, 1, 2, 4))])


@attack("a first reveal after the attempt was given up", Reason.OUT_OF_ORDER)
def _(play):
    consents = play.consents
    play.victim.forget()
    play.victim.reveal(consents)


OVER = {
    "a commit of a site that did not advertise",
    "a consent of a site that is no survivor",
    "a first reveal after the attempt was given up",
}
"""In these the sites have bound themselves to something else before the refusal."""


@pytest.mark.parametrize("name", ATTACKS, ids=[f"{name} -> {reason.value}" for name, (reason, _) in ATTACKS.items()])
def test_attack(name):
    reason, carry_out = ATTACKS[name]
    play = _Play()
    with pytest.raises(ProtocolRefused) as refusal:
        carry_out(play)
    assert refusal.value.reason is reason
    # A refusal changes nothing: the honest attempt goes on from where it stood and gives the plain sum.
    if name not in OVER:
        assert play.finish() == plain_sum(play.words, tuple(range(SITES)))


def test_at_least_thirty_attacks_and_all_of_them_in_the_documentation():
    assert len(ATTACKS) >= 30
    text = DOCUMENT.read_text()
    assert [name for name, (reason, _) in ATTACKS.items() if f"| {name} | `{reason.value}` |" not in text] == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.split(" | ")[0][2:] in ATTACKS]
    assert len(rows) == len(ATTACKS)


# Attacks that no check can see: the coordinator keeps to the protocol and computes with all it has.


def test_a_colluding_site_and_all_reveals_do_not_open_a_dropped_site():
    # The victim uploaded, the coordinator says it did not. It learns the victim's mask key; the self mask stays.
    play = _Play()
    assert play.uploads
    survivors = (1, 2, 3, 4)
    consents = [play.sites[i].consent(survivors).message for i in survivors]
    evil = play.sites[EVIL]._keys.held[VICTIM]
    reveals = [reveal_from_bytes(play.sites[i].reveal(consents).message.body) for i in survivors]
    shares = {one.sender: next(s for s in one.shares if s.site == VICTIM) for one in reveals}
    assert {share.kind for share in shares.values()} == {ShareKind.MASK_KEY}

    key = X25519PrivateKey.from_private_bytes(rebuild({holder: one.share for holder, one in shares.items()}).reveal())
    words = play.uploads[VICTIM].masked.words.copy()
    pairs = [pair_mask(key, play.cohort.adverts[i].mask_key, play.cohort.transcript, VICTIM, i) for i in survivors]
    apply_masks(words, [pair.removal for pair in pairs])
    assert kstest(words / 2**32, "uniform").pvalue > 1e-3

    # Of the self seed it has the colluding site's share alone, where four are needed.
    commitments = play.sharing.commitments
    assert rebuild_verified({EVIL: evil[ShareKind.SELF_SEED]}, play.cohort.threshold, lambda _: True) is None
    # With the seed, and only with it, the update would lie open.
    apply_masks(words, [self_mask(play.victim._keys.seed, play.cohort.transcript).removal])
    assert words.tolist() == play.words[VICTIM].tolist()
    assert VICTIM in commitments


def test_both_shares_of_one_site_need_two_majorities():
    # Two halves of the cohort are asked for different survivors; the colluding site signs for both: three of the four
    # consents that are needed.
    play = _Play()
    assert play.uploads
    with_victim, without = (0, 1, 2, 3, 4), (1, 2, 3, 4)
    first = [play.sites[i].consent(with_victim).message for i in (0, 1)]
    second = [play.sites[i].consent(without).message for i in (2, 3)]
    evil = consent_from_bytes(first[0].body)
    for consents, survivors, honest in ((first, with_victim, 1), (second, without, 2)):
        signed = [*consents, play.evil_key.sign(replace(evil, sender=EVIL, survivors=survivors).to_bytes())]
        with pytest.raises(ProtocolRefused) as refusal:
            play.sites[honest].reveal(signed)
        assert refusal.value.reason is Reason.TOO_FEW_CONSENTS


def test_uploads_of_two_attempts_differ_by_masks_alone():
    first, second = _Play(), _Play(attempt=2)
    difference = first.uploads[VICTIM].masked.words - second.uploads[VICTIM].masked.words
    assert first.words[VICTIM].tolist() == second.words[VICTIM].tolist()
    assert kstest(difference / 2**32, "uniform").pvalue > 1e-3


def test_sums_of_fewer_uploads_than_survivors_are_noise():
    play = _Play()
    for some in ((0,), (0, 4), (0, 1, 2, 3)):
        total = sum((play.uploads[i].masked.words for i in some), np.zeros(4096, np.uint32))
        assert total.tolist() != plain_sum(play.words, some)
        assert kstest(total / 2**32, "uniform").pvalue > 1e-3


def test_marks_stand_before_answers_and_say_what_they_bind():
    play = _Play()
    marks = [play.victim.advertise().persist, play.uploads[VICTIM].persist]
    marks += [play.victim.consent(tuple(range(SITES))).persist, play.victim.reveal(play.consents).persist]
    assert [mark.mark for mark in marks] == [Mark.ADVERTISED, Mark.UPLOADED, Mark.CONSENTED, Mark.REVEALED]
    assert {(mark.run, mark.round, mark.attempt) for mark in marks} == {(RUN, 0, 1)}
    assert play.victim.step is Step.FORGOTTEN
    assert play.victim._keys is None


def test_lost_answers_are_given_again_and_are_the_same():
    play = _Play()
    assert play.victim.advertise(b"y" * 32) == play.victim.advertise()
    assert play.victim.share(play.adverts) is play.victim.share(list(play.adverts))
    play.victim.accept(play.deliveries[VICTIM])
    play.victim.accept(play.deliveries[VICTIM])
    survivors, consents = tuple(range(SITES)), play.consents
    assert play.victim.consent(survivors) == play.victim.consent(list(survivors))
    assert play.victim.reveal(consents) == play.victim.reveal(consents[1:])


def test_nothing_of_an_attempt_shows():
    play = _Play()
    assert play.uploads
    keys = play.victim._keys
    shown = f"{play.victim!r} {play.uploads[VICTIM]!r} {keys!r} {play.victim.__dict__!r}"
    for secret in (keys.seed, keys._mask_secret):
        assert isinstance(secret, Secret)
        assert secret.reveal().hex() not in shown
        assert repr(secret.reveal())[2:-1] not in shown

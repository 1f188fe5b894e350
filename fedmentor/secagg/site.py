"""A site's side of secure aggregation: one attempt of one round, one method a step, every check numbered.

::

    open_attempt -> advertise -> share -> accept -> upload -> consent -> reveal
         0             1           2        2         3         4         5

Nothing here does I/O. A step that binds the site returns its answer together with a ``Persist`` that the caller stores durably
*before* it sends the answer. A step called again with the same input gives the same answer, because answers get lost on the way;
called with another input it refuses. Secrets live in this object alone: a site that restarts sits the attempt out.

What the caller still owes: that the connection is the coordinator's, that the audit root continues the last one it countersigned,
that the privacy ledger has room, that certificates behind the roster's signing keys are not revoked, deadlines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

import numpy as np

from fedmentor.errors import UpdateRejected
from fedmentor.ids import Digest, RunId
from fedmentor.secagg.checks import (
    Cohort,
    SharingSet,
    check_adverts,
    check_commits,
    check_consents,
    check_survivors,
    owed_shares,
    survivors_digest,
)
from fedmentor.secagg.keys import AttemptKeys
from fedmentor.secagg.masks import MaskedWords, apply_masks, words_sha256
from fedmentor.secagg.memory import Mark, Persist, SiteMemory
from fedmentor.secagg.messages import Advert, Commit, Consent, Delivery, Reveal, RevealedShare, Shares, UploadHeader, boxes_digest
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.ring import RingWords
from fedmentor.secagg.sealing import commitment
from fedmentor.secagg.secret import Entropy
from fedmentor.secagg.signing import Signed, Signer
from fedmentor.secagg.terms import Terms
from fedmentor.secagg.transcript import HASH_BYTES, Context

NO_ANCHOR = bytes(HASH_BYTES)

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Pinned:
    """What a site knows without asking the coordinator.

    Attributes:
        run: the run it joined.
        manifest: digest of the manifest that it pinned at first contact.
        terms: roster, thresholds and graph from that manifest.
        model: digest of the global model, computed by the site over the values it received.
    """

    run: RunId
    manifest: Digest
    terms: Terms
    model: Digest


@dataclass(frozen=True)
class Answer:
    """What a site answers, and the mark that has to be on its disk first."""

    message: Signed
    persist: Persist


@dataclass(frozen=True)
class Upload:
    """A masked update, its signed header, and the mark that has to be on the site's disk first."""

    header: Signed
    masked: MaskedWords
    persist: Persist


class Step(IntEnum):
    """How far an attempt has come."""

    OPENED = 0
    ADVERTISED = 1
    SHARED = 2
    ACCEPTED = 3
    UPLOADED = 4
    CONSENTED = 5
    REVEALED = 6
    FORGOTTEN = 7


def open_attempt(pinned: Pinned, signer: Signer, announced: Context, memory: SiteMemory, entropy: Entropy) -> SiteAttempt:
    """Step 0: decide whether to take part in what the coordinator announces.

    1. this site stands on the roster with this key; 2. run, manifest, terms and model are those that the site pinned and computed
    itself; 3. the round is one in which it has not revealed; 4. the attempt lies above the high-water mark.

    Raises:
        ProtocolRefused: NOT_A_MEMBER, OTHER_RUN, OTHER_MANIFEST, OTHER_TERMS, OTHER_MODEL, ROUND_REVEALED or STALE_ATTEMPT.
    """
    # (1)
    if pinned.terms.roster.member(signer.index).signing_key != signer.public_key:
        raise ProtocolRefused(Reason.NOT_A_MEMBER, f"this site's signing key is not that of place {signer.index} on the roster")
    # (2)
    for reason, ours, theirs in (
        (Reason.OTHER_RUN, pinned.run, announced.run),
        (Reason.OTHER_RUN, pinned.run, memory.run),
        (Reason.OTHER_MANIFEST, pinned.manifest, announced.manifest),
        (Reason.OTHER_TERMS, pinned.terms.digest, announced.terms),
        (Reason.OTHER_MODEL, pinned.model, announced.model),
    ):
        if ours != theirs:
            raise ProtocolRefused(reason, f"the attempt is announced for an{reason.value.replace('-', ' ')} than this site's")
    # (3)
    if memory.revealed_round is not None and announced.round <= memory.revealed_round:
        raise ProtocolRefused(Reason.ROUND_REVEALED, f"this site has revealed shares in round {memory.revealed_round} already")
    # (4)
    if memory.high_water is not None and (announced.round, announced.attempt) <= memory.high_water:
        raise ProtocolRefused(Reason.STALE_ATTEMPT, "this site has taken part in this attempt or a later one already")
    return SiteAttempt(pinned.terms, signer, announced, memory, entropy)


class SiteAttempt:
    """One site in one attempt; made by ``open_attempt``. Not for use by several threads at once.

    Attributes:
        step: how far it has come.
    """

    def __init__(self, terms: Terms, signer: Signer, context: Context, memory: SiteMemory, entropy: Entropy) -> None:
        self._terms = terms
        self._signer = signer
        self._me = signer.index
        self._context = context
        self._memory = memory
        self._entropy = entropy
        self._keys: AttemptKeys | None = AttemptKeys(signer.index, entropy)
        self._said: dict[Step, Answer] = {}
        self._adverts: tuple[Signed, ...] = ()
        self._cohort: Cohort | None = None
        self._shares: Shares | None = None
        self._delivery: Delivery | None = None
        self._sharing: SharingSet | None = None
        self._survivors: tuple[int, ...] = ()
        self.step = Step.OPENED

    @property
    def model(self) -> Digest:
        """Digest of the model that this attempt is about; nothing may be trained from any other."""
        return self._context.model

    def advertise(self, anchor: bytes = NO_ANCHOR) -> Answer:
        """Step 1, first half: two fresh public keys, signed with the context. The mark is the high-water mark.

        Args:
            anchor: 32 bytes for the others to witness; zeros for nothing. A repeat keeps the first.

        Raises:
            ProtocolRefused: OUT_OF_ORDER, the attempt was forgotten.
        """
        if Step.ADVERTISED in self._said:
            return self._said[Step.ADVERTISED]
        keys = self._due(Step.OPENED)
        advert = Advert(self._context.digest(), self._me, keys.share_public, keys.mask_public, anchor)
        return self._answer(Step.ADVERTISED, advert.to_bytes(), Mark.ADVERTISED, advert.context)

    def share(self, adverts: Sequence[Signed]) -> Shares:
        """Step 1, second half, and step 2: check all adverts of U1, deal shares of this site's two secrets to its neighbours.

        1. no other adverts were accepted in this attempt, and it is time; 2. ``check_adverts``; 3. this site's own advert is among
        them, byte for byte.

        Raises:
            ProtocolRefused: SECOND_COHORT, OUT_OF_ORDER, OWN_ADVERT_CHANGED or what ``check_adverts`` says.
        """
        # (1)
        if self._shares is not None:
            _same(self._adverts, tuple(adverts), Reason.SECOND_COHORT)
            return self._shares
        keys = self._due(Step.ADVERTISED)
        # (2)
        cohort = check_adverts(self._terms, self._context.digest(), adverts)
        # (3)
        if self._said[Step.ADVERTISED].message not in adverts:
            raise ProtocolRefused(Reason.OWN_ADVERT_CHANGED, "this site's own advert is missing or changed")
        boxes = keys.deal(cohort, self._entropy)
        commit = Commit(cohort.transcript, self._me, commitment(cohort.transcript, self._me, keys.seed), boxes_digest(boxes))
        self._adverts, self._cohort = tuple(adverts), cohort
        self._shares = Shares(self._signer.sign(commit.to_bytes()), boxes)
        self.step = Step.SHARED
        return self._shares

    def accept(self, delivery: Delivery) -> None:
        """Step 2, second half: check who shared (U2) and open the boxes for this site.

        1. no other delivery was accepted, and it is time; 2. ``check_commits``; 3. this site's own commit is among them, byte for
        byte; 4. one box from each neighbour in U2 and from nobody else; 5. all of them open and hold field elements.

        Raises:
            ProtocolRefused: SECOND_DELIVERY, OUT_OF_ORDER, OWN_COMMIT_CHANGED, SHARES_MISSING, BAD_SHARES or what ``check_commits``
                says.
        """
        # (1)
        if self._delivery is not None:
            _same(self._delivery, delivery, Reason.SECOND_DELIVERY)
            return
        keys, cohort = self._due(Step.SHARED), _there(self._cohort)
        # (2)
        sharing = check_commits(cohort, delivery.commits)
        # (3)
        if _there(self._shares).commit not in delivery.commits:
            raise ProtocolRefused(Reason.OWN_COMMIT_CHANGED, "this site's own commit is missing or changed")
        # (4)
        expected = sharing.commitments.keys() & set(cohort.graph[self._me])
        if sorted(box.peer for box in delivery.boxes) != sorted(expected):
            raise ProtocolRefused(Reason.SHARES_MISSING, "the boxes are not one from each neighbour that shared")
        # (5)
        keys.open(cohort, delivery.boxes)
        self._delivery, self._sharing = delivery, sharing
        self.step = Step.ACCEPTED

    def upload(self, words: RingWords, update: Digest) -> Upload:
        """Step 3: mask this site's ring words. The mark holds the upload's hash and that of the words before masking.

        1. for the first time, and it is time; 2. the words are a vector of uint32; 3. an earlier attempt of this round had the same
        words: another update would be another release.

        Args:
            words: uint32 [d], see fedmentor.secagg.ring.quantise; not changed.
            update: SHA-256 of their little-endian bytes, under which the outbox keeps them. It is not computed again here.

        Raises:
            ProtocolRefused: SECOND_UPLOAD, OUT_OF_ORDER or OTHER_UPDATE.
            UpdateRejected: not ring words.
        """
        # (1)
        if Step.UPLOADED in self._said:
            raise ProtocolRefused(Reason.SECOND_UPLOAD, "this site has uploaded in this attempt already")
        keys, sharing = self._due(Step.ACCEPTED), _there(self._sharing)
        # (2)
        if words.dtype != np.uint32 or words.ndim != 1 or words.size == 0:
            raise UpdateRejected("an update to mask is a vector of 32-bit ring words")
        # (3)
        earlier = self._memory.update
        if earlier is not None and earlier[0] == self._context.round and earlier[1] != update:
            raise ProtocolRefused(
                Reason.OTHER_UPDATE, "this site has sent another update in this round", cure="send the same bytes"
            )
        masked = MaskedWords(words.copy())
        apply_masks(masked.words, keys.masks(sharing))
        sha256 = words_sha256(masked.words)
        header = UploadHeader(sharing.cohort.transcript, self._me, words.size, sha256)
        answer = self._answer(Step.UPLOADED, header.to_bytes(), Mark.UPLOADED, sha256, update)
        return Upload(answer.message, masked, answer.persist)

    def consent(self, survivors: Sequence[int]) -> Answer:
        """Step 4: agree to the opening of one sum, once. The mark is the signed set.

        1. this site has signed no other set in this attempt, and it is time; 2. it is among the survivors; 3. ``check_survivors``.

        Raises:
            ProtocolRefused: SECOND_SURVIVOR_SET, OUT_OF_ORDER, LEFT_OUT or what ``check_survivors`` says.
        """
        # (1)
        if Step.CONSENTED in self._said:
            _same(self._survivors, tuple(survivors), Reason.SECOND_SURVIVOR_SET)
            return self._said[Step.CONSENTED]
        self._due(Step.UPLOADED)
        sharing = _there(self._sharing)
        # (2)
        if self._me not in survivors:
            raise ProtocolRefused(Reason.LEFT_OUT, "this site is not among the survivors that it is to agree to")
        # (3)
        check_survivors(sharing, survivors)
        self._survivors = tuple(survivors)
        consent = Consent(sharing.cohort.transcript, self._me, sharing.digest, self._survivors)
        return self._answer(Step.CONSENTED, consent.to_bytes(), Mark.CONSENTED, survivors_digest(sharing, self._survivors))

    def reveal(self, consents: Sequence[Signed]) -> Answer:
        """Step 5: reveal one share for each site around, then forget every secret. The mark closes the round for this site.

        1. this site has consented; 2. ``check_consents`` to the very set that it signed; 3. for each site either the share of its
        self seed or that of its mask key (``owed_shares``).

        Raises:
            ProtocolRefused: OUT_OF_ORDER or what ``check_consents`` says.
        """
        # (1)
        if Step.CONSENTED not in self._said:
            raise _out_of_order(Step.CONSENTED)
        sharing = _there(self._sharing)
        # (2)
        check_consents(sharing, self._survivors, consents)
        if Step.REVEALED in self._said:
            return self._said[Step.REVEALED]
        keys = self._due(Step.CONSENTED)
        # (3)
        owed = owed_shares(sharing, self._survivors, self._me)
        shares = tuple(RevealedShare(site, kind, keys.held[site][kind]) for site, kind in owed.items())
        reveal = Reveal(sharing.cohort.transcript, self._me, survivors_digest(sharing, self._survivors), shares).to_bytes()
        answer = self._answer(Step.REVEALED, reveal, Mark.REVEALED, hashlib.sha256(reveal).digest())
        self.forget()
        return answer

    def forget(self) -> None:
        """Drop every secret: after the reveal, or when the attempt is given up. Only repeats are answered after it."""
        self._keys = None
        self.step = Step.FORGOTTEN

    def __repr__(self) -> str:
        return f"SiteAttempt(site={self._me}, round={self._context.round}, attempt={self._context.attempt}, step={self.step.name})"

    def _due(self, step: Step) -> AttemptKeys:
        """The secrets, if the attempt stands at this step."""
        if self.step is not step or self._keys is None:
            raise _out_of_order(step)
        return self._keys

    def _answer(self, step: Step, body: bytes, mark: Mark, digest: bytes, update: Digest | None = None) -> Answer:
        here = self._context
        model = here.model if mark is Mark.REVEALED else None
        persist = Persist(mark, here.run, here.round, here.attempt, Digest(digest.hex()), update, model)
        answer = Answer(self._signer.sign(body), persist)
        self._memory = self._memory.after(answer.persist)
        self._said[step] = answer
        self.step = step
        return answer


def _there(value: _Value | None) -> _Value:
    """What an earlier step left; steps cannot be skipped, so it is there."""
    if value is None:
        raise AssertionError("an earlier step has not run")
    return value


def _same(earlier: object, now: object, reason: Reason) -> None:
    if earlier != now:
        raise ProtocolRefused(reason, f"this site has accepted or signed something else in this attempt ({reason.value})")


def _out_of_order(step: Step) -> ProtocolRefused:
    return ProtocolRefused(Reason.OUT_OF_ORDER, f"this step follows on {step.name.lower()}, which is not where this attempt stands")

"""The coordinator's side of secure aggregation: one class a phase, each made by closing the one before.

::

    Advertising -> Sharing -> Collecting -> Consenting -> Revealing -> Unmasking
        U1           U2          U3

``add`` takes one message or refuses it and stays as it was; the same message again changes nothing. ``close`` ends the phase: it
gives what goes to the sites and the next phase, or refuses because too few sites are left, and then the attempt is over: no closed
phase answers again, so nothing comes out of an aborted attempt. No phase draws randomness or keeps a secret before the reveals: a
coordinator that stores messages and closings before it acknowledges them restarts by adding them again in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmentor.ids import Digest
from fedmentor.secagg.checks import (
    Cohort,
    SharingSet,
    check_adverts,
    check_commits,
    check_consents,
    check_reveal,
    check_survivors,
    open_advert,
    open_commit,
    open_consent,
    open_upload,
)
from fedmentor.secagg.masks import Mask, MaskedWords, apply_masks, pair_mask, self_mask
from fedmentor.secagg.messages import Box, Delivery, Reveal, ShareKind, Shares, UploadHeader, boxes_digest
from fedmentor.secagg.rebuild import rebuild_verified
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.ring import RingWords
from fedmentor.secagg.sealing import commitment
from fedmentor.secagg.secret import Secret
from fedmentor.secagg.signing import Signed
from fedmentor.secagg.terms import Terms
from fedmentor.secagg.transcript import Context

_Message = TypeVar("_Message")


class _Phase(Generic[_Message]):
    """Messages by sender, and whether more are taken."""

    def __init__(self) -> None:
        self._messages: dict[int, _Message] = {}
        self._open = True

    @property
    def present(self) -> frozenset[int]:
        """Roster indexes of the sites whose message of this phase is here."""
        return frozenset(self._messages)

    def _keep(self, sender: int, message: _Message) -> None:
        self._check_open()
        if self._messages.setdefault(sender, message) != message:
            raise ProtocolRefused(Reason.REPEATED_SITE, f"site {sender} has already said something else in this step")

    def _check_open(self) -> None:
        if not self._open:
            raise ProtocolRefused(Reason.OUT_OF_ORDER, "this step of the attempt is over", cure="wait for the next attempt")

    def _end(self) -> list[_Message]:
        self._check_open()
        self._open = False
        return [self._messages[sender] for sender in sorted(self._messages)]


class Advertising(_Phase[Signed]):
    """Step 1: adverts make U1.

    Args:
        terms: the run's.
        context: the attempt's.
        words: ring words of an upload: parameters + 1.
    """

    def __init__(self, terms: Terms, context: Context, words: int) -> None:
        super().__init__()
        self._terms = terms
        self._context = context.digest()
        self._words = words
        self._keys: dict[int, set[bytes]] = {}

    def add(self, signed: Signed) -> int:
        """Take an advert; the sender's roster index.

        Raises:
            ProtocolRefused: what ``open_advert`` says, REPEATED_KEY, REPEATED_SITE or OUT_OF_ORDER.
        """
        advert = open_advert(self._terms, self._context, signed)
        keys = {advert.share_key, advert.mask_key}
        if any(keys & theirs for sender, theirs in self._keys.items() if sender != advert.sender):
            # Here and not when the step is closed: two sites that agree on a key would take everybody's attempt along.
            raise ProtocolRefused(Reason.REPEATED_KEY, f"site {advert.sender} advertises a key of another site")
        self._keep(advert.sender, signed)
        self._keys[advert.sender] = keys
        return advert.sender

    def close(self) -> tuple[tuple[Signed, ...], Sharing]:
        """U1's adverts, for all of U1.

        Raises:
            ProtocolRefused: what ``check_adverts`` says; the attempt is over.
        """
        adverts = tuple(self._end())
        return adverts, Sharing(check_adverts(self._terms, self._context, adverts), self._words)


class Sharing(_Phase[Shares]):
    """Step 2: commits and sealed shares make U2."""

    def __init__(self, cohort: Cohort, words: int) -> None:
        super().__init__()
        self._cohort = cohort
        self._words = words

    def add(self, shares: Shares) -> int:
        """Take a site's commit and boxes; the sender's roster index.

        Raises:
            ProtocolRefused: what ``open_commit`` says, SHARES_MISSING, BAD_SHARES, REPEATED_SITE or OUT_OF_ORDER.
        """
        commit = open_commit(self._cohort, shares.commit)
        if tuple(box.peer for box in shares.boxes) != tuple(self._cohort.graph[commit.sender]):
            raise ProtocolRefused(Reason.SHARES_MISSING, f"site {commit.sender} does not send one box for each of its neighbours")
        if boxes_digest(shares.boxes) != commit.boxes:
            raise ProtocolRefused(Reason.BAD_SHARES, f"the boxes of site {commit.sender} are not those that it signed")
        self._keep(commit.sender, shares)
        return commit.sender

    def close(self) -> tuple[dict[int, Delivery], Collecting]:
        """What goes to each site of U2.

        Raises:
            ProtocolRefused: what ``check_commits`` says; the attempt is over.
        """
        commits = tuple(shares.commit for shares in self._end())
        sharing = check_commits(self._cohort, commits)
        inbox: dict[int, list[Box]] = {index: [] for index in sharing.commitments}
        for sender in sharing.commitments:
            for box in self._messages[sender].boxes:
                if box.peer in inbox:
                    inbox[box.peer].append(Box(sender, box.ciphertext))
        return {index: Delivery(commits, tuple(boxes)) for index, boxes in inbox.items()}, Collecting(sharing, self._words)


class Collecting(_Phase[UploadHeader]):
    """Step 3: masked uploads make U3. The words themselves lie with the caller."""

    def __init__(self, sharing: SharingSet, words: int) -> None:
        super().__init__()
        self._sharing = sharing
        self._words = words

    def add(self, header: Signed, found: Digest) -> int:
        """Take an upload; the sender's roster index.

        Args:
            header: as the site signed it.
            found: SHA-256 of the little-endian words that arrived, computed by the caller.

        Raises:
            ProtocolRefused: what ``open_upload`` says, WRONG_UPLOAD (size or digest), REPEATED_SITE or OUT_OF_ORDER.
        """
        upload = open_upload(self._sharing, header)
        if upload.words != self._words or upload.sha256.hex() != found:
            raise ProtocolRefused(Reason.WRONG_UPLOAD, f"the upload of site {upload.sender} is not what its header says")
        self._keep(upload.sender, upload)
        return upload.sender

    def close(self) -> tuple[tuple[int, ...], Consenting]:
        """U3, for all of U3.

        Raises:
            ProtocolRefused: what ``check_survivors`` says; the attempt is over.
        """
        survivors = tuple(upload.sender for upload in self._end())
        check_survivors(self._sharing, survivors)
        return survivors, Consenting(self._sharing, survivors)


class Consenting(_Phase[Signed]):
    """Step 4: survivors consent to U3."""

    def __init__(self, sharing: SharingSet, survivors: tuple[int, ...]) -> None:
        super().__init__()
        self._sharing = sharing
        self._survivors = survivors

    def add(self, signed: Signed) -> int:
        """Take a consent; the sender's roster index.

        Raises:
            ProtocolRefused: what ``open_consent`` says, REPEATED_SITE or OUT_OF_ORDER.
        """
        consent = open_consent(self._sharing, self._survivors, signed)
        self._keep(consent.sender, signed)
        return consent.sender

    def close(self) -> tuple[tuple[Signed, ...], Revealing]:
        """All consents, for all who consented.

        Raises:
            ProtocolRefused: what ``check_consents`` says; the attempt is over.
        """
        consents = tuple(self._end())
        check_consents(self._sharing, self._survivors, consents)
        return consents, Revealing(self._sharing, self._survivors)


class Revealing(_Phase[Reveal]):
    """Step 5: shares open the sum."""

    def __init__(self, sharing: SharingSet, survivors: tuple[int, ...]) -> None:
        super().__init__()
        self._sharing = sharing
        self._survivors = survivors

    def add(self, signed: Signed) -> int:
        """Take a reveal; the sender's roster index.

        Raises:
            ProtocolRefused: what ``check_reveal`` says, REPEATED_SITE or OUT_OF_ORDER.
        """
        reveal = check_reveal(self._sharing, self._survivors, signed)
        self._keep(reveal.sender, reveal)
        return reveal.sender

    def close(self) -> Unmasking:
        """Rebuild and verify every secret that the sum needs.

        Raises:
            ProtocolRefused: UNRECOVERABLE; a secret has too few sound shares. The attempt is over.
        """
        shares: dict[int, dict[int, bytes]] = {site: {} for site in self._sharing.commitments}
        for reveal in self._end():
            for one in reveal.shares:
                shares[one.site][reveal.sender] = one.share
        removals: list[Mask] = []
        liars: set[int] = set()
        for site, held in shares.items():
            secret = self._rebuild(site, held, liars)
            removals += [mask.removal for mask in self._masks_of(site, secret)]
        return Unmasking(self._survivors, tuple(removals), tuple(sorted(liars)))

    def _rebuild(self, site: int, held: Mapping[int, bytes], liars: set[int]) -> Secret:
        sharing, cohort = self._sharing, self._sharing.cohort
        kind = ShareKind.SELF_SEED if site in self._survivors else ShareKind.MASK_KEY

        def is_the_secret(candidate: Secret) -> bool:
            if kind is ShareKind.SELF_SEED:
                return commitment(cohort.transcript, site, candidate) == sharing.commitments[site]
            return _private(candidate).public_key().public_bytes_raw() == cohort.adverts[site].mask_key

        rebuilt = rebuild_verified(held, cohort.threshold, is_the_secret, liars)
        if rebuilt is None:
            raise ProtocolRefused(
                Reason.UNRECOVERABLE,
                f"no {cohort.threshold} of {len(held)} shares rebuild the secret of site {site}",
                cure="start another attempt; if it happens again, leave this site out",
            )
        liars.update(rebuilt.liars)
        return rebuilt.secret

    def _masks_of(self, site: int, secret: Secret) -> list[Mask]:
        """What is left of a site's masks in the sum: a survivor's self mask, or the other halves of a dropped site's pair masks."""
        cohort = self._sharing.cohort
        if site in self._survivors:
            return [self_mask(secret, cohort.transcript)]
        key = _private(secret)
        partners = [other for other in cohort.graph[site] if other in self._survivors]
        # The survivor's half is the negative of the dropped site's.
        return [pair_mask(key, cohort.adverts[other].mask_key, cohort.transcript, site, other).removal for other in partners]


@dataclass(frozen=True)
class Unmasking:
    """What turns the sum of the survivors' uploads into the sum of their updates.

    Attributes:
        survivors: whose uploads, all of them and no others, the caller has to sum.
        removals: masks to apply to that sum.
        liars: sites that revealed a share which does not fit; named as far as it came out.
    """

    survivors: tuple[int, ...]
    removals: tuple[Mask, ...] = field(repr=False)
    liars: tuple[int, ...]

    def remove(self, total: MaskedWords, *, start: int = 0) -> RingWords:
        """Unmask a sum, or one block of it, in place.

        Args:
            total: ring sum of the uploads of exactly the survivors; its words are changed.
            start: where in the whole vector the block begins, a multiple of fedmentor.secagg.masks.BLOCK_WORDS.

        Returns:
            The same words, clear: the ring sum of the survivors' updates.
        """
        apply_masks(total.words, self.removals, start=start)
        return total.words


def _private(secret: Secret) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(secret.reveal())

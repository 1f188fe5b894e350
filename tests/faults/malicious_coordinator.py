"""A malicious coordinator with a colluding site, and an attempt of secure aggregation that it may bend; for the attacks beside it.

Site 0 is the victim, site 4 of five works for the coordinator, which sees and may bend every message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmentor.ids import Digest
from fedmentor.secagg.aggregator import Revealing, Sharing
from fedmentor.secagg.checks import check_adverts, check_commits
from fedmentor.secagg.masks import MaskedWords, words_sha256
from fedmentor.secagg.memory import SiteMemory
from fedmentor.secagg.messages import Delivery, advert_from_bytes, consent_from_bytes
from fedmentor.secagg.refusal import Reason
from fedmentor.secagg.signing import Signer
from fedmentor.secagg.site import Pinned, SiteAttempt, open_attempt
from fedmentor.testing.secagg import MANIFEST, MODEL, RUN, Enrolled, enrol, random_updates, seeded_entropy

SITES = 5
VICTIM, EVIL = 0, 4
FORGER = Signer(VICTIM, Ed25519PrivateKey.from_private_bytes(b"f" * 32))
"""Signs as the victim, with a key that is not the victim's."""

OTHER = Digest("ee" * 32)
"""Of something else than what was agreed."""


class Play:
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
        """Of all sites."""
        return [site.advertise().message for site in self.sites]

    @cached_property
    def shares(self):
        """Of all sites that are not silent."""
        return {i: self.sites[i].share(self.adverts) for i in range(SITES) if i not in self.silent}

    @cached_property
    def cohort(self):
        """What the adverts, checked, come to."""
        return check_adverts(self.enrolled.terms, self.context.digest(), self.adverts)

    @cached_property
    def deliveries(self):
        """What an honest coordinator delivers to each site that shared."""
        sharing = Sharing(self.cohort, 0)
        for shares in self.shares.values():
            sharing.add(shares)
        return sharing.close()[0]

    @cached_property
    def sharing(self):
        """What the commits, checked, come to."""
        return check_commits(self.cohort, self.deliveries[VICTIM].commits)

    @cached_property
    def uploads(self):
        """Masked updates of all sites that shared."""
        for i, delivery in self.deliveries.items():
            self.sites[i].accept(delivery)
        return {i: self.upload(i) for i in self.deliveries}

    @cached_property
    def consents(self):
        """Of all sites, to everybody who uploaded."""
        survivors = tuple(self.uploads)
        return [self.sites[i].consent(survivors).message for i in survivors]

    def upload(self, index, words=None):
        """One site's masked update: its own, or another."""
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
        """All adverts, one of them exchanged."""
        return [*self.adverts[:index], advert, *self.adverts[index + 1 :]]

    def delivery(self, *, commits=None, boxes=None):
        """The victim's delivery, with other commits or boxes."""
        honest = self.deliveries[VICTIM]
        return Delivery(tuple(honest.commits if commits is None else commits), tuple(honest.boxes if boxes is None else boxes))

    def consent_of_evil(self, **changes):
        """A consent of the colluding site, well signed."""
        return self.evil_key.sign(replace(consent_from_bytes(self.consents[EVIL].body), **changes).to_bytes())


def memory_of(*answers):
    """What a site remembers that gave these answers."""
    memory = SiteMemory(RUN)
    for answer in answers:
        memory = memory.after(answer.persist)
    return memory


def open_site(enrolled, context, memory=None, **pinned):
    """Let the victim open an attempt; it insists on what it has pinned."""
    known = {"run": RUN, "manifest": MANIFEST, "terms": enrolled.terms, "model": MODEL} | pinned
    return open_attempt(Pinned(**known), enrolled.signers[VICTIM], context, memory or SiteMemory(RUN), seeded_entropy(b"open"))


class Attacks(dict[str, tuple[Reason, Callable[[Play], object]]]):
    """Attacks on one step, by name: the reason of the refusal that each has to end in, and what is done to the victim."""

    def add(self, name, reason):
        """Register an attack."""

        def register(carry_out):
            assert name not in self
            self[name] = (reason, carry_out)
            return carry_out

        return register

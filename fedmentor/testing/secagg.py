"""A federation that aggregates securely in one process: real sites, a real coordinator's side, and a wire that a test may bend.

Everything follows from a seed, so a failing case can be run again. Every message crosses the wire in its encoded form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.secagg.aggregator import Advertising, Collecting, Consenting, Revealing, Sharing
from fedmentor.secagg.masks import MaskedWords, words_sha256
from fedmentor.secagg.memory import Persist, SiteMemory
from fedmentor.secagg.messages import bundle_bytes, bundle_from_bytes, delivery_from_bytes, shares_from_bytes
from fedmentor.secagg.refusal import ProtocolRefused
from fedmentor.secagg.ring import RingWords, add_in_place
from fedmentor.secagg.secret import Entropy
from fedmentor.secagg.signing import Signer, signed_from_bytes
from fedmentor.secagg.site import Pinned, SiteAttempt, open_attempt
from fedmentor.secagg.terms import Member, Roster, Terms, usual_terms
from fedmentor.secagg.transcript import Context

RUN = RunId("run")
MANIFEST = Digest("a1" * 32)
MODEL = Digest("b2" * 32)
AUDIT_ROOT = Digest("c3" * 32)


class Phase(IntEnum):
    """Where a site may be lost: it does not send what this phase asks of it, nor anything after."""

    ADVERTISE = 0
    SHARE = 1
    UPLOAD = 2
    CONSENT = 3
    REVEAL = 4


@dataclass(frozen=True)
class Leg:
    """One message on its way: of which phase, whose, and whether it goes up to the coordinator. ``words``: an upload itself."""

    phase: Phase
    site: int
    up: bool
    words: bool = False


Wire = Callable[[Leg, bytes], bytes]


def sound_wire(_leg: Leg, data: bytes) -> bytes:
    """A wire that brings what was sent."""
    return data


def seeded_entropy(*seed: bytes) -> Entropy:
    """Reproducible bytes for tests: SHAKE-256 over the seed and a counter. Never for production."""
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(b"\0".join(seed) + calls.to_bytes(8, "little")).digest(size)

    return draw


@dataclass(frozen=True)
class Enrolled:
    """The terms of a made-up federation and its sites' signing keys, by roster index."""

    terms: Terms
    signers: tuple[Signer, ...]

    def context(self, *, round_number: int = 0, attempt: int = 1) -> Context:
        """The context of an attempt of RUN."""
        return Context(RUN, Round(round_number), Attempt(attempt), MANIFEST, MODEL, AUDIT_ROOT, self.terms.digest)

    def site(
        self, index: int, context: Context, *, memory: SiteMemory | None = None, seed: bytes = b"", model: Digest = MODEL
    ) -> SiteAttempt:
        """An honest site in an attempt.

        Raises:
            ProtocolRefused: see fedmentor.secagg.site.open_attempt.
        """
        entropy = seeded_entropy(b"site", seed, context.digest(), index.to_bytes(2, "little"))
        pinned = Pinned(RUN, MANIFEST, self.terms, model)
        return open_attempt(pinned, self.signers[index], context, memory or SiteMemory(RUN), entropy)


def enrol(sites: int, *, seed: bytes = b"", degree: int | None = None) -> Enrolled:
    """Make a federation of so many sites.

    Raises:
        ProtocolRefused: see fedmentor.secagg.terms.
    """
    entropy = seeded_entropy(b"enrol", seed)
    signers = tuple(Signer(index, Ed25519PrivateKey.from_private_bytes(entropy(32))) for index in range(sites))
    members = tuple(Member(signer.index, SiteId(f"site-{signer.index}"), signer.public_key) for signer in signers)
    return Enrolled(usual_terms(Roster(members), degree=degree), signers)


@dataclass
class RoundResult:
    """How an attempt went.

    Attributes:
        survivors: U3; empty if the attempt did not get there.
        total: ring sum of the survivors' updates; None if the attempt was aborted.
        aborted: why it was.
        refused: what a site refused, or what was refused of it, by roster index.
        persists: marks of each site, in order.
        liars: sites whose revealed shares were found wrong.
    """

    survivors: tuple[int, ...] = ()
    total: RingWords | None = None
    aborted: ProtocolRefused | None = None
    refused: dict[int, ProtocolRefused] = field(default_factory=dict)
    persists: dict[int, list[Persist]] = field(default_factory=dict)
    liars: tuple[int, ...] = ()


class InProcessRound:
    """Runs one attempt with honest sites; a site that refuses, or of which something is refused, is lost.

    Args:
        enrolled: the federation.
        updates: uint32 [d] of each site that takes part, by roster index.
        leaving: in which phase a site is lost, by roster index.
        wire: what every message passes through.
        sites: sites that were opened elsewhere, by roster index; by default honest ones of the first attempt of round 0.
    """

    def __init__(
        self,
        enrolled: Enrolled,
        updates: Mapping[int, RingWords],
        *,
        leaving: Mapping[int, Phase] | None = None,
        wire: Wire = sound_wire,
        sites: Mapping[int, SiteAttempt] | None = None,
    ) -> None:
        self._context = enrolled.context()
        self._terms = enrolled.terms
        self._updates = updates
        self._leaving = leaving or {}
        self._wire = wire
        self.sites = dict(sites or {index: enrolled.site(index, self._context) for index in updates})
        self.result = RoundResult()

    def run(self) -> RoundResult:
        """Go through all phases; an abort is a result, not an exception."""
        try:
            self._run()
        except ProtocolRefused as error:
            self.result.aborted = error
        return self.result

    def _run(self) -> None:
        size = next(iter(self._updates.values())).size
        sharing = self._advertise(Advertising(self._terms, self._context, size))
        collecting = self._share(sharing)
        uploads, consenting = self._upload(collecting)
        revealing = self._consent(consenting)
        self._reveal(revealing)
        unmasking = revealing.close()
        total = np.zeros(size, np.uint32)
        for index in unmasking.survivors:
            add_in_place(total, uploads[index])
        self.result.total, self.result.liars = unmasking.remove(MaskedWords(total)), unmasking.liars

    def _advertise(self, phase: Advertising) -> Sharing:
        def step(index: int) -> None:
            answer = self.sites[index].advertise()
            self._keep(index, answer.persist)
            phase.add(signed_from_bytes(self._up(Phase.ADVERTISE, index, answer.message.to_bytes())))

        self._each(Phase.ADVERTISE, step)
        adverts, following = phase.close()
        self._broadcast = bundle_bytes(adverts)
        return following

    def _share(self, phase: Sharing) -> Collecting:
        def step(index: int) -> None:
            adverts = bundle_from_bytes(self._down(Phase.SHARE, index, self._broadcast))
            shares = self.sites[index].share(adverts)
            phase.add(shares_from_bytes(self._up(Phase.SHARE, index, shares.to_bytes())))

        self._each(Phase.SHARE, step)
        deliveries, following = phase.close()
        self._inbox = {index: delivery.to_bytes() for index, delivery in deliveries.items()}
        return following

    def _upload(self, phase: Collecting) -> tuple[dict[int, RingWords], Consenting]:
        uploads: dict[int, RingWords] = {}

        def step(index: int) -> None:
            self.sites[index].accept(delivery_from_bytes(self._down(Phase.UPLOAD, index, self._inbox[index])))
            update = Digest(words_sha256(self._updates[index]).hex())
            upload = self.sites[index].upload(self._updates[index], update)
            self._keep(index, upload.persist)
            words = self._wire(Leg(Phase.UPLOAD, index, up=True, words=True), upload.masked.to_bytes())
            header = signed_from_bytes(self._up(Phase.UPLOAD, index, upload.header.to_bytes()))
            phase.add(header, Digest(hashlib.sha256(words).hexdigest()))
            uploads[index] = np.frombuffer(words, "<u4").astype(np.uint32)

        self._each(Phase.UPLOAD, step)
        self.result.survivors, following = phase.close()
        return uploads, following

    def _consent(self, phase: Consenting) -> Revealing:
        survivors = np.array(self.result.survivors, "<u2").tobytes()

        def step(index: int) -> None:
            told = np.frombuffer(self._down(Phase.CONSENT, index, survivors), "<u2").tolist()
            answer = self.sites[index].consent(told)
            self._keep(index, answer.persist)
            phase.add(signed_from_bytes(self._up(Phase.CONSENT, index, answer.message.to_bytes())))

        self._each(Phase.CONSENT, step)
        consents, following = phase.close()
        self._broadcast = bundle_bytes(consents)
        return following

    def _reveal(self, phase: Revealing) -> None:
        def step(index: int) -> None:
            answer = self.sites[index].reveal(bundle_from_bytes(self._down(Phase.REVEAL, index, self._broadcast)))
            self._keep(index, answer.persist)
            phase.add(signed_from_bytes(self._up(Phase.REVEAL, index, answer.message.to_bytes())))

        self._each(Phase.REVEAL, step)

    def _each(self, phase: Phase, step: Callable[[int], None]) -> None:
        for index in sorted(self.sites):
            if self._leaving.get(index) is phase:
                del self.sites[index]
                continue
            try:
                step(index)
            except ProtocolRefused as error:
                self.result.refused[index] = error
                del self.sites[index]

    def _up(self, phase: Phase, site: int, data: bytes) -> bytes:
        return self._wire(Leg(phase, site, up=True), data)

    def _down(self, phase: Phase, site: int, data: bytes) -> bytes:
        return self._wire(Leg(phase, site, up=False), data)

    def _keep(self, index: int, persist: Persist) -> None:
        self.result.persists.setdefault(index, []).append(persist)


def random_updates(sites: int, size: int, seed: int = 0) -> dict[int, RingWords]:
    """Ring words over their whole range, by roster index: harsher than real updates, of which only the sum must not wrap."""
    generator = np.random.default_rng(seed)
    return {index: generator.integers(0, 2**32, size, np.uint32) for index in range(sites)}


def plain_sum(updates: Mapping[int, RingWords], survivors: tuple[int, ...]) -> list[int]:
    """The sum that must come out, with Python's integers, modulo 2**32."""
    return [sum(int(updates[index][place]) for index in survivors) % 2**32 for place in range(updates[survivors[0]].size)]

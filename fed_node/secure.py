"""This site's part in secure aggregation: from the coordinator's steps to fedmentor.secagg.site and back, with its marks on disk.

Masks and keys live in memory alone. A node that restarts in the middle of an attempt sits it out, and so does one that joins late:
the protocol counts it as a lost site. The outbox keeps the update as it is before masking; every attempt masks it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fed_node.marks import Marks
from fed_node.outbox import OutboxEntry
from fedmentor.errors import PolicyRefusal, RoundClosed
from fedmentor.federation import RoundRef, RunManifest, SecureStep, StepAnswer, StepName, UpdateHeader
from fedmentor.ids import Digest, SiteId
from fedmentor.secagg.messages import bundle_from_bytes, delivery_from_bytes
from fedmentor.secagg.reading import indexes_from_bytes
from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.secret import Entropy
from fedmentor.secagg.signing import Signer
from fedmentor.secagg.site import Pinned, SiteAttempt, Upload, open_attempt
from fedmentor.secagg.transcript import HASH_BYTES, Context

SITS_OUT = frozenset(
    {
        # This node was restarted in the attempt, missed a step of it, or has done its part in the round.
        Reason.STALE_ATTEMPT,
        Reason.ROUND_REVEALED,
        Reason.OUT_OF_ORDER,
        # Another site is broken or malicious.
        Reason.BAD_KEY,
        Reason.REPEATED_KEY,
        Reason.BAD_SHARES,
        Reason.SHARES_MISSING,
    }
)
"""Refusals after which the site sits the attempt out and stays; every other one says that the coordinator cannot be trusted."""


@dataclass(frozen=True)
class SecurePorts:
    """Through what a site's part in secure aggregation touches the world.

    Attributes:
        signing_key: the site's long-term key; its public half stands on the registrar's roster.
        roster_keys: every site's public key from the roster that the registrar signed; read anew whenever a run is joined.
        marks: what must not be forgotten.
        entropy: ``secrets.token_bytes``, or a seeded stream in tests.
    """

    signing_key: Ed25519PrivateKey = field(repr=False)
    roster_keys: Callable[[], dict[SiteId, bytes]]
    marks: Marks
    entropy: Entropy


def check_signing_keys(manifest: RunManifest, keys: dict[SiteId, bytes]) -> None:
    """Compare a manifest's signing keys with those on the registrar's signed roster.

    Without this a coordinator could write keys of its own into the manifest and play every other site.

    Raises:
        PolicyRefusal: a site is not on the roster, or its key is another one.
    """
    for member in (member for group in manifest.groups for member in group.terms.roster.members):
        if keys.get(member.site) != member.signing_key:
            raise PolicyRefusal(
                f"the run names another signing key for site {member.site} than the registrar's roster",
                cure="get the newest roster from the registrar; if the keys still differ, ask who wrote the run's manifest",
            )


class SecureSite:
    """One site in the secure aggregation of one run.

    Args:
        site: this site.
        manifest: the run's, pinned.
        ports: the world.

    Raises:
        PolicyRefusal: the manifest's keys are not those of the signed roster, or this site's own is not.
    """

    def __init__(self, site: SiteId, manifest: RunManifest, ports: SecurePorts) -> None:
        check_signing_keys(manifest, ports.roster_keys())
        self._manifest = manifest
        self._terms = manifest.group_of(site).terms
        self._ports = ports
        self._signer = Signer(self._terms.roster.index_of(site), ports.signing_key)
        self._attempt: tuple[RoundRef, SiteAttempt] | None = None
        self._upload: Upload | None = None

    def answer(self, step: SecureStep) -> StepAnswer:
        """What this site says in a step; the same again if it is asked again.

        What binds the site is on its disk before this returns. The caller has fetched the model of an ADVERTISE step and
        computed its digest itself.

        Raises:
            RoundClosed: this site has no part in the attempt, or not any more.
            ProtocolRefused: a check of the protocol does not hold.
            BrokenStore: a mark could not be kept; nothing may be sent.
        """
        with _sitting_out():
            return StepAnswer(step.round, step.step, self._answered(step))

    def accept(self, ref: RoundRef, delivery: bytes) -> None:
        """Take the other sites' shares; the same again changes nothing. Raises what ``answer`` raises."""
        with _sitting_out():
            self._open(ref).accept(delivery_from_bytes(delivery))

    def mask(self, entry: OutboxEntry) -> tuple[UpdateHeader, bytes]:
        """An update as it leaves the site: masked, under a signed header; the same bytes again if it is asked again.

        Raises:
            RoundClosed, ProtocolRefused, BrokenStore: see ``answer``.
        """
        with _sitting_out():
            attempt = self._open(entry.header.round)
            if self._upload is None:
                words = np.frombuffer(entry.words, "<u4").astype(np.uint32, copy=False)
                self._upload = attempt.upload(words, entry.header.sha256)
        upload = self._upload
        self._ports.marks.keep(upload.persist)
        header = replace(entry.header, sha256=upload.persist.digest, masked=upload.header.to_bytes())
        return header, upload.masked.words.astype("<u4", copy=False).tobytes()

    def delivered(self) -> None:
        """The receipt is here: the masked words need not be kept any longer."""
        self._upload = None

    def _answered(self, step: SecureStep) -> bytes:
        match step.step:
            case StepName.ADVERTISE:
                answer = self._opened(step).advertise()
            case StepName.SHARE:
                return self._open(step.round).share(bundle_from_bytes(step.message)).to_bytes()
            case StepName.CONSENT:
                answer = self._open(step.round).consent(indexes_from_bytes(step.message))
            case StepName.REVEAL:
                answer = self._open(step.round).reveal(bundle_from_bytes(step.message))
            case StepName.UPLOAD:
                raise PolicyRefusal("an upload is asked for with the order to train")
        self._ports.marks.keep(answer.persist)
        return answer.message.to_bytes()

    def _opened(self, step: SecureStep) -> SiteAttempt:
        if self._attempt is not None and self._attempt[0] == step.round:
            return self._attempt[1]
        if len(step.message) != HASH_BYTES:
            raise ProtocolRefused(Reason.MALFORMED, "an attempt is announced without its audit root")
        manifest, ref = self._manifest, step.round
        pinned = Pinned(manifest.run, manifest.digest, self._terms, step.model.digest)
        root = Digest(step.message.hex())
        context = Context(ref.run, ref.round, ref.attempt, manifest.digest, step.model.digest, root, self._terms.digest)
        memory = self._ports.marks.memory(manifest.run)
        attempt = open_attempt(pinned, self._signer, context, memory, self._ports.entropy)
        if self._attempt is not None:
            self._attempt[1].forget()
        self._attempt, self._upload = (ref, attempt), None
        return attempt

    def _open(self, ref: RoundRef) -> SiteAttempt:
        if self._attempt is None or self._attempt[0] != ref:
            raise RoundClosed("this site has no part in this attempt: it joined late, or was restarted in the middle of it")
        return self._attempt[1]


@contextmanager
def _sitting_out() -> Iterator[None]:
    """Turn refusals of SITS_OUT into RoundClosed."""
    try:
        yield
    except ProtocolRefused as error:
        if error.reason in SITS_OUT:
            raise RoundClosed(f"this site sits the attempt out: {error.message}") from error
        raise

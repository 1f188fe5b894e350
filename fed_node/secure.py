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


def check_signing_keys(manifest: RunManifest, keys: dict[SiteId, bytes], *, approved: bool = False) -> None:
    """Compare a manifest's signing keys with those on the registrar's signed roster.

    Without this a coordinator could write keys of its own into the manifest and play every other site, or run this site with a few
    others that it controls: thresholds count whom the manifest names.

    Args:
        approved: the registrar signed the manifest, and may have left members out of it.

    Raises:
        PolicyRefusal: a site is not on the roster, its key is another one, or members are left out without the registrar's word.
    """
    left_out = keys.keys() - set(manifest.roster)
    if left_out and not approved:
        raise PolicyRefusal(
            f"the run leaves out {len(left_out)} members of the federation, and the registrar did not approve that",
            cure="have the registrar sign the manifest (`fedmentor federation approve`)",
        )
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
        approved: the registrar signed the manifest.

    Raises:
        PolicyRefusal: see check_signing_keys.
    """

    def __init__(self, site: SiteId, manifest: RunManifest, ports: SecurePorts, *, approved: bool = False) -> None:
        self._approved = approved
        self._manifest = manifest
        self._ports = ports
        self.check_keys()
        self._terms = manifest.group_of(site).terms
        self._signer = Signer(self._terms.roster.index_of(site), ports.signing_key)
        self._attempt: tuple[RoundRef, SiteAttempt] | None = None
        self._upload: Upload | None = None

    def check_keys(self) -> None:
        """Compare the manifest with the roster that is in force now; see check_signing_keys."""
        check_signing_keys(self._manifest, self._ports.roster_keys(), approved=self._approved)

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

    def accept(self, ref: RoundRef, delivery: bytes, model: Digest) -> None:
        """Take the other sites' shares; the same again changes nothing.

        Args:
            model: that this site is told to train from.

        Raises:
            RoundClosed, ProtocolRefused, BrokenStore: see ``answer``.
        """
        with _sitting_out():
            self._open(ref, model).accept(delivery_from_bytes(delivery))

    def mask(self, entry: OutboxEntry) -> tuple[UpdateHeader, bytes]:
        """An update as it leaves the site: masked, under a signed header; the same bytes again if it is asked again.

        Raises:
            RoundClosed, ProtocolRefused, BrokenStore: see ``answer``.
        """
        with _sitting_out():
            attempt = self._open(entry.header.round, entry.header.base_model)
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
                return self._open(step.round, step.model.digest).share(bundle_from_bytes(step.message)).to_bytes()
            case StepName.CONSENT:
                answer = self._open(step.round, step.model.digest).consent(indexes_from_bytes(step.message))
            case StepName.REVEAL:
                answer = self._open(step.round, step.model.digest).reveal(bundle_from_bytes(step.message))
            case StepName.UPLOAD:
                raise PolicyRefusal("an upload is asked for with the order to train")
        self._ports.marks.keep(answer.persist)
        return answer.message.to_bytes()

    def _opened(self, step: SecureStep) -> SiteAttempt:
        if self._attempt is not None and self._attempt[0] == step.round:
            return self._open(step.round, step.model.digest)
        if len(step.message) != HASH_BYTES:
            raise ProtocolRefused(Reason.MALFORMED, "an attempt is announced without its audit root")
        manifest, ref = self._manifest, step.round
        pinned = Pinned(manifest.run, manifest.digest, self._terms, step.model.digest)
        root = Digest(step.message.hex())
        context = Context(ref.run, ref.round, ref.attempt, manifest.digest, step.model.digest, root, self._terms.digest)
        self._check_same_start(step.model.digest)
        memory = self._ports.marks.memory(manifest.run)
        attempt = open_attempt(pinned, self._signer, context, memory, self._ports.entropy)
        if self._attempt is not None:
            self._attempt[1].forget()
        self._attempt, self._upload = (ref, attempt), None
        return attempt

    def _check_same_start(self, model: Digest) -> None:
        """Refuse to help with one sum too many over updates from one model.

        Training is repeatable, so two such sums over different survivors may differ by exactly one site's update. Void rounds make
        a few of them in a run; another run from the same model is the registrar's to allow.

        Raises:
            PolicyRefusal: it would be one too many.
        """
        runs = self._ports.marks.reveals_from(model)
        others = set(runs) - {self._manifest.run}
        if others and not self._approved:
            raise PolicyRefusal(
                f"this site has helped to open a sum from this very model in run {min(others)!r}",
                cure="start the new run from another model, or have the registrar approve its manifest",
            )
        if runs.count(self._manifest.run) >= self._manifest.max_attempts:
            raise PolicyRefusal(
                f"this site has helped to open {len(runs)} sums from this very model, the run allows {self._manifest.max_attempts}",
                cure="ask the coordinator's operator why its rounds come to nothing",
            )

    def _open(self, ref: RoundRef, model: Digest) -> SiteAttempt:
        """The attempt, if this site is in it and it is about this model.

        What a site's keys are bound to must be what it trains from: a coordinator that announces one model to all and lets the
        others train from one whose gradients vanish would find a single update in the sum (Pasquini et al., CCS 2022).
        """
        if self._attempt is None or self._attempt[0] != ref:
            raise RoundClosed("this site has no part in this attempt: it joined late, or was restarted in the middle of it")
        attempt = self._attempt[1]
        if model != attempt.model:
            raise ProtocolRefused(
                Reason.OTHER_MODEL, "the coordinator names another model than the one that it announced the attempt with"
            )
        return attempt


@contextmanager
def _sitting_out() -> Iterator[None]:
    """Turn refusals of SITS_OUT into RoundClosed."""
    try:
        yield
    except ProtocolRefused as error:
        if error.reason in SITS_OUT:
            raise RoundClosed(f"this site sits the attempt out: {error.message}") from error
        raise

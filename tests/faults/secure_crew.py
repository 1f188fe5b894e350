"""Sites of a secure run by hand: what each would honestly say next, so that a test can say something else."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.testing import ToyFederation, toy_words
from fed_node.marks import MemoryMarks
from fed_node.outbox import OutboxEntry, UpdateStage
from fed_node.secure import SecurePorts, SecureSite
from fedmentor.federation import SecureStep, StepAnswer, StepName, Train, UpdateHeader
from fedmentor.ids import SiteId
from fedmentor.secagg.plan import plan_secure
from fedmentor.testing.secagg import seeded_entropy

NAMES = tuple(SiteId(name) for name in "abcd")
KEYS = {name: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()) for name in NAMES}
PUBLIC = {name: key.public_key().public_bytes_raw() for name, key in KEYS.items()}

Said = StepAnswer | tuple[UpdateHeader, bytes]


class SecureCrew:
    """A secure toy federation whose sites answer when they are told to.

    Attributes:
        federation: the coordinator.
    """

    def __init__(self, folder: Path) -> None:
        plan = plan_secure(PUBLIC, quorum=3)
        self.federation = ToyFederation(folder, sites=NAMES, secure=plan)
        manifest = self.federation.manifest
        self._sites = {
            name: SecureSite(name, manifest, SecurePorts(KEYS[name], lambda: PUBLIC, MemoryMarks(), seeded_entropy(name.encode())))
            for name in NAMES
        }
        self.federation.connect()
        self.federation.settle()

    def said(self, name: SiteId) -> Said:
        """What a site honestly says to the directive in force: an answer, or a masked update's header and words."""
        directive = self.federation.engine.service._streams.directive(name)
        match directive:
            case SecureStep():
                return self._sites[name].answer(directive)
            case Train(ref, model, _, delivery):
                self._sites[name].accept(ref, delivery, model.digest)
                words = toy_words(name, ref, self.federation.manifest)
                sha256 = hashlib.sha256(words).hexdigest()
                header = UpdateHeader(ref, sha256, len(words), model.digest)
                return self._sites[name].mask(OutboxEntry(header, words, UpdateStage.READY, None, ""))
        raise AssertionError(f"{name} has nothing to say to {directive}")

    def say(self, name: SiteId, said: Said | None = None) -> None:
        """Deliver it, past the transport."""
        said = said or self.said(name)
        if isinstance(said, StepAnswer):
            self.federation.engine.service.answer_step(name, said)
        else:
            self.federation.send(name, said[1], said[0])

    def go_to(self, step: StepName) -> SecureCrew:
        """Everybody is honest up to this step; nobody has answered it."""
        for _ in [one for one in StepName if list(StepName).index(one) < list(StepName).index(step)]:
            for name in NAMES:
                self.say(name)
            self.federation.settle()
        return self

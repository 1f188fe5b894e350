"""A site as witness, the trail of a run, and what a coordinator says of it; for the tests of the witness beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from fed_node.events import SessionEvent
from fed_node.witness import Witness, WitnessIdentity, WitnessPorts
from fed_node.witness_store import MemoryWitnessStore, Noted
from fedmentor.audit import AuditRecord
from fedmentor.audit.checkpoint import SignedCheckpoint
from fedmentor.errors import EXIT_POLICY, PolicyRefusal
from fedmentor.federation import Finished, ModelRef, Outcome, RoundRef, RunManifest, Train
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.link import ScriptedLink

SITE = SiteId("b")
MODELS = [Digest(str(number) * 64) for number in range(4)]
MINE, OTHERS = Digest("a" * 64), Digest("c" * 64)


def manifest(run: str = "toy-run") -> RunManifest:
    """Of the run that the witness has joined."""
    return RunManifest(
        run=RunId(run),
        roster=(SiteId("a"), SITE, SiteId("c")),
        rounds=3,
        architecture="toy",
        tensors=(("w", (1,)),),
        initial_model=MODELS[0],
    )


def begin() -> ToyTrail:
    """The trail of a run that has begun."""
    trail = ToyTrail()
    made = manifest()
    trail.append("coordinator", "create_run", run=made.run, manifest=made.digest, model=MODELS[0], roster="a b c")
    return trail


def publish(trail: ToyTrail, round_: int, sha256: Digest = MINE) -> ToyTrail:
    """A round in which everybody delivers."""
    for site in trail.site_keys:
        digest = sha256 if site == SITE else OTHERS
        trail.append(f"site {site}", "accept_update", round=round_, attempt=1, sha256=digest)
    trail.append("coordinator", "publish_round", round=round_, model=MODELS[round_ + 1], base_model=MODELS[round_])
    trail.seal()
    return trail


def train(round_: int, model: Digest | None = None) -> Train:
    """The order to train, from the model that is in force unless another is given."""
    return Train(RoundRef(RunId("toy-run"), Round(round_), Attempt(1)), ModelRef(model or MODELS[round_], 4), 60.0)


def said_by(trail: ToyTrail) -> list[SignedCheckpoint | AuditRecord]:
    """What an honest coordinator answers."""
    return [*trail.checkpoints[-1:], *trail.records]


@dataclass
class Site:
    """A witness, what it hears, and what it leaves."""

    trail: ToyTrail
    evidence: Path
    store: MemoryWitnessStore = field(default_factory=MemoryWitnessStore)
    events: list[SessionEvent] = field(default_factory=list)
    sent: set[tuple[int, Digest]] = field(default_factory=lambda: {(round_, MINE) for round_ in range(4)})

    def __post_init__(self) -> None:
        self.link = ScriptedLink(SITE, {}, [])
        self.identity = WitnessIdentity(SITE, self.trail.site_keys[SITE], lambda: self.trail.keys)
        self.ports = WitnessPorts(self.link, self.store, self._sent, self.evidence, self.events.append)
        self.witness = Witness(self.identity, self.ports)

    def speak_to(self, link: ScriptedLink) -> None:
        """Another coordinator answers from now on."""
        self.link, self.witness = link, Witness(self.identity, replace(self.ports, link=link))

    def hear(self, said: ToyTrail | list[SignedCheckpoint | AuditRecord], order: object = None) -> None:
        """An order comes from a coordinator whose audit trail is this."""
        self.link.audit = said_by(said) if isinstance(said, ToyTrail) else said
        self.witness.attend(order or Finished(Outcome.COMPLETED, ""), manifest())

    @property
    def noted(self) -> Noted:
        """What the site remembers."""
        return self.store.noted(RunId("toy-run"))

    def _sent(self, ref: RoundRef, digest: Digest) -> bool:
        return (ref.round, digest) in self.sent

    def refuses(self, said: ToyTrail | list[SignedCheckpoint | AuditRecord], reason: str, order: object = None) -> list[str]:
        """Hear it, refuse it, remember nothing of it; gives the lines of the evidence."""
        before, signed = self.noted, len(self.link.countersigned)
        with pytest.raises(PolicyRefusal, match=reason) as caught:
            self.hear(said, order)
        assert caught.value.exit_code == EXIT_POLICY
        assert self.noted == before
        assert len(self.link.countersigned) == signed
        (path,) = self.evidence.glob("audit-evidence-*.jsonl")
        assert str(path) in caught.value.message
        lines = path.read_text().splitlines()
        head = json.loads(lines[0])
        assert (head["run"], head["site"]) == ("toy-run", "b")
        assert (head["verified_records"], head["verified_head"]) == (before.head.records, before.head.hash)
        return lines

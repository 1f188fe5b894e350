"""A site as witness, of honest coordinators and of those that lie: forks, rollbacks, edits, gaps, false claims, two models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fed_node.events import SessionEvent, Unwitnessed, Witnessed, WitnessOff
from fed_node.witness import NoWitness, Witness, WitnessIdentity, WitnessPorts
from fed_node.witness_store import MemoryWitnessStore, Noted
from fedmentor.audit import AuditRecord, head_of
from fedmentor.audit.checkpoint import Countersignature, SignedCheckpoint, is_countersigned, is_signed, sign_checkpoint
from fedmentor.audit.export import checkpoint_from_line
from fedmentor.errors import EXIT_POLICY, CoordinatorUnreachable, DataError, PolicyRefusal
from fedmentor.federation import (
    Evaluate,
    Finished,
    Manifest,
    ModelRef,
    Outcome,
    RoundRef,
    RunManifest,
    SecureStep,
    StepName,
    Train,
    Wait,
)
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.testing.audit import ToyTrail
from fedmentor.testing.link import ScriptedLink

SITE = SiteId("b")
MODELS = [Digest(str(number) * 64) for number in range(4)]
MINE, OTHERS = Digest("a" * 64), Digest("c" * 64)


def manifest(run: str = "toy-run") -> RunManifest:
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


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(publish(begin(), 0), tmp_path)


def test_a_trail_that_holds_is_followed_and_signed(site: Site):
    first = site.trail.checkpoints[-1]
    site.hear(site.trail, train(1))
    assert site.noted == Noted(site.trail.head, first, countersigned=True)
    ((checkpoint, signature),) = site.link.countersigned
    assert is_countersigned(checkpoint, Countersignature(first.records, SITE, signature), site.trail.keys)
    assert site.events == [Witnessed(first.records, len(site.trail.records))]
    publish(site.trail, 1)
    site.hear(site.trail, train(2))
    assert site.noted.checkpoint == site.trail.checkpoints[-1]
    assert len(site.link.countersigned) == 2


def test_nothing_new_is_not_signed_again(site: Site):
    site.hear(site.trail)
    site.hear(site.trail)
    site.trail.append("coordinator", "gather_quorum", round=1, attempt=1, connected=3)
    site.hear(site.trail)
    assert len(site.link.countersigned) == 1
    assert site.noted.head == site.trail.head


def test_before_the_first_checkpoint_there_is_a_chain_and_nothing_to_sign(tmp_path: Path):
    site = Site(begin(), tmp_path)
    site.hear(site.trail, train(0))
    assert site.noted == Noted(site.trail.head)
    assert site.link.countersigned == []


@pytest.mark.parametrize(
    "directive",
    [
        Wait("for others"),
        Manifest(manifest()),
        SecureStep(train(0).round, train(0).model, 60.0, StepName.SHARE, b""),
        SecureStep(train(0).round, train(0).model, 60.0, StepName.REVEAL, b""),
    ],
)
def test_what_orders_nothing_is_not_looked_into(site: Site, directive: object):
    site.hear(["nonsense"], directive)
    assert site.noted == Noted()


def test_an_evaluation_is_looked_into_but_its_model_may_be_a_candidate(site: Site):
    order = train(1)
    site.hear(site.trail, Evaluate(order.round, ModelRef(MODELS[3], 4), 60.0))
    assert site.noted.head == site.trail.head


# --- lies ---


def test_a_fork_is_refused_and_both_checkpoints_are_kept(site: Site):
    fork = publish(site.trail.cut(1), 0, sha256=OTHERS)
    site.sent.add((0, OTHERS))
    site.hear(site.trail)
    assert fork.checkpoints[-1].records == site.trail.checkpoints[-1].records
    lines = site.refuses(fork, "two chains of 5 records")
    shown = [checkpoint_from_line(line) for line in lines[1:3]]
    assert shown == [site.trail.checkpoints[-1], fork.checkpoints[-1]]
    assert all(is_signed(one, site.trail.keys) for one in shown), "a proof for others"
    assert shown[0].checkpoint.head != shown[1].checkpoint.head


def test_a_longer_fork_is_refused(site: Site):
    fork = publish(publish(site.trail.cut(1), 0, sha256=OTHERS), 1)
    site.sent.add((0, OTHERS))
    site.hear(site.trail)
    site.refuses(fork, "record 5 is another one than this site has verified")


def test_a_rollback_is_refused(site: Site):
    old = site.trail.cut(len(site.trail.records))
    publish(site.trail, 1)
    site.hear(site.trail)
    lines = site.refuses(old, "the newest checkpoint is over 5 records, an earlier one was over 10")
    assert [checkpoint_from_line(line) for line in lines[1:3]] == [site.trail.checkpoints[-1], old.checkpoints[-1]]


def test_a_chain_that_lost_its_open_end_is_refused(site: Site):
    old = site.trail.cut(len(site.trail.records))
    site.trail.append("coordinator", "gather_quorum", round=1, attempt=1, connected=3)
    site.hear(site.trail)
    site.refuses(old, "shorter than the 7 records that this site has verified")


def test_a_coordinator_that_lost_its_checkpoints_is_refused(site: Site):
    site.hear(site.trail)
    site.refuses(list(site.trail.records), "has no checkpoint any more")


def test_a_coordinator_that_shows_nothing_is_refused(site: Site):
    site.refuses([], "the chain ends after 0 records")


def test_a_false_claim_is_refused_and_the_record_is_kept(site: Site):
    site.sent.clear()
    lines = site.refuses(site.trail, "record 2 says that this site sent an update that it did not send")
    assert json.loads(lines[-1])["seq"] == 2


def test_a_claim_about_another_round_is_refused(tmp_path: Path):
    trail = begin()
    trail.append("site b", "accept_update", round="x", attempt=True, sha256=None)
    Site(trail, tmp_path).refuses(trail, "did not send")


def test_another_run_is_refused(site: Site):
    elsewhere = ToyTrail()
    elsewhere.site_keys, elsewhere.coordinator_key = site.trail.site_keys, site.trail.coordinator_key
    elsewhere.keys = site.trail.keys
    elsewhere.append("coordinator", "create_run", run="toy-run", manifest="0" * 64, model=MODELS[0])
    site.refuses(elsewhere, "does not begin with the run that this site has joined")
    elsewhere.run = RunId("other")
    elsewhere.seal()
    for path in site.evidence.iterdir():
        path.unlink()
    site.refuses(elsewhere, "the newest checkpoint is of run other")


def test_a_checkpoint_of_somebody_else_is_refused(site: Site):
    stranger = ToyTrail()
    forged = sign_checkpoint(site.trail.checkpoints[-1].checkpoint, stranger.coordinator_key)
    site.refuses([forged, *site.trail.records], "not signed by the coordinator on the roster")


def test_a_checkpoint_that_the_chain_does_not_reach_is_refused(site: Site):
    site.refuses([site.trail.checkpoints[-1], *site.trail.records[:3]], "the chain ends after 3 records")


def test_a_coordinator_that_stops_signing_is_refused(site: Site):
    site.hear(site.trail)
    signed = site.trail.checkpoints[-1]
    publish(site.trail, 1)
    site.refuses([signed, *site.trail.records], "round 1 was published without a checkpoint")


def test_a_second_checkpoint_is_refused(site: Site):
    site.refuses([*site.trail.checkpoints, *site.trail.checkpoints, *site.trail.records], "second checkpoint")


class Endless(ScriptedLink):
    """Has always one more record."""

    trail: ToyTrail

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        yield from super().fetch_audit(from_record)
        while True:
            yield self.trail.append("coordinator", "gather_quorum", connected=3)


def test_records_without_end_are_refused(site: Site):
    site.link = Endless(SITE, {}, [])
    site.link.trail = site.trail
    site.witness = Witness(site.identity, replace(site.ports, link=site.link), max_open_records=20)
    site.refuses(site.trail, "more than 20 records follow the newest checkpoint")
    assert len(site.trail.records) == site.trail.checkpoints[-1].records + 21


def test_the_model_to_train_from_must_be_the_one_in_the_trail(site: Site):
    site.hear(site.trail, train(1))
    site.hear(site.trail, train(0))
    for order in (train(1, MODELS[0]), train(1, MODELS[2]), train(0, MODELS[1])):
        with pytest.raises(PolicyRefusal, match="not the one that the audit trail has in force"):
            site.hear(site.trail, order)


def test_a_round_that_published_nothing_leaves_the_model_in_force(site: Site):
    site.trail.append("coordinator", "withhold_round", round=1, attempt=1)
    site.trail.seal()
    site.hear(site.trail, train(2, MODELS[1]))
    with pytest.raises(PolicyRefusal):
        site.hear(site.trail, train(2, MODELS[2]))


def test_the_root_of_a_secure_attempt_must_be_in_the_trail(site: Site):
    order = train(1)
    root = bytes.fromhex(site.trail.records[-1].hash)
    site.hear(site.trail, SecureStep(order.round, order.model, 60.0, StepName.ADVERTISE, root))
    for wrong in (bytes(32), b"", b"x"):
        with pytest.raises(PolicyRefusal, match="audit root of round 1"):
            site.hear(site.trail, SecureStep(order.round, order.model, 60.0, StepName.ADVERTISE, wrong))


@given(st.data())
def test_no_edit_of_what_is_new_goes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    trail = publish(publish(begin(), 0), 1)
    site = Site(trail, tmp_path_factory.mktemp("evidence"))
    known = data.draw(st.sampled_from([0, 1, 6]), "records known")
    if known:
        site.hear(trail.cut(known))
    sound = trail.records
    # What comes after the newest checkpoint's own record is not signed yet; everything before it must be whole.
    last = trail.checkpoints[-1].records
    position = data.draw(st.integers(max(0, known - 1), last - 1), "position")
    record = sound[position]
    match data.draw(st.sampled_from(["edit", "drop", "swap", "repeat", "cut"]), "what"):
        case "edit":
            name = data.draw(st.sampled_from(["utc", "actor", "event", "fields", "hash", "prev_hash"]))
            changed = [*sound[:position], replace(record, **{name: getattr(record, name)[::-1] + " "}), *sound[position + 1 :]]
        case "drop":
            changed = [*sound[:position], *sound[position + 1 :]]
        case "swap":
            changed = [*sound[:position], sound[position + 1], record, *sound[position + 2 :]]
        case "repeat":
            changed = [*sound[:position], record, *sound[position:]]
        case "cut":
            changed = list(sound[:position])
    site.link.audit = [trail.checkpoints[-1], *changed]
    before = site.noted
    with pytest.raises(PolicyRefusal):
        site.witness.attend(Finished(Outcome.COMPLETED, ""), manifest())
    assert site.noted == before


# --- lines that break, coordinators that are slow ---


class Breaking(ScriptedLink):
    """Breaks after so many items."""

    items = 0

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        for number, item in enumerate(super().fetch_audit(from_record)):
            if number == self.items:
                raise CoordinatorUnreachable("the line broke")
            yield item
        if self.items < 100:
            raise CoordinatorUnreachable("the line broke")


@pytest.mark.parametrize("items", range(8))
def test_a_broken_line_ends_no_round_and_what_came_is_kept(site: Site, items: int):
    site.speak_to(Breaking(SITE, {}, []))
    site.link.items = items
    site.hear(site.trail, train(1))
    assert site.events == [Unwitnessed("the line broke")]
    assert site.noted.head.records == max(0, items - 1)
    assert site.link.countersigned == []
    site.link.items = 100
    site.hear(site.trail, train(1))
    assert site.noted == Noted(site.trail.head, site.trail.checkpoints[-1], countersigned=True)
    assert not list(site.evidence.iterdir())


class Deaf(ScriptedLink):
    """Does not take signatures."""

    error: Exception = CoordinatorUnreachable("no answer")

    def countersign(self, checkpoint: object, signature: bytes) -> None:
        """See CoordinatorLink."""
        del checkpoint, signature
        raise self.error


@pytest.mark.parametrize("error", [CoordinatorUnreachable("no answer"), PolicyRefusal("not your signature")])
def test_a_signature_that_is_not_taken_is_offered_again(site: Site, error: Exception):
    honest = site.link
    site.speak_to(Deaf(SITE, {}, []))
    site.link.error = error
    site.hear(site.trail)
    assert site.events == [Unwitnessed(error.args[0])]
    assert not site.noted.countersigned
    site.speak_to(honest)
    site.hear(site.trail)
    assert site.noted.countersigned
    assert len(honest.countersigned) == 1


class Malformed(ScriptedLink):
    """Sends what is no record."""

    def fetch_audit(self, from_record: int) -> Iterator[SignedCheckpoint | AuditRecord]:
        """See CoordinatorLink."""
        yield from super().fetch_audit(from_record)
        raise DataError("a line of the audit file is not an audit record")


def test_what_is_no_record_is_refused(site: Site):
    site.speak_to(Malformed(SITE, {}, []))
    site.refuses(site.trail, "not an audit record")


# --- what the chain knows ---


def test_knows_looks_once_for_what_is_new(site: Site):
    site.hear(site.trail)
    old = site.trail.records[3].hash
    site.link.audit = []
    assert site.witness.knows(old)
    publish(site.trail, 1)
    site.link.audit = said_by(site.trail)
    assert site.witness.knows(site.trail.records[-1].hash)
    assert not site.witness.knows(Digest("e" * 64))
    assert head_of(site.trail.records[-1]) == site.noted.head


def test_nothing_is_known_before_the_run(site: Site):
    site.link.audit = said_by(site.trail)
    assert not site.witness.knows(site.trail.records[-1].hash)


def test_without_keys_the_witness_says_once_that_it_is_off():
    events: list[SessionEvent] = []
    witness = NoWitness("no roster", events.append)
    witness.attend(train(0), manifest())
    witness.attend(train(1), manifest())
    assert events == [WitnessOff("no roster")]
    assert not witness.knows(Digest("0" * 64))

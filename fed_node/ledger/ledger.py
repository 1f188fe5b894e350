"""The privacy ledger of one site: reserve, train, commit, release. The decisions; a store keeps the entries.

::

    1 plan      epsilon of every patient's history with the asked steps is over the cap: BudgetExhausted, before data is touched
    2 reserve   the steps are on disk, counted in full
    3 train     not here; no more steps than were reserved
    4 commit    the steps taken and the SHA-256 of what may leave are on disk
    5 release   asked by the one gate before a byte is sent; refuses what was not committed
    6 retry     the same bytes again: no new spend, no new entry

After a crash: a reservation without a commit is void, because nothing can have left (5 refuses it); a commit without a release
stays spent. So the ledger always holds at least what left the site. A patient's history is found by a keyed tag of the patient's
id, so two runs, and two data sets that share patients, are charged to the same people.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fed_node.ledger.store import Anchor, LedgerStore, MemoryAnchor, Stored, Tags
from fedmentor import __version__
from fedmentor.audit import EMPTY, AuditRecord, Fields, Head, head_of, next_record, verify
from fedmentor.clock import Clock
from fedmentor.errors import BrokenStore, BudgetExhausted, ConfigError, DataError, PolicyRefusal
from fedmentor.ids import Digest, Round, RunId, SiteId
from fedmentor.privacy.accounting import Cost, History, Segment, TightEpsilon, compose, cost_of
from fedmentor.privacy.events import Budget, LedgerState, Reservation, Stage, history_of, replay
from fedmentor.tensors import sha256_hex

CRASHED = "the process ended before the commit, so nothing left this site"


@dataclass(frozen=True)
class BudgetPolicy:
    """What this site allows.

    Attributes:
        epsilon: most that any patient may spend, over all runs.
        delta: at which epsilon is computed; fixed with the ledger's first entry.
    """

    epsilon: float = 8.0
    delta: float = 1e-5


@dataclass(frozen=True)
class LedgerPorts:
    """Through what a ledger touches the world.

    Attributes:
        store: entries.
        key: the site's secret, under which patients are told again.
        clock: for the record.
        tight: the tighter accountant.
        anchor: where the head is noted outside of the store.
    """

    store: LedgerStore
    key: bytes = field(repr=False)
    clock: Clock
    tight: TightEpsilon
    anchor: Anchor = field(default_factory=MemoryAnchor)


@dataclass(frozen=True)
class Spend:
    """Steps that a site wants to take.

    Attributes:
        run, round: what for.
        segment: the mechanism, and the most steps.
        patients: ids of everybody who may be drawn.
    """

    run: RunId
    round: Round
    segment: Segment
    patients: Collection[str] = field(repr=False)


class PrivacyLedger:
    """See the module. One writer; belongs to the thread that made it.

    Args:
        site: for the record.
        policy: the site's budget. Another epsilon than before is noted as a new budget entry.
        ports: the world.
        noted: heads of this ledger that others hold, e.g. countersigned by the coordinator.

    Raises:
        PolicyRefusal: the ledger is behind a noted head: a restored backup, a snapshot, or a copy of this node wrote on.
        DataError: the chain or a cohort was changed.
        ConfigError: key or delta are not those of this ledger.
        BrokenStore: the disk or the database failed.
    """

    def __init__(self, site: SiteId, policy: BudgetPolicy, ports: LedgerPorts, noted: Sequence[Head] = ()) -> None:
        self._site = site
        self._ports = ports
        self._sound = True
        stored = ports.store.load()
        anchored = ports.anchor.read()
        self._head = check_chain(stored, [*noted, *([anchored] if anchored is not None else [])])
        self._members: dict[Digest, Tags] = dict(stored.members)
        self._state = replay(stored.records)
        self._settle(policy)

    @property
    def head(self) -> Head:
        """Length and last hash; give it to whoever shall notice a rollback."""
        return self._head

    @property
    def state(self) -> LedgerState:
        """What the entries add up to."""
        return self._state

    @property
    def budget(self) -> Budget:
        """The budget in force."""
        if self._state.budget is None:
            raise BrokenStore("the privacy ledger has no budget")
        return self._state.budget

    def spent(self) -> Cost:
        """What the patient who was charged most has spent."""
        return worst_cost(self._state, self._members, _everybody(self._members), (), self._ports.tight)

    def check(self, spend: Spend) -> Cost:
        """Step 1 alone: what the patient who is charged most would have spent after it.

        Raises:
            BudgetExhausted: the budget of a patient does not allow it, or its cost cannot be computed.
            DataError: no patients.
        """
        cost = worst_cost(self._state, self._members, self._tags(spend.patients), (spend.segment,), self._ports.tight)
        budget = self.budget
        if cost.epsilon > budget.epsilon:
            raise BudgetExhausted(
                f"round {spend.round} of run {spend.run!r} would bring a patient to epsilon {cost.epsilon:.3f} at delta "
                f"{budget.delta:g}; this site allows {budget.epsilon:g}",
                cure="the federation goes on without this site; 'fedmentor node ledger' shows what was spent on what",
            )
        return cost

    def reserve(self, spend: Spend) -> Reservation:
        """Steps 1 and 2: on disk when it returns.

        Raises:
            BudgetExhausted: the budget of a patient does not allow it, or its cost cannot be computed.
            DataError: no patients.
            BrokenStore: see LedgerStore; nothing may be trained.
        """
        # (1) plan
        cost = self.check(spend)
        # (2) reserve
        tags = self._tags(spend.patients)
        cohort = cohort_digest(tags)
        new = {} if cohort in self._members else {cohort: tags}
        draft = Reservation(-1, spend.run, spend.round, cohort, spend.segment, cost, "")
        events: list[tuple[str, Fields]] = [("cohort", {"cohort": cohort, "patients": len(tags)})] if new else []
        self._append([*events, ("reserve", draft.fields(__version__))], new)
        return self._state.reservations[self._head.records - 1]

    def commit(self, reservation: Reservation, steps: int, release: Digest) -> None:
        """Step 4.

        Args:
            reservation: from reserve().
            steps: taken; never more than were reserved.
            release: SHA-256 of the bytes that may leave.

        Raises:
            DataError: more steps than reserved, or the reservation is not open.
            BrokenStore: see LedgerStore; nothing may leave.
        """
        self._append([("commit", {"reservation": reservation.number, "steps": steps, "release": release})])

    def void(self, reservation: Reservation, reason: str) -> None:
        """Nothing of an open reservation will ever leave: its steps count no longer.

        Raises:
            DataError: it is not open.
            BrokenStore: see LedgerStore.
        """
        self._append([("void", {"reservation": reservation.number, "reason": reason})])

    def release(self, run: RunId, number: Round, sha256: Digest) -> None:
        """Step 5: these bytes may leave; noted once.

        Raises:
            PolicyRefusal: they were never committed.
            BrokenStore: see LedgerStore; nothing may leave.
        """
        held = [item for item in self._state.of_round(run, number) if item.stage is Stage.COMMITTED and item.release == sha256]
        if not held:
            raise PolicyRefusal(
                f"the privacy ledger knows no update of round {number} of run {run!r} with this content, so it stays here",
                cure="the ledger was replaced or lost: restore it, or start a new run",
            )
        if not any(item.released for item in held):
            self._append([("release", {"reservation": held[-1].number})])

    def close(self) -> None:
        """Let go of files and locks."""
        self._ports.store.close()

    def _settle(self, policy: BudgetPolicy) -> None:
        """First budget or a new cap; reservations of a process that died."""
        wanted = Budget(policy.epsilon, policy.delta, key_check(self._ports.key))
        have = self._state.budget
        if have is not None and have.key_check != wanted.key_check:
            raise ConfigError("the privacy ledger was kept under another key", cure="restore ledger.key from the same backup")
        if have is not None and have.delta != wanted.delta:
            raise ConfigError(
                f"the privacy ledger was begun with delta {have.delta:g}, the settings say {wanted.delta:g}",
                cure="set it back: delta is fixed with the first entry",
            )
        events: list[tuple[str, Fields]] = [] if have == wanted else [("budget", wanted.fields())]
        events += [("void", {"reservation": item.number, "reason": CRASHED}) for item in self._state.open]
        if events:
            self._append(events)
        else:
            self._ports.anchor.write(self._head)

    def _append(self, events: Iterable[tuple[str, Fields]], members: Mapping[Digest, Tags] | None = None) -> None:
        if not self._sound:
            raise BrokenStore("the privacy ledger failed before", cure="start the node again once its disk is well")
        head, records = self._head, list[AuditRecord]()
        for event, fields in events:
            records.append(next_record(head, self._ports.clock.now(), f"site {self._site}", event, fields))
            head = head_of(records[-1])
        state = replay(records, self._state)
        # What a failed commit left on disk is unknown; only a new start, which reads the disk, may go on.
        self._sound = False
        self._ports.store.append(records, members or {})
        self._ports.anchor.write(head)
        self._head, self._state, self._sound = head, state, True
        self._members |= members or {}

    def _tags(self, patients: Collection[str]) -> Tags:
        if not patients:
            raise DataError("there are no patients to account for")
        return frozenset(hmac.new(self._ports.key, f"patient\n{name}".encode(), hashlib.sha256).hexdigest() for name in patients)


def check_chain(stored: Stored, noted: Sequence[Head]) -> Head:
    """Check what a store holds; the head if all is well.

    1. Every entry is in its place and unchanged, and every noted head is in the chain.
    2. Every cohort in the chain has exactly the members that its digest names.

    Raises:
        PolicyRefusal: the chain is sound in itself but not the one that was noted: it is behind, or another one.
        DataError: an entry or a cohort was changed.
    """
    # (1)
    alone = verify(stored.records)
    if not alone.sound:
        raise DataError(f"the privacy ledger is damaged: {alone.reason}", cure="restore the whole state folder of this site")
    for head in noted:
        verdict = verify(stored.records, head)
        if not verdict.sound:
            raise PolicyRefusal(
                f"the privacy ledger is not the one that was last seen: {verdict.reason}",
                cure="a backup was restored, or a second node runs on a copy: bring back the newest ledger",
            )
    # (2)
    announced = replay(stored.records).cohorts
    for cohort in announced.keys() | stored.members.keys():
        if cohort not in announced or cohort_digest(stored.members.get(cohort, frozenset())) != cohort:
            raise DataError("the privacy ledger is damaged: the members of a cohort were changed")
    return alone.head if stored.records else EMPTY


def worst_cost(state: LedgerState, members: Mapping[Digest, Tags], patients: Tags, extra: History, tight: TightEpsilon) -> Cost:
    """The largest cost among patients after ``extra``; patients who were always drawn from together share one computation.

    Raises:
        BudgetExhausted: a cost cannot be computed.
    """
    signatures = {frozenset(cohort for cohort, tags in members.items() if tag in tags) for tag in patients}
    histories = {compose((*history_of(state, signature), *extra)) for signature in signatures}
    delta = state.budget.delta if state.budget is not None else 0.0
    return max((cost_of(history, delta, tight) for history in histories), key=lambda cost: cost.epsilon, default=Cost(0.0, 0.0))


def cohort_digest(tags: Tags) -> Digest:
    """The name of a set of patients: SHA-256 over its sorted tags."""
    return sha256_hex(f"{tag}\n".encode() for tag in sorted(tags))


def key_check(key: bytes) -> Digest:
    """Recognises a key without telling it."""
    return Digest(hmac.new(key, b"fedmentor/ledger-key/1", hashlib.sha256).hexdigest())


def _everybody(members: Mapping[Digest, Tags]) -> Tags:
    return frozenset().union(*members.values())

"""A privacy ledger that can be closed and opened again; for the contract beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger, Spend
from fed_node.ledger.store import Anchor, LedgerStore, MemoryAnchor
from fedmentor.audit import Head
from fedmentor.ids import Digest, Round, RunId, SiteId
from fedmentor.privacy.accounting import Segment, no_tight_bound, rdp_epsilon
from fedmentor.testing.clock import ManualClock

SITE, RUN, OTHER = SiteId("north"), RunId("run"), RunId("other")
KEY = bytes(range(32))
DELTA = 1e-5
STEP = Segment(1.0, 0.1, 10)
PATIENTS = tuple(f"patient-{number}" for number in range(8))
WORDS = Digest("d" * 64)
ROOMY = BudgetPolicy(100.0, DELTA)


class Bench:
    """One ledger that can be closed and opened again."""

    def __init__(self, make_store: Callable[[], LedgerStore]) -> None:
        self.make_store = make_store
        self.anchor: Anchor = MemoryAnchor()
        self.store: LedgerStore | None = None

    def open(self, policy: BudgetPolicy = ROOMY, noted: Sequence[Head] = (), key: bytes = KEY) -> PrivacyLedger:
        """A node that was just started."""
        self.store = self.make_store()
        ports = LedgerPorts(self.store, key, ManualClock(), no_tight_bound, self.anchor)
        try:
            return PrivacyLedger(SITE, policy, ports, noted)
        except BaseException:
            self.store.close()
            raise


def spend(number: int = 0, run: RunId = RUN, segment: Segment = STEP, patients: Sequence[str] = PATIENTS) -> Spend:
    """What a round asks for."""
    return Spend(run, Round(number), segment, patients)


def take(ledger: PrivacyLedger, wanted: Spend, words: Digest = WORDS) -> None:
    """A whole round."""
    ledger.commit(ledger.reserve(wanted), wanted.segment.steps, words)
    ledger.release(wanted.run, wanted.round, words)


def epsilon(*segments: Segment) -> float:
    """What these segments cost, from the accountant alone."""
    return rdp_epsilon(segments, DELTA)

"""Small federations that are brought to a phase, under a clock that is turned by hand; for the tests of the phases beside it."""

from coordinator.state import PhaseName
from coordinator.testing import ToyFederation


def four_sites(tmp_path, **manifest):
    """Four sites, two of which are enough."""
    return ToyFederation(tmp_path, sites=("a", "b", "c", "d"), quorum=2, **manifest)


def audit_of(federation):
    """What the audit trail says."""
    return federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())


def collecting(federation):
    """Go on until the first round collects."""
    federation.connect()
    assert federation.settle() is PhaseName.COLLECT


def evaluating(federation):
    """Go on until the last model is evaluated."""
    federation.connect()
    for _ in range(federation.manifest.rounds):
        federation.settle()
        for site in federation.manifest.roster:
            federation.send(site)
    assert federation.settle() is PhaseName.EVALUATE

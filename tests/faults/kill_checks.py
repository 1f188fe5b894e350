"""What has to hold after every run of kill_driver.py.

K1  the run ended, for everybody, completed
K2  whoever was acknowledged in the attempt that was published is in the model, and nobody is there twice or without an update;
    a group of a secure run may be missing as a whole, but only if so many of its sites died that too few were left
K3  plain, and secure where no site died: the last model is, bit for bit, that of the undisturbed run
K4  what a site has on disk: the receipt of the last round that it delivered (plain)
K5  secure: no site said two things in one step of an attempt, or revealed in two attempts of a round
K6  the audit trail holds, and no site has evidence against an honest coordinator
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from simulated_federation import ROUNDS, check_audit
from simulated_site import added_by

from coordinator.store.sqlite import JOURNAL_FILE, SqliteJournal
from fed_node.outbox_store import SqliteOutbox
from fedmentor.federation import Outcome, RoundRef, StepName
from fedmentor.tensors import FloatVector
from fedmentor.testing.clock import ManualClock

if TYPE_CHECKING:
    from kill_driver import Run


def check(run: Run, undisturbed: str | None) -> str:
    """K1 to K6; the last model."""
    assert {one.outcome for one in run.finished.values()} == {Outcome.COMPLETED}, "K1"
    federation = run.federation
    federation.engine = _Reading(SqliteJournal(federation.state / JOURNAL_FILE, ManualClock()))  # type: ignore[assignment]
    for ref, added in federation.published():
        check_round(run, ref, added)
    model = str(federation.final_model())
    if not run.secure or run.victims <= {"coordinator"}:
        assert undisturbed in (None, model), "K3"
    if not run.secure:
        check_receipts(run)
    check_said(run)
    check_audit(federation)  # K6; closes the journal
    return model


def check_round(run: Run, ref: RoundRef, added: FloatVector) -> None:
    """K2; counts the groups that are missing."""
    federation, manifest = run.federation, run.federation.manifest
    counted, accepted = federation.counted(ref), federation.accepted(ref)
    if run.secure and not counted:
        assert not added.any(), f"K2: {ref} is void and changes the model"
        return
    assert len(counted) >= manifest.needed, f"K2: {ref} is from {sorted(counted)}"
    acknowledged = {site for where, site in run.receipts if where == ref}
    for group in manifest.groups:
        if not counted.intersection(group.sites):
            living = [site for site in group.sites if site not in run.victims]
            assert len(living) < group.terms.quorum, f"K2: {ref} is without {group.name}, of which {living} never died"
            accepted, acknowledged = accepted.difference(group.sites), acknowledged.difference(group.sites)
            run.lost_groups += 1
    assert acknowledged <= counted == accepted, f"K2: {ref}: {acknowledged}, {counted}"
    assert np.allclose(added, added_by(manifest, counted), rtol=0, atol=1e-6), f"K2: {ref}: {added}"


def check_receipts(run: Run) -> None:
    """K4, and that the last round was delivered."""
    last = max(ref.round for ref, _ in run.receipts)
    assert last == ROUNDS - 1, "K1"
    for site in run.sites:
        outbox = SqliteOutbox(run.folder / site)
        kept = outbox.last_receipt(run.federation.manifest.run)
        outbox.close()
        assert kept is not None, f"K4: {site}"
        assert kept.round == last, f"K4: {site}"


def check_said(run: Run) -> None:
    """K5."""
    revealed: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
    for (site, round_, attempt, step), said in run.said.items():
        assert len(said) == 1, f"K5: {site} said {len(said)} things at {step.value} of {round_}/{attempt}"
        if step is StepName.REVEAL:
            revealed[site, round_].add(attempt)
    assert all(len(attempts) == 1 for attempts in revealed.values()), "K5: revealed in two attempts of a round"


@dataclass
class _Reading:
    """An engine of which only the journal is left."""

    journal: SqliteJournal

"""A whole federation in one process, and what counts as its failure; for the simulations beside it.

Real parts: CoordinatorService with its driver, SQLite journal, spool and model store; one Session a site with its SQLite outbox.
Replaced: the network (DirectLink), time (ManualClock, one for the coordinator and one for each site), and the student, which leaves
fingerprints (simulated_site.py). simulated_schedules.py runs it under faults.

What counts as failure:

* F1  a published model in which a site that holds a receipt for the published attempt is missing, or anybody counts twice;
* F2  a published model in which a site counts whose update the coordinator did not accept for that attempt;
* F3  a published model from fewer sites than the quorum;
* F4  a site that finishes the training of one round twice;
* F5  any exception out of a session or the driver other than the kills of the schedule;
* F6  a run that does not end once faults have ended;
* F7  a site that was given a receipt and does not have it on its disk;
* F8  where no time passed, so that no deadline did: a final model that is not, bit for bit, that of the undisturbed run;
* F9  with witnesses: an audit trail that does not hold in the end, or evidence at a site against a coordinator that is honest.

What does not: a run that fails because deadlines passed in all attempts of a round; an accepted update of an attempt that failed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_site import COORDINATOR_KEY, CROWD, SITES, Site, X, audit_keys

from coordinator.app import JOURNAL_FILE, MODELS_FOLDER, Engine, EngineParts, build_engine
from coordinator.audit.notary import Notary
from coordinator.audit.reading import read_trail
from coordinator.phases.phase import PhaseLimits
from coordinator.store.sqlite import SqliteJournal
from fed_node.events import Delivered, Trained
from fedmentor.audit.review import Review, review
from fedmentor.errors import CoordinatorUnreachable
from fedmentor.federation import RoundRef, RunManifest
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.models import ModelRecord, digest_of, load_model, save_model
from fedmentor.secagg.plan import plan_secure
from fedmentor.tensors import FloatVector
from fedmentor.testing.clock import ManualClock

QUORUM, ROUNDS, ATTEMPTS = 3, 2, 2
COLLECT_SECONDS, GRACE_SECONDS = 60.0, 10.0
STEP_SECONDS = 60.0
"""Of the short steps of secure aggregation."""

HEALING_TURNS = 300
"""Far more than a run without faults takes (about 30)."""


class Federation:
    """One coordinator and its sites in one folder.

    Args:
        secure: sites mask their updates.
        audited: the coordinator signs its audit trail, and sites are witnesses.
        groups: of a secure run; with more than one the sites are the crowd.
    """

    def __init__(self, folder: Path, *, secure: bool = False, audited: bool = False, groups: int = 1) -> None:
        self.audited = audited
        roster = SITES if groups == 1 else CROWD
        self.keys = audit_keys(roster)
        self._model, self.state = folder / "model", folder / "state"
        start = {"vector": np.zeros(len(roster), np.float32)}
        save_model(self._model, start, ModelRecord(architecture="fingerprint-v1", digest=digest_of(start)))
        self.state.mkdir()
        self.manifest = RunManifest(
            run=RunId("run"),
            roster=roster,
            rounds=ROUNDS,
            quorum=QUORUM,
            architecture="fingerprint-v1",
            tensors=(("vector", (len(roster),)),),
            initial_model=digest_of(start),
            collect_seconds=COLLECT_SECONDS,
            evaluate_seconds=COLLECT_SECONDS,
            max_attempts=ATTEMPTS,
            secure=plan_secure(self.keys.sites, quorum=QUORUM, groups=groups, step_seconds=STEP_SECONDS) if secure else None,
        )
        self.entropy = os.urandom
        self.clock = ManualClock()
        self.streams: dict[SiteId, Any] = {}
        self.engine: Engine | None = None
        self.over = False
        self.sites = {name: Site(name, folder / name, self) for name in roster}

    def service(self) -> Any:
        """What links speak to."""
        if self.engine is None:
            raise CoordinatorUnreachable("there is no coordinator at the moment")
        return self.engine.service

    def drive(self) -> None:
        """Let the coordinator go on until it waits; start it first, if it is not running."""
        if self.engine is None:
            journal = SqliteJournal(self.state / JOURNAL_FILE, self.clock)
            limits = PhaseLimits(gather_s=1e9, straggler_grace_s=GRACE_SECONDS, linger_s=1e9)
            notary = Notary(COORDINATOR_KEY, lambda: self.keys) if self.audited else None
            parts = EngineParts(self.state, journal, self.clock, limits, _ignore, notary, self.entropy)
            self.engine = build_engine(self.manifest, self._model, parts)
        wait_s: float | None = 0.0
        while wait_s == 0.0 and not self.over:
            wait_s = self.engine.driver.step()
            self.over = wait_s is None

    def kill_coordinator(self) -> None:
        """Lose everything that is not on disk; every stream breaks."""
        if self.engine is not None and not self.over:
            self.engine.service.close()
            self.engine.journal.close()
            self.engine = None

    def line_broke(self, site: SiteId) -> None:
        """The coordinator notices that a site's connection is gone."""
        stream = self.streams.pop(site, None)
        if stream is not None:
            stream.cancel()

    def pass_time(self, seconds: float) -> None:
        """For everybody."""
        for clock in (self.clock, *(site.clock for site in self.sites.values())):
            clock.advance(seconds)

    def heal(self) -> None:
        """End all faults and go on until everybody knows that the run is over (F6)."""
        for turn in range(HEALING_TURNS):
            self.drive()
            for site in self.sites.values():
                site.faults.aimed.clear()
                site.faults.cut_after_chunks = None
                site.turn()
            if all(site.finished for site in self.sites.values()):
                return
            if turn > HEALING_TURNS // 2:
                self.pass_time(COLLECT_SECONDS)
        pytest.fail("the run did not end after the faults had ended")

    def published(self) -> list[tuple[RoundRef, FloatVector]]:
        """What each published round added to the model, float32 [sites]."""
        assert self.engine is not None
        rounds = self.engine.journal.run_tx("read", lambda tx: tx.rounds())
        return [
            (RoundRef(self.manifest.run, one.round, one.attempt), self._vector(one.model) - self._vector(one.base_model))
            for one in rounds
        ]

    def counted(self, ref: RoundRef) -> set[SiteId]:
        """Sites whose update is in the model of a published round, as the journal says."""
        assert self.engine is not None
        (found,) = self.engine.journal.run_tx("read", lambda tx: [one for one in tx.rounds() if one.round == ref.round])
        return set(found.sites)

    def accepted(self, ref: RoundRef) -> set[SiteId]:
        """Sites whose update the coordinator has on disk for an attempt."""
        assert self.engine is not None
        return {update.site for update in self.engine.journal.run_tx("read", lambda tx: tx.updates(ref.round, ref.attempt))}

    def final_model(self) -> Digest:
        """Digest of the last model."""
        assert self.engine is not None
        return self.engine.journal.run_tx("read", lambda tx: tx.state()).model

    def close(self) -> None:
        """Let go of all files."""
        for site in self.sites.values():
            site.close()
        if self.engine is not None:
            self.engine.journal.close()

    def _vector(self, model: Digest) -> FloatVector:
        return load_model(self.state / MODELS_FOLDER / model)[0]["vector"]


def _ignore(_event: object) -> None:
    pass


def check(federation: Federation) -> None:
    """F1 to F4 and F7, from what is on the disks."""
    for ref, added in federation.published():
        counted = {site for site, amount in zip(SITES, added, strict=True) if amount != 0}
        if federation.manifest.secure is not None and not counted:
            continue  # void: the sites had revealed, and what they revealed did not open the sum
        assert len(counted) >= QUORUM, f"F3: {ref} is from {sorted(counted)}"
        for site, amount in zip(SITES, added, strict=True):
            expected = X / len(counted) if site in counted else 0.0
            assert amount == pytest.approx(expected, abs=1e-6), f"F1: {site} counts {amount} in {ref}, expected {expected}"
        receipts = {
            name
            for name, site in federation.sites.items()
            if any(isinstance(event, Delivered) and event.round == ref for event in site.events)
        }
        assert receipts <= counted, f"F1: {sorted(receipts - counted)} hold receipts and are missing in {ref}"
        assert counted == federation.accepted(ref), f"F2: {ref}"
    for name, site in federation.sites.items():
        given = [event.round for event in site.events if isinstance(event, Delivered)]
        if given:
            assert site.disk().last_receipt(federation.manifest.run) == max(given), f"F7: {name}"
        trained = [event.round.round for event in site.events if isinstance(event, Trained)]
        assert len(trained) == len(set(trained)), f"F4: {name} trained rounds {trained}"


def check_audit(federation: Federation) -> Review:
    """F9, from the journal and the sites' folders."""
    assert federation.engine is not None
    federation.engine.journal.close()
    federation.engine = None
    trail = read_trail(federation.state)
    found = review(trail, federation.keys, [])
    assert found.fault is None, f"F9: {found.fault}"
    for site in federation.sites.values():
        assert not list(site.folder.glob("audit-evidence-*")), f"F9: {site.name}"
    return found

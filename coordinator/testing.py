"""A coordinator in a test: real stores, service and driver, a manual clock, sites with made-up updates. No network, no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.app import Engine, EngineParts, build_engine
from coordinator.audit.notary import Notary
from coordinator.directives import directive_for
from coordinator.events import Event
from coordinator.phases.phase import PhaseLimits
from coordinator.progress import Moment, Progress
from coordinator.state import PhaseName
from coordinator.store.journal import Journal
from coordinator.store.sqlite import JOURNAL_FILE, SqliteJournal
from coordinator.streams import Subscription
from fedmentor.federation import CHUNK_BYTES, Evaluate, Offset, Receipt, RoundRef, RunManifest, Scores, UpdateHeader, UpdateState
from fedmentor.ids import Digest, RunId, SiteId
from fedmentor.models import ModelRecord, digest_of, save_model
from fedmentor.privacy.noise import Entropy
from fedmentor.secagg.ring import quantise
from fedmentor.tensors import sha256_hex, spec_of
from fedmentor.testing.clock import ManualClock

PARAMETERS = 38
LIMITS = PhaseLimits(gather_s=100.0, straggler_grace_s=10.0, linger_s=20.0)


def toy_model(folder: Path, seed: int = 0) -> Digest:
    """Write a model of PARAMETERS values in two tensors."""
    random = np.random.default_rng(seed)
    tensors = {"bias": random.normal(size=3).astype(np.float32), "weight": random.normal(size=(5, 7)).astype(np.float32)}
    digest = digest_of(tensors)
    save_model(folder, tensors, ModelRecord(architecture="toy", digest=digest, seed=seed))
    return digest


def toy_manifest(model: Digest, sites: Iterable[str] = ("a", "b", "c"), **changes: Any) -> RunManifest:
    """The manifest of a run of toy models: two rounds, 60 s to collect, 30 s to evaluate, two attempts."""
    spec = spec_of({"bias": np.zeros(3, np.float32), "weight": np.zeros((5, 7), np.float32)})
    values: dict[str, Any] = {
        "run": RunId("toy-run"),
        "roster": tuple(SiteId(site) for site in sorted(sites)),
        "rounds": 2,
        "architecture": "toy",
        "tensors": tuple((tensor.name, tensor.shape) for tensor in spec),
        "initial_model": model,
        "collect_seconds": 60.0,
        "evaluate_seconds": 30.0,
        "max_attempts": 2,
    }
    return RunManifest(**{**values, **changes})


def toy_words(site: str, ref: RoundRef, manifest: RunManifest, *, examples: int = 100) -> bytes:
    """The ring words of a site's update: pseudo-random, the same for every attempt of a round."""
    random = np.random.default_rng([*site.encode(), ref.round])
    delta = random.normal(scale=0.1, size=PARAMETERS).astype(np.float32)
    return quantise(delta, examples, manifest.ring).astype("<u4").tobytes()


class ToyFederation:
    """One coordinator on a state folder and its sites; ``reopen`` is what a kill and a restart leave.

    Attributes:
        engine: the coordinator.
        clock: turn it by hand.
        events: everything that was observed, over all restarts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        journal: Journal | None = None,
        limits: PhaseLimits = LIMITS,
        entropy: Entropy = os.urandom,
        notary: Notary | None = None,
        **manifest: Any,
    ) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.model_folder = folder / "model"
        self.state = folder / "state"
        self.state.mkdir(parents=True, exist_ok=True)
        self.manifest = toy_manifest(toy_model(self.model_folder), **manifest)
        self._limits = limits
        self._entropy = entropy
        self._journal = journal
        self._notary = notary
        self._streams: dict[SiteId, Subscription] = {}
        self.engine = self._build()

    def reopen(self) -> None:
        """Forget everything that is in memory and begin again from the state folder."""
        if self._journal is None:
            self.engine.journal.close()
        self._streams = {}
        self.engine = self._build()

    def close(self) -> None:
        """Let go of the journal."""
        self.engine.journal.close()

    @property
    def moment(self) -> Moment:
        """Where the run stands, read from the journal."""
        return Progress(self.engine.journal, self.clock).now()

    @property
    def ref(self) -> RoundRef:
        """The attempt in force."""
        return self.moment.state.ref(self.manifest.run)

    def connect(self, *sites: str) -> None:
        """Open the streams of these sites, or of all."""
        for site in sites or self.manifest.roster:
            self._streams[SiteId(site)] = self.engine.service.subscribe(SiteId(site), lambda: None)

    def leave(self, site: str) -> None:
        """Close a site's stream."""
        self._streams.pop(SiteId(site)).close()

    def stream(self, site: str) -> Subscription:
        """A site's open stream."""
        return self._streams[SiteId(site)]

    def settle(self) -> PhaseName:
        """Step until the phase in force waits for something; gives that phase."""
        while self.engine.driver.step() == 0.0:
            pass
        return self.moment.state.phase

    def header(self, words: bytes, ref: RoundRef | None = None) -> UpdateHeader:
        """The header of an update from the model in force."""
        return UpdateHeader(ref or self.ref, sha256_hex([words]), len(words), self.moment.state.model)

    def send(self, site: str, words: bytes | None = None, header: UpdateHeader | None = None) -> UpdateState:
        """Deliver a site's update, as a link does."""
        words = toy_words(site, self.ref, self.manifest) if words is None else words
        header = header or self.header(words)
        service, who = self.engine.service, SiteId(site)
        state = service.offer_update(who, header)
        if isinstance(state, Receipt):
            return state
        for start in range(state.bytes_stored, len(words), CHUNK_BYTES):
            service.append_update(who, header, start, words[start : start + CHUNK_BYTES])
        return service.finish_update(who, header, resumed=state.bytes_stored > 0)

    def score(self, site: str, dice: float = 0.5) -> None:
        """Report a site's scores of the model in force."""
        scores = Scores(self.ref, self.moment.state.model, 4, 5, dice, dice / 2, float("nan"))
        self.engine.service.report_scores(SiteId(site), scores)

    def score_candidate(self, site: str, dice: float = 0.5) -> None:
        """Report a site's scores of the model that the gate looks at, as the directive asks for them."""
        match directive_for(self.manifest, self.moment, SiteId(site)):
            case Evaluate(ref, model):
                scores = Scores(ref, model.digest, 4, 5, dice, dice / 2, float("nan"))
                self.engine.service.report_scores(SiteId(site), scores)
            case _:
                raise AssertionError("the site is not asked to score a candidate")

    def play(self, sites: Iterable[str] | None = None) -> None:
        """Let these sites, or all, take part until the run is over or waits for somebody else."""
        chosen = list(sites or self.manifest.roster)
        while True:
            phase, before = self.settle(), self.moment
            for site in chosen:
                if phase is PhaseName.COLLECT and site not in before.delivered:
                    self.score(site)
                    state = self.send(site)
                    if isinstance(state, Offset):
                        raise AssertionError("an in-process upload was not accepted")
                if phase is PhaseName.GATE and site not in before.scored:
                    self.score_candidate(site)
                if phase is PhaseName.EVALUATE and site not in before.scored:
                    self.score(site)
            if self.settle() is phase and self.moment.state == before.state:
                return

    def _build(self) -> Engine:
        journal = self._journal or SqliteJournal(self.state / JOURNAL_FILE, self.clock)
        parts = EngineParts(self.state, journal, self.clock, self._limits, self.events.append, self._notary, entropy=self._entropy)
        return build_engine(self.manifest, self.model_folder, parts)

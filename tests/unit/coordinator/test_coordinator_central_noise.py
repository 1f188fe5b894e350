"""Central DP-FedAvg in a run: noise is drawn once an attempt, is on disk before it is used, and is forgotten with the round."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from coordinator.app import MODELS_FOLDER
from coordinator.state import PhaseName
from coordinator.store.models import ModelStore
from coordinator.testing import ToyFederation
from fedmentor.cli import run
from fedmentor.models import load_model, load_record
from fedmentor.privacy.central import plan_central_privacy
from fedmentor.robust import NormClipping, RobustPlan
from fedmentor.tensors import flatten, spec_of

PLAN = plan_central_privacy((8.0, 1e-3), 0.5, 2)


def counted():
    """Entropy that never gives the same bytes twice, like the real one, and the same ones in every test, unlike it."""
    numbers = itertools.count()
    return lambda size: next(numbers).to_bytes(2, "big") * (size // 2)


class Crash(Exception):
    """The process is gone."""


def toys(folder, **manifest):
    federation = ToyFederation(folder, entropy=counted(), central_privacy=PLAN, **manifest)
    federation.connect()
    return federation


def deliver(federation):
    federation.settle()
    for site in federation.manifest.roster:
        federation.send(site)


def models(federation):
    return {path.name for path in (federation.state / MODELS_FOLDER).iterdir()}


def seeds(federation):
    return federation.engine.journal.run_tx("read", lambda tx: tx.noise_seed(tx.state().round, tx.state().attempt))


@pytest.fixture
def crash_after(monkeypatch):
    """Make the next write of a model die once it is on disk, before the journal knows."""

    def arm():
        write = ModelStore.write

        def dying(self, *arguments, **options):
            write(self, *arguments, **options)
            monkeypatch.setattr(ModelStore, "write", write)
            raise Crash

        monkeypatch.setattr(ModelStore, "write", dying)

    return arm


def test_a_model_says_what_it_tells_about_a_site(tmp_path):
    federation = toys(tmp_path)
    federation.play()
    for number, entry in enumerate(federation.engine.report().rounds[:2], start=1):
        privacy = load_record(federation.state / MODELS_FOLDER / entry.published).privacy
        assert (privacy.unit, privacy.delta) == ("site", 1e-3)
        assert privacy.epsilon == pytest.approx(PLAN.epsilon_after(number))
    report = federation.engine.report()
    assert report.privacy.epsilon == pytest.approx(PLAN.epsilon_after(2))
    assert report.privacy.epsilon <= PLAN.epsilon * (1 + 1e-9)
    assert report.privacy.unit == "site"
    federation.close()


def test_the_noise_of_two_rounds_differs_and_no_seed_is_left(tmp_path):
    federation = toys(tmp_path)
    federation.play()
    assert seeds(federation) is None
    records = federation.engine.journal.run_tx("read", lambda tx: tx.audit_records())
    assert [json.loads(record.fields)["round"] for record in records if record.event == "draw_noise"] == [0, 1]
    federation.close()


def test_the_noise_is_as_large_as_planned(tmp_path):
    federation = toys(tmp_path)
    deliver(federation)
    base = flatten(tensors := load_model(federation.model_folder)[0], spec_of(tensors))
    assert federation.settle() is PhaseName.COLLECT
    after = load_model(federation.state / MODELS_FOLDER / federation.moment.state.model)[0]
    change = flatten(after, spec_of(after)) - base
    # Three sites of norm at most C over three; the noise is far larger and decides.
    expected = PLAN.noise_multiplier * PLAN.clip_norm / 3
    assert np.std(change) == pytest.approx(expected, rel=0.5)
    federation.close()


def test_a_crash_between_the_model_and_the_journal_publishes_the_same_noise(tmp_path, crash_after):
    federation = toys(tmp_path)
    deliver(federation)
    crash_after()
    with pytest.raises(Crash):
        federation.settle()
    written = models(federation) - {federation.manifest.initial_model}
    assert len(written) == 1
    federation.reopen()
    federation.connect()
    federation.settle()
    assert {federation.moment.state.model} == written, "the sum has one noisy version"
    assert models(federation) == written | {federation.manifest.initial_model}
    federation.close()


def test_a_crash_and_a_damaged_update_leave_one_noisy_version_of_a_sum(tmp_path, crash_after):
    federation = toys(tmp_path)
    deliver(federation)
    crash_after()
    with pytest.raises(Crash):
        federation.settle()
    (orphan,) = models(federation) - {federation.manifest.initial_model}
    (words,) = (federation.state / "spool" / "a").glob("*.words")
    words.write_bytes(bytes(words.stat().st_size))
    federation.reopen()
    federation.connect()
    assert federation.settle() is PhaseName.COLLECT
    assert federation.moment.state.attempt == 2
    deliver(federation)
    federation.settle()
    assert federation.moment.state.model != orphan, "another attempt draws other noise"
    assert orphan not in models(federation)
    federation.close()


def test_clipping_at_a_fixed_norm_goes_with_it_and_keeps_its_noise(tmp_path):
    plan = RobustPlan(rule=NormClipping(norm=0.1), set_aside_after=1)
    federation = toys(tmp_path, robust=plan)
    federation.play()
    report = federation.engine.report()
    assert report.outcome == "completed"
    assert all(sum(entry.weights.values()) == pytest.approx(1.0) for entry in report.rounds[:2])
    federation.close()


def test_status_says_what_was_spent_on_each_site(tmp_path, capsys):
    federation = toys(tmp_path)
    deliver(federation)
    federation.settle()
    assert run(["coordinator", "status", "--state", str(federation.state)]) == 0
    assert f"epsilon {PLAN.epsilon_after(1):.2f} at delta 0.001 for each site so far" in capsys.readouterr().out
    federation.close()

"""A private run at the coordinator: no scores are waited for, and every model says what it cost."""

from pathlib import Path

from coordinator.state import PhaseName
from coordinator.testing import ToyFederation
from fedmentor.federation import Outcome
from fedmentor.models import load_record
from fedmentor.privacy.plan import PrivacyPlan

PLAN = PrivacyPlan(epsilon=9, delta=1e-5, noise_multiplier=1.2, sampling_rate=0.2, rounds=2, steps_per_round=10)


def played(folder: Path, plan: PrivacyPlan) -> ToyFederation:
    """Two rounds, in which nobody reports a score."""
    federation = ToyFederation(folder, privacy=plan)
    federation.connect()
    for _ in range(federation.manifest.rounds):
        federation.settle()
        for site in federation.manifest.roster:
            federation.send(site)
    federation.settle()
    return federation


def test_scores_that_nobody_sends_are_not_waited_for(tmp_path: Path):
    federation = played(tmp_path, PLAN)
    assert federation.moment.state.phase is PhaseName.SHUTDOWN
    assert federation.moment.state.outcome is Outcome.COMPLETED
    federation.close()


def test_scores_that_the_plan_allows_are_waited_for(tmp_path: Path):
    federation = played(tmp_path, PLAN.model_copy(update={"report_scores": True}))
    assert federation.moment.state.phase is PhaseName.EVALUATE
    federation.close()


def test_every_model_says_what_it_cost(tmp_path: Path):
    federation = played(tmp_path, PLAN)
    records = [load_record(path.parent) for path in (federation.state / "models").glob("*/model.json")]
    claims = {record.round: record.privacy for record in records}
    assert claims == {rounds: federation.manifest.privacy_spent(rounds) if rounds else None for rounds in claims}
    assert claims[1].epsilon < claims[2].epsilon <= PLAN.epsilon
    federation.close()

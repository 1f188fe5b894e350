"""DP-SGD: the ten pitfalls, one or more tests each, and six planted bugs that an auditor must find."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_auditor import (
    PATIENTS,
    RATE,
    STEPS,
    Recorder,
    TinyNet,
    depends_on_neighbours,
    entropy,
    findings,
    is_poisson,
    plan,
    published,
    tiny_data,
)
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.utils.data import Sampler

import fed_node.dp as module
from fed_node.dp import (
    DEFAULT_PARTS,
    Parts,
    Patients,
    PoissonSampler,
    PrivateTraining,
    SecureOptimizer,
    StepMeter,
    check_layers,
    per_sample_gradients,
    train_privately,
)
from fed_node.student.losses import segmentation_loss
from fed_node.student.sm_lite import SPEC, new_student, student_tensors
from fedmentor.errors import BudgetExhausted, EmptyDataset, ModelError
from fedmentor.federation import TrainingPlan
from fedmentor.privacy.noise import KeyStream
from fedmentor.tensors import flatten

SLOW = TrainingPlan(batch_images=4, augment=False)


def how(noise: float = 1.0, steps: int = STEPS, rate: float = RATE, seed: int = 0, **changes) -> PrivateTraining:
    return replace(PrivateTraining(SLOW, plan(noise, steps, rate), lambda: False, entropy(seed)), **changes)


# 1: noise that cannot be predicted, and is as large as it says


def test_training_adds_noise_of_the_promised_size():
    values = published(DEFAULT_PARTS, noise=4.0)
    assert values.shape == (STEPS, sum(parameter.numel() for parameter in TinyNet().parameters()))
    assert values.std() == pytest.approx(4.0, rel=0.05)
    assert abs(np.corrcoef(values[0], values[1])[0, 1]) < 0.15, "each step has noise of its own"


def test_two_trainings_never_give_the_same_bytes():
    models = [TinyNet(), TinyNet()]
    for model in models:
        train_privately(model, tiny_data(), PrivateTraining(SLOW, plan(1.0), lambda: False))
    assert not torch.equal(*(next(model.parameters()) for model in models))


def test_everything_random_comes_from_the_entropy_that_is_given():
    one, same, other = (published(DEFAULT_PARTS, 1.0, seed=seed) for seed in (3, 3, 4))
    torch.manual_seed(99)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


# 2: nothing of Opacus' own checkpoints; 3: no calibration while training


def test_no_checkpoint_of_opacus_and_no_engine_of_its_own_is_used():
    names = {node.attr for node in ast.walk(ast.parse(Path(module.__file__).read_text())) if isinstance(node, ast.Attribute)}
    assert not names & {
        "load_checkpoint",
        "save_checkpoint",
        "make_private",
        "make_private_with_epsilon",
        "load",
        "manual_seed_all",
    }
    assert not hasattr(module, "PrivacyEngine")


# 4: one accountant step a logical batch, before the model changes, and none beyond the reserve


@pytest.mark.parametrize("physical", [1, 3, 100])
def test_a_logical_batch_is_one_accountant_step_whatever_the_physical_batch(physical: int):
    report = train_privately(TinyNet(), tiny_data(), how(plan=SLOW.model_copy(update={"batch_images": physical})))
    assert report is not None
    assert report.steps == STEPS
    assert report.drawn > physical or physical == 100


def test_the_physical_batch_changes_nothing_that_is_published():
    found = []
    for physical in (1, 4, 100):
        recorders = []
        parts = Parts(optimiser=lambda model, _plan, keep=recorders: keep.append(Recorder(model)) or keep[-1])
        train_privately(TinyNet(), tiny_data(), how(plan=SLOW.model_copy(update={"batch_images": physical}), parts=parts))
        found.append(np.stack(recorders[0].seen))
    assert np.allclose(found[0], found[1], atol=1e-6)
    assert np.allclose(found[0], found[2], atol=1e-6)


class Insatiable(PoissonSampler):
    """Draws once more than it should."""

    def __init__(self, count: int, rate: float, steps: int, stream: KeyStream) -> None:
        super().__init__(count, rate, steps + 1, stream)


def test_training_stops_hard_at_the_reserve_and_the_model_with_it():
    model, recorders = TinyNet(), []
    parts = Parts(sampler=Insatiable, optimiser=lambda net, _plan: recorders.append(Recorder(net)) or recorders[-1])
    with pytest.raises(BudgetExhausted, match=f"more than the {STEPS} steps"):
        train_privately(model, tiny_data(), how(parts=parts))
    assert len(recorders[0].seen) == STEPS, "the step too many never reached the model"


class Lazy(PoissonSampler):
    """Draws once less."""

    def __init__(self, count: int, rate: float, steps: int, stream: KeyStream) -> None:
        super().__init__(count, rate, steps - 1, stream)


def test_steps_that_do_not_add_up_are_a_bug_and_nothing_comes_out():
    with pytest.raises(RuntimeError, match="the accountant saw"):
        train_privately(TinyNet(), tiny_data(), how(parts=Parts(sampler=Lazy)))


def test_the_meter_counts_what_opacus_would():
    meter, reference = StepMeter(plan(1.3, 5).one_round), RDPAccountant()
    optimiser = type("Stub", (), {"noise_multiplier": 1.3, "accumulated_iterations": 1})()
    for _ in range(5):
        meter(optimiser)
        reference.step(noise_multiplier=1.3, sample_rate=RATE)
    assert meter.steps == 5
    assert reference.history == [(1.3, RATE, 5)]
    meter.check(5)


# 5: Poisson sampling, always


def test_sampling_is_poisson():
    assert is_poisson(DEFAULT_PARTS)


def test_a_rate_of_one_takes_everybody():
    assert list(PoissonSampler(5, 1.0, 2, KeyStream(bytes(32)))) == [[0, 1, 2, 3, 4]] * 2


# 6: nothing couples samples


def test_a_sample_s_gradient_is_its_own():
    assert not depends_on_neighbours(DEFAULT_PARTS)


def test_gradients_are_those_that_opacus_hooks_find():
    data, mine = tiny_data(4), TinyNet()
    images, targets = data.batch(torch.arange(4))
    losses = per_sample_gradients(mine, images, targets)
    hooked = GradSampleModule(TinyNet(), loss_reduction="sum")
    theirs = segmentation_loss(hooked(images.requires_grad_()), targets.masks)
    theirs.sum().backward()
    assert torch.allclose(losses, theirs.detach(), atol=1e-6)
    for one, other in zip(mine.parameters(), hooked.parameters(), strict=True):
        assert torch.allclose(one.grad_sample, other.grad_sample, atol=1e-5)


def test_sm_lite_is_trained_and_a_layer_that_mixes_samples_is_refused():
    check_layers(new_student(0))
    with pytest.raises(ModelError, match="cannot be trained privately"):
        train_privately(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)), tiny_data(), how())


# 7: clipping is fixed


def test_no_gradient_weighs_more_than_the_clip():
    assert np.linalg.norm(published(DEFAULT_PARTS, noise=0.1, gain=1e4), axis=1).max() < PATIENTS + 8


def test_one_patient_more_changes_the_sum_by_the_clip_at_most():
    data = tiny_data()
    without = data.subset(torch.arange(1, PATIENTS))
    sums = []
    for known in (data, without):
        model = TinyNet(gain=1e4)
        images, targets = known.batch(torch.arange(len(known)))
        per_sample_gradients(model, images, targets)
        optimiser = SecureOptimizer(Recorder(model), plan(1.0), 1.0, KeyStream(bytes(32)))
        optimiser.clip_and_accumulate()
        sums.append(torch.cat([parameter.summed_grad.flatten() for parameter in model.parameters()]))
    assert 0.5 < float(torch.linalg.norm(sums[0] - sums[1])) <= 1.0 + 1e-5


# 8: an empty batch is a step like any other


def test_an_empty_batch_is_noised_and_counted():
    recorders = []
    parts = Parts(optimiser=lambda model, _plan: recorders.append(Recorder(model)) or recorders[-1])
    report = train_privately(TinyNet(), tiny_data(), how(noise=2.0, rate=1e-9, parts=parts))
    assert report is not None
    assert (report.steps, report.drawn, report.empty) == (STEPS, 0, STEPS)
    assert math.isnan(report.loss)
    values = np.stack(recorders[0].seen) * 1e-9 * PATIENTS
    assert values.std() == pytest.approx(2.0, rel=0.05)


def test_the_denominator_is_the_expected_batch_whatever_was_drawn():
    optimiser = SecureOptimizer(Recorder(TinyNet()), plan(1.0), RATE * PATIENTS, KeyStream(bytes(32)))
    assert optimiser.expected_batch_size == RATE * PATIENTS
    assert optimiser.loss_reduction == "mean"


# 9: the unit is the patient


def test_a_patient_is_one_item_with_a_random_image():
    data = tiny_data(patients=4, images_each=5)
    patients = Patients(data.patient_ids, KeyStream(bytes(32)))
    assert len(patients) == 4
    drawn = [patients[2] for _ in range(200)]
    assert {data.patient_ids[position] for position in drawn} == {"patient-2"}
    assert len(set(drawn)) == 5
    report = train_privately(TinyNet(), data, how(rate=1.0))
    assert report is not None
    assert report.drawn == 4 * STEPS, "twenty images, four patients a step"


# 10: physical batches by Opacus' BatchMemoryManager over our own gradients; a whole round of SM-lite


def test_sm_lite_learns_under_noise():
    student = new_student(0)
    before = flatten(student_tensors(student), SPEC)
    report = train_privately(
        student, tiny_data(4, side=64), how(steps=3, rate=0.5, plan=TrainingPlan(batch_images=2, augment=True))
    )
    assert report is not None
    after = flatten(student_tensors(student), SPEC)
    assert np.isfinite(after).all()
    assert np.linalg.norm(after - before) > 0


# Edges


def test_training_that_is_stopped_gives_nothing():
    answers = iter([False, False, True])
    assert train_privately(TinyNet(), tiny_data(), how(should_stop=lambda: next(answers))) is None


def test_a_model_that_was_just_evaluated_is_trained_like_any_other():
    model = TinyNet().eval()
    assert train_privately(model, tiny_data(), how()) is not None
    assert model.training


def test_no_image_to_learn_from_is_refused():
    with pytest.raises(EmptyDataset):
        train_privately(TinyNet(), replace(tiny_data(), has_mask=torch.zeros(PATIENTS, dtype=torch.bool)), how())


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ModelError, match="finite"):
        train_privately(TinyNet(gain=math.nan), tiny_data(), how())


# Six planted bugs; the sixth, a lost ledger, is in test_fed_node_privacy.py and the ledger's contract


class NoNoise(SecureOptimizer):
    """Forgets the noise."""

    def add_noise(self) -> None:
        """See SecureOptimizer."""
        for parameter in self.params:
            parameter.grad = parameter.summed_grad


class HalfNoise(SecureOptimizer):
    """Half the noise."""

    def add_noise(self) -> None:
        """See SecureOptimizer."""
        self.noise_multiplier /= 2
        super().add_noise()
        self.noise_multiplier *= 2


class NoClip(SecureOptimizer):
    """Sums gradients as they are."""

    def clip_and_accumulate(self) -> None:
        """See DPOptimizer."""
        true_norm, self.max_grad_norm = self.max_grad_norm, 1e12
        super().clip_and_accumulate()
        self.max_grad_norm = true_norm


def batch_loss(model, images, targets):
    """The mean over the batch, as in ordinary training."""
    losses = per_sample_gradients(model, images, targets)
    for parameter in model.parameters():
        parameter.grad_sample /= max(1, len(images))
    return losses


class Shuffle(Sampler):
    """Batches of one size from a shuffled list."""

    def __init__(self, count: int, rate: float, steps: int, stream: KeyStream) -> None:
        self._numbers = count, round(rate * count), steps, stream

    def __iter__(self):
        count, size, steps, stream = self._numbers
        pile: list[int] = []
        for _ in range(steps):
            if len(pile) < size:
                pile += np.argsort(stream.uniform(count)).tolist()
            batch, pile = pile[:size], pile[size:]
            yield batch


PLANTED = {
    "no noise": (Parts(private=NoNoise), "no noise"),
    "half noise": (Parts(private=HalfNoise), "other noise than was promised"),
    "no clip": (Parts(private=NoClip), "no clip"),
    "batch loss": (Parts(gradients=batch_loss), "a patient's gradient depends on who else was drawn"),
    "shuffle as Poisson": (Parts(sampler=Shuffle), "no Poisson sampling"),
}


def test_the_auditor_finds_nothing_wrong_with_the_real_parts():
    assert findings(DEFAULT_PARTS) == set()


@pytest.mark.parametrize(("parts", "finding"), PLANTED.values(), ids=PLANTED.keys())
def test_the_auditor_finds_a_planted_bug(parts: Parts, finding: str):
    assert finding in findings(parts)


def test_the_auditor_needs_no_inside_knowledge():
    assert issubclass(SecureOptimizer, DPOptimizer)
    plain = Parts(
        private=lambda optimiser, privacy, expected, _stream: DPOptimizer(
            optimiser, noise_multiplier=privacy.noise_multiplier, max_grad_norm=privacy.clip_norm, expected_batch_size=expected
        )
    )
    assert findings(plain) == set(), "Opacus' own noise has the promised size too; it is only predictable"

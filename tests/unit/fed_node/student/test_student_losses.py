"""The losses, by hand on arrays of four pixels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fed_node.student.losses import Objective, Targets, distillation_loss, segmentation_loss, student_loss
from fedmentor.errors import ConfigError


def plane(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 2, 2)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


LOGITS = (2.0, -1.0, 0.5, -3.0)
MASK = (1.0, 0.0, 1.0, 0.0)
SOFT = (3.0, -2.0, -0.5, -4.0)


def segmentation_by_hand() -> float:
    p = [sigmoid(z) for z in LOGITS]
    dice = 1 - (2 * (p[0] + p[2]) + 1e-5) / (sum(p) + 2 + 1e-5)
    entropy = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(p[2]) + math.log(1 - p[3])) / 4
    return dice + entropy


def divergence_by_hand(temperature: float) -> float:
    total = 0.0
    for z, t in zip(LOGITS, SOFT, strict=True):
        p, q = sigmoid(z / temperature), sigmoid(t / temperature)
        total += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    return temperature**2 * total / 4


def test_segmentation_is_dice_plus_cross_entropy():
    assert segmentation_loss(plane(*LOGITS), plane(*MASK)).tolist() == pytest.approx([segmentation_by_hand()], rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_is_hintons_divergence(temperature):
    loss = distillation_loss(plane(*LOGITS), plane(*SOFT), temperature, soft_dice=False)
    assert loss.tolist() == pytest.approx([divergence_by_hand(temperature)], rel=1e-4)


def test_the_soft_dice_term_is_dice_on_probabilities():
    logits, soft = plane(*LOGITS), plane(*SOFT)
    extra = distillation_loss(logits, soft, 2.0, soft_dice=True) - distillation_loss(logits, soft, 2.0, soft_dice=False)
    p, q = [sigmoid(z) for z in LOGITS], [sigmoid(t) for t in SOFT]
    # |p| + |q| - |p - q| is twice the shared mass: min(p, q) summed.
    shared = sum(min(a, b) for a, b in zip(p, q, strict=True))
    assert extra.tolist() == pytest.approx([1 - 2 * shared / (sum(p) + sum(q))], rel=1e-4)


@given(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), st.floats(0.5, 10))
def test_agreement_costs_nothing_and_pulls_nowhere(values, temperature):
    logits = plane(*values).requires_grad_()
    loss = distillation_loss(logits, plane(*values), temperature, soft_dice=False)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert logits.grad.abs().max().item() == pytest.approx(0, abs=1e-5)


def test_the_gradient_of_distillation_is_t_times_the_difference_of_probabilities():
    logits = plane(*LOGITS).requires_grad_()
    distillation_loss(logits, plane(*SOFT), 4.0, soft_dice=False).sum().backward()
    expected = [4.0 * (sigmoid(z / 4) - sigmoid(t / 4)) / 4 for z, t in zip(LOGITS, SOFT, strict=True)]
    assert logits.grad.flatten().tolist() == pytest.approx(expected, rel=1e-4)


def test_the_total_weighs_both_where_a_sample_has_both():
    targets = Targets(plane(*MASK), torch.tensor([True]), plane(*SOFT))
    loss = student_loss(plane(*LOGITS), targets, Objective(alpha=0.25, temperature=2.0, soft_dice=False))
    assert loss.tolist() == pytest.approx([0.25 * divergence_by_hand(2.0) + 0.75 * segmentation_by_hand()], rel=1e-4)


def test_without_a_mask_distillation_counts_fully_and_the_mask_plane_pulls_nowhere():
    soft = plane(*SOFT).repeat(2, 1, 1, 1)
    has_mask = torch.tensor([True, False])
    gradients = []
    for unused in (0.0, 1.0):
        masks = torch.cat([plane(*MASK), torch.full((1, 1, 2, 2), unused)])
        logits = plane(*LOGITS).repeat(2, 1, 1, 1).requires_grad_()
        loss = student_loss(logits, Targets(masks, has_mask, soft), Objective(0.5, 2.0, soft_dice=False))
        loss.sum().backward()
        assert loss[1].item() == pytest.approx(divergence_by_hand(2.0), rel=1e-4)
        gradients.append(logits.grad[1])
    alone = plane(*LOGITS).requires_grad_()
    distillation_loss(alone, plane(*SOFT), 2.0, soft_dice=False).sum().backward()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.allclose(gradients[0], alone.grad[0])


def test_without_soft_labels_only_masks_count():
    masks = torch.cat([plane(*MASK), plane(0, 0, 0, 0)])
    loss = student_loss(plane(*LOGITS).repeat(2, 1, 1, 1), Targets(masks, torch.tensor([True, False])), Objective())
    assert loss.tolist() == pytest.approx([segmentation_by_hand(), 0.0], rel=1e-5)


@given(st.integers(0, 2**16))
def test_a_samples_loss_does_not_depend_on_its_batch(seed):
    random = torch.Generator().manual_seed(seed)
    logits, soft, other = (torch.randn(3, 1, 4, 4, generator=random) * 4 for _ in range(3))
    masks = (torch.rand(3, 1, 4, 4, generator=random) > 0.5).float()
    has_mask = torch.tensor([True, False, True])
    objective = Objective()
    changed = torch.cat([logits[:1], other[1:]])
    first = student_loss(logits, Targets(masks, has_mask, soft), objective)
    second = student_loss(changed, Targets(torch.cat([masks[:1], 1 - masks[1:]]), ~has_mask | has_mask[0], soft), objective)
    assert first.shape == (3,)
    assert first[0].item() == pytest.approx(second[0].item(), rel=1e-6)


def test_an_empty_mask_and_extreme_logits_stay_finite():
    for value in (-1e4, 0.0, 1e4):
        logits = torch.full((1, 1, 2, 2), value).requires_grad_()
        targets = Targets(torch.zeros(1, 1, 2, 2), torch.tensor([True]), torch.full((1, 1, 2, 2), -value))
        loss = student_loss(logits, targets, Objective())
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("bad", [{"alpha": -0.1}, {"alpha": 1.1}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_an_objective_out_of_range_is_refused(bad):
    with pytest.raises(ConfigError):
        Objective(**bad)

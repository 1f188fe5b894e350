"""Augmentation: image, mask and soft label move together, and a seed decides everything."""

import pytest
import torch
from student_phantoms import ellipses

from fed_node.student.augment import Augmentation, augment
from fed_node.student.losses import Targets

STILL = Augmentation(rotation_degrees=0, shift=0, scale=0, gamma_octaves=0, contrast=0, noise=0)
MOVES = Augmentation(rotation_degrees=20, shift=0.1, scale=0.2, gamma_octaves=0, contrast=0, noise=0)


def batch(count: int = 6) -> tuple[torch.Tensor, Targets]:
    images, masks = ellipses(count)
    return images, Targets(masks.float(), torch.ones(count, dtype=torch.bool), masks.float() * 12 - 6)


def changed(how: Augmentation, seed: int = 0) -> tuple[torch.Tensor, Targets]:
    images, targets = batch()
    return augment(images, targets, how, torch.Generator().manual_seed(seed))


def test_no_change_is_no_change():
    images, targets = batch()
    same, same_targets = changed(STILL)
    assert torch.allclose(same, images, atol=1e-5)
    assert torch.equal(same_targets.masks, targets.masks)
    assert torch.allclose(same_targets.soft, targets.soft, atol=1e-3)


def test_the_same_seed_makes_the_same_change_and_another_another():
    first, second, third = changed(Augmentation()), changed(Augmentation()), changed(Augmentation(), seed=1)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1].soft, second[1].soft)
    assert not torch.equal(first[0], third[0])


def test_image_mask_and_soft_label_move_together():
    _, masks = ellipses(6)
    images = masks.float()
    moved, targets = augment(
        images, Targets(masks.float(), torch.ones(6, dtype=torch.bool), images * 12 - 6), MOVES, torch.Generator().manual_seed(3)
    )
    assert not torch.equal(targets.masks, masks.float())
    assert torch.equal((moved >= 0.5).float(), targets.masks)
    assert torch.allclose(targets.soft, moved * 12 - 6, atol=1e-4)


def test_samples_are_changed_differently():
    images, targets = batch()
    images = images[:1].repeat(2, 1, 1, 1)
    moved, _ = augment(images, Targets(images.round(), targets.has_mask[:2], images), MOVES, torch.Generator().manual_seed(0))
    assert not torch.equal(moved[0], moved[1])


def test_values_stay_in_range_and_the_input_is_left_alone():
    images, targets = batch()
    before = images.clone()
    moved, new = augment(images, targets, Augmentation(noise=0.5, contrast=0.9), torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert 0 <= moved.min() <= moved.max() <= 1
    assert set(new.masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(new.has_mask, targets.has_mask)


def test_a_picture_is_not_mirrored():
    # A bright left half stays bright on the left whatever is drawn.
    images = torch.zeros(32, 1, 64, 64)
    images[..., :32] = 1
    moved, _ = augment(images, Targets(images, torch.ones(32, dtype=torch.bool)), Augmentation(), torch.Generator().manual_seed(0))
    assert (moved[..., :20].mean((1, 2, 3)) > moved[..., -20:].mean((1, 2, 3))).all()


@pytest.mark.parametrize(("how", "share"), [(Augmentation(0, 0.1, 0, 0, 0, 0), 0.1), (Augmentation(0, 0.25, 0, 0, 0, 0), 0.25)])
def test_a_shift_is_a_share_of_the_side(how, share):
    images = torch.zeros(64, 1, 64, 64)
    images[..., 32, 32] = 1
    moved, _ = augment(images, Targets(images, torch.ones(64, dtype=torch.bool)), how, torch.Generator().manual_seed(0))
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    mass = moved.sum((1, 2, 3))
    for axis in (rows, columns):
        distance = ((moved[:, 0] * axis).sum((1, 2)) / mass - 32).abs()
        assert share * 64 * 0.8 < distance.max() <= share * 64 + 0.1


def test_soft_labels_may_be_absent():
    images, targets = batch()
    moved, new = augment(images, Targets(targets.masks, targets.has_mask), MOVES, torch.Generator().manual_seed(0))
    assert new.soft is None
    with_soft, _ = augment(images, targets, MOVES, torch.Generator().manual_seed(0))
    assert torch.equal(moved, with_soft)

"""Losses, one value per sample: DP-SGD clips gradients sample by sample, and so a sample's loss may not look at its neighbours.

    segmentation = Dice + binary cross-entropy                                            (against a human mask)
    distillation = T^2 * KL(teacher_T || student_T) + Dice(teacher, student)              (against soft labels)
    total        = alpha * distillation + (1 - alpha) * segmentation   where a sample has both
                 = whichever one it has                                elsewhere

``p_T = sigmoid(logit / T)``; T^2 keeps the size of the gradient when T changes (Hinton, Vinyals & Dean 2015, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional

from fedmentor.errors import ConfigError


@dataclass(frozen=True)
class Objective:
    """What the student is pulled towards.

    Attributes:
        alpha: weight of distillation where a sample has both soft labels and a mask; in [0, 1].
        temperature: T above; over 0.
        soft_dice: whether the Dice term joins the distillation. It stops a small organ from being outvoted by the background.

    Raises:
        ConfigError: alpha or temperature out of range.
    """

    alpha: float = 0.7
    temperature: float = 2.0
    soft_dice: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha is {self.alpha}", cure="give a number from 0 (masks alone) to 1 (teacher alone)")
        if not 0 < self.temperature <= 100:
            raise ConfigError(f"temperature is {self.temperature}", cure="give a number above 0 and up to 100")


DEFAULT_OBJECTIVE = Objective()


@dataclass(frozen=True)
class Targets:
    """What a batch is compared with; a sample has a mask, soft labels or both.

    Attributes:
        masks: float32 [B, 1, H, W] of zeros and ones; all zero where has_mask is False.
        has_mask: bool [B].
        soft: float32 teacher logits [B, 1, H, W], or None where no sample of the batch has soft labels.
    """

    masks: Tensor
    has_mask: Tensor
    soft: Tensor | None = None


# smooth_nr 0 makes a wholly missed organ cost exactly 1; smooth_dr keeps an empty mask with an empty prediction finite.
_DICE = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1e-5, smooth_dr=1e-5)
# For probabilities as targets the usual product is minimal at a hard mask; the semimetric form is minimal at the target itself
# (Wang et al. 2023, "Jaccard Metric Losses: Optimizing the Jaccard Index with Soft Labels").
_SOFT_DICE = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1e-5, smooth_dr=1e-5, soft_label=True)


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice plus binary cross-entropy.

    Args:
        logits: float32 [B, 1, H, W].
        masks: float32 [B, 1, H, W] of zeros and ones.

    Returns:
        float32 [B].
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    return _per_sample(_DICE(logits, masks)) + _per_sample(cross_entropy)


def distillation_loss(logits: Tensor, soft: Tensor, temperature: float, *, soft_dice: bool) -> Tensor:
    """How far the student is from the teacher; zero where they agree.

    The Kullback-Leibler divergence of Bernoulli variables is the cross-entropy less the teacher's entropy; the gradient is that
    of the cross-entropy.

    Args:
        logits: the student's, float32 [B, 1, H, W].
        soft: the teacher's logits, float32 [B, 1, H, W].
        temperature: T.
        soft_dice: add the Dice term, at T = 1.

    Returns:
        float32 [B].
    """
    wanted = torch.sigmoid(soft / temperature)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits / temperature, wanted, reduction="none")
    entropy = functional.binary_cross_entropy_with_logits(soft / temperature, wanted, reduction="none")
    divergence = temperature**2 * _per_sample(cross_entropy - entropy)
    return divergence + _per_sample(_SOFT_DICE(logits, torch.sigmoid(soft))) if soft_dice else divergence


def student_loss(logits: Tensor, targets: Targets, objective: Objective) -> Tensor:
    """The total above.

    Args:
        logits: the student's, float32 [B, 1, H, W].
        targets: masks, soft labels, or both.
        objective: weights.

    Returns:
        float32 [B]; without soft labels it is zero for a sample without a mask.
    """
    weight = targets.has_mask.to(logits.dtype)
    if targets.soft is None:
        return weight * segmentation_loss(logits, targets.masks)
    distilled = distillation_loss(logits, targets.soft, objective.temperature, soft_dice=objective.soft_dice)
    if not bool(targets.has_mask.any()):
        return distilled
    alpha = 1 - weight * (1 - objective.alpha)
    return alpha * distilled + (1 - alpha) * segmentation_loss(logits, targets.masks)


def _per_sample(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)

"""Local training: the same code for distillation, for a site's round, and for a baseline on pooled data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fed_node.student.augment import DEFAULT_AUGMENTATION, Augmentation, augment
from fed_node.student.losses import DEFAULT_OBJECTIVE, Objective, Targets, student_loss
from fed_node.student.samples import StudentData
from fedmentor.errors import EmptyDataset, ModelError
from fedmentor.federation import TrainingPlan

Schedule = Literal["constant", "cosine"]

WARM_UP = 0.05
"""Share of the steps in which the cosine schedule climbs to the full rate; AdamW's second moments are noise before that."""

FLOOR = 0.01
"""Share of the learning rate that the cosine schedule ends on."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where training stands after a step; ``loss`` is that step's mean."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class TrainingReport:
    """What training did.

    Attributes:
        losses: mean loss of each epoch.
        steps: optimiser steps.
        images: images in the data.
        seconds: wall time.
    """

    losses: tuple[float, ...]
    steps: int
    images: int
    seconds: float = field(compare=False)


def _never() -> bool:
    return False


def _silent(_progress: TrainingProgress) -> None:
    pass


@dataclass(frozen=True)
class TrainingOptions:
    """What a federated round leaves at its defaults and a distillation sets.

    Attributes:
        objective: weights of the losses.
        schedule: ``constant``, or ``cosine`` with a short warm-up. A round of a few epochs is one point of a longer schedule, so
            it is constant there.
        augmentation: how much, where the plan asks for any.
        progress: told after every step, on the training thread.
        should_stop: asked before every step.
    """

    objective: Objective = DEFAULT_OBJECTIVE
    schedule: Schedule = "constant"
    augmentation: Augmentation = DEFAULT_AUGMENTATION
    progress: Callable[[TrainingProgress], None] = _silent
    should_stop: Callable[[], bool] = _never


DEFAULT_OPTIONS = TrainingOptions()


def train(
    model: nn.Module, data: StudentData, plan: TrainingPlan, seed: int, options: TrainingOptions = DEFAULT_OPTIONS
) -> TrainingReport | None:
    """Train a model in place with AdamW (Loshchilov & Hutter 2019).

    The same arguments give the same parameters on the same machine and thread count. ``plan.seed`` is not used: the caller
    derives ``seed`` from it, the site and the round (fed_node.trainer.local_seed).

    Args:
        model: changed in place.
        data: images with masks, soft labels or both.
        plan: epochs, batch, step size, augmentation.
        seed: shuffling and augmentation.
        options: what differs between a round and a distillation.

    Returns:
        None where ``options.should_stop`` said so; the model is half-trained then and must be dropped.

    Raises:
        EmptyDataset: no image has anything to learn from.
        ModelError: the loss is no longer a finite number.
    """
    if data.soft is None:
        data = data.with_masks()
    if not len(data):
        raise EmptyDataset("there is no image to learn from")
    started = time.perf_counter()
    steps = plan.local_epochs * math.ceil(len(data) / plan.batch_images)
    optimiser = torch.optim.AdamW(model.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)
    random = _generators(seed)
    losses: list[list[float]] = [[] for _ in range(plan.local_epochs)]
    model.train()
    for step, (epoch, index) in enumerate(_batches(len(data), plan, random.order)):
        if options.should_stop():
            return None
        _set_rate(optimiser, plan.learning_rate * rate_factor(options.schedule, step, steps))
        images, targets = data.batch(index)
        if plan.augment:
            images, targets = augment(images, targets, options.augmentation, random.change)
        loss = _step(model, optimiser, images, targets, options.objective)
        losses[epoch] += [loss] * len(index)
        options.progress(TrainingProgress(step + 1, steps, loss))
    means = tuple(math.fsum(values) / len(values) for values in losses)
    return TrainingReport(means, steps, len(data), time.perf_counter() - started)


@dataclass(frozen=True)
class _Random:
    """Two streams, so that switching augmentation off leaves the order of the images as it was."""

    order: torch.Generator
    change: torch.Generator


def _generators(seed: int) -> _Random:
    order, change = (int(word) for word in np.random.SeedSequence(seed).generate_state(2, np.uint64))
    return _Random(torch.Generator().manual_seed(order), torch.Generator().manual_seed(change))


def _batches(images: int, plan: TrainingPlan, generator: torch.Generator) -> Iterator[tuple[int, Tensor]]:
    for epoch in range(plan.local_epochs):
        for index in torch.split(torch.randperm(images, generator=generator), plan.batch_images):
            yield epoch, index


def rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """What the learning rate is multiplied by at ``step`` of ``steps``, counted from 0; in (0, 1]."""
    if schedule == "constant":
        return 1.0
    warm_up = max(1, round(WARM_UP * steps))
    falling = FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / warm_up) * falling


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, images: Tensor, targets: Targets, objective: Objective) -> float:
    """One step of the optimiser; the batch's mean loss before it."""
    loss = student_loss(model(images), targets, objective).mean()
    value = loss.item()
    if not math.isfinite(value):
        raise ModelError(
            "the loss is no longer a finite number", cure="lower the learning rate, or check the model it started from"
        )
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimiser.step()
    return value

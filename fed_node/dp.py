"""DP-SGD over the student (Abadi et al. 2016): the one file that imports Opacus.

::

    each of n patients is drawn with probability q (Poisson)       PoissonSampler, own key stream
    one random image of each drawn patient                          Patients
    gradient of that patient's loss alone, clipped to C             per_sample_gradients, Opacus' DPOptimizer
    sum + N(0, (sigma C)^2), over q n                               SecureOptimizer, own noise
    one accountant step, counted against the reserve                StepMeter
    AdamW on the result                                             post-processing: costs nothing

Per-sample gradients are taken one patient at a time. On a CPU that costs 1.1 times a plain batch, where Opacus' hooks cost 1.7
and its ghost clipping 2.3 times (benchmarks/dp.py): a 256 x 256 image fills the convolutions by itself. And it makes the guarantee
visible: a patient's gradient cannot depend on who else was drawn, because nobody else is there.

Everything random here is secret. A seed that the coordinator knows would tell it who was drawn, and the noise with it, so unlike
other training this one does not repeat.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from fed_node.student.augment import DEFAULT_AUGMENTATION, augment
from fed_node.student.losses import DEFAULT_OBJECTIVE, Targets, student_loss
from fed_node.student.samples import StudentData
from fedmentor.errors import BudgetExhausted, EmptyDataset, ModelError
from fedmentor.federation import TrainingPlan
from fedmentor.privacy.accounting import History, Segment, rdp_epsilon
from fedmentor.privacy.noise import KEY_BYTES, Entropy, KeyStream
from fedmentor.privacy.plan import PrivacyPlan

EPSILON_ERROR = 0.01
"""Width of the PRV accountant's bounds; the upper one is used."""

DELTA_ERROR_SHARE = 1e-3
MAX_PRV_POINTS = 1 << 23
"""Largest grid of the PRV accountant, 64 MB an array; beyond it Renyi accounting has to do."""


@dataclass(frozen=True)
class PrivateReport:
    """What a private training did.

    Attributes:
        steps: logical batches, each one accountant step.
        drawn: patients over all batches.
        empty: batches without a patient; they were noised and counted like others.
        loss: mean over the drawn patients, for this site's log only; NaN where nobody was drawn.
    """

    steps: int
    drawn: int
    empty: int
    loss: float


class Patients(Dataset[int]):
    """One item a patient: the position of a random one of the patient's images."""

    def __init__(self, patient_ids: Sequence[str], stream: KeyStream) -> None:
        images: dict[str, list[int]] = defaultdict(list)
        for position, patient in enumerate(patient_ids):
            images[patient].append(position)
        self._images = [images[patient] for patient in sorted(images)]
        self._stream = stream

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, patient: int) -> int:
        images = self._images[patient]
        return images[self._stream.below(len(images))]


class PoissonSampler(Sampler[list[int]]):
    """Each of ``count`` patients independently with probability ``rate``, ``steps`` times; a batch may be empty."""

    def __init__(self, count: int, rate: float, steps: int, stream: KeyStream) -> None:
        self._count, self._rate, self._steps, self._stream = count, rate, steps, stream

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self._steps):
            yield np.flatnonzero(self._stream.uniform(self._count) < self._rate).tolist()


class SecureOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
    """Opacus' clipping and bookkeeping with noise from a key stream, added in float64.

    Args:
        optimiser: what steps on the noised mean.
        privacy: sigma and C.
        expected_patients: q n, by which the noised sum is divided whatever was drawn.
        stream: noise.
    """

    def __init__(self, optimiser: torch.optim.Optimizer, privacy: PrivacyPlan, expected_patients: float, stream: KeyStream) -> None:
        super().__init__(
            optimiser,
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.clip_norm,
            expected_batch_size=expected_patients,
        )
        self._stream = stream

    def add_noise(self) -> None:
        """Noised sums into ``p.grad``; replaces Opacus' own noise."""
        for parameter in self.params:
            _check_processed_flag(parameter.summed_grad)
            noise = self._stream.gaussian(parameter.numel()) * (self.noise_multiplier * self.max_grad_norm)
            noised = parameter.summed_grad.double() + torch.from_numpy(noise).reshape(parameter.shape)
            parameter.grad = noised.to(parameter.dtype)
            _mark_as_processed(parameter.summed_grad)


class StepMeter:
    """Counts accountant steps and stops training hard at the reserve; runs after the noise and before the model changes."""

    def __init__(self, reserve: Segment) -> None:
        self._reserve = reserve
        self._accountant = RDPAccountant()

    def __call__(self, optimiser: Any) -> None:
        """Opacus' step hook.

        Raises:
            BudgetExhausted: a step beyond the reserve.
        """
        if self.steps >= self._reserve.steps:
            raise BudgetExhausted(f"training asked for more than the {self._reserve.steps} steps that were reserved")
        rate = self._reserve.sampling_rate * optimiser.accumulated_iterations
        self._accountant.step(noise_multiplier=optimiser.noise_multiplier, sample_rate=rate)

    @property
    def steps(self) -> int:
        """Counted so far."""
        return sum(count for _, _, count in self._accountant.history)

    def check(self, logical_batches: int) -> None:
        """What the accountant saw is what was reserved, once a logical batch.

        Raises:
            RuntimeError: it is not; a bug, after which nothing may leave.
        """
        reserved = (self._reserve.noise_multiplier, self._reserve.sampling_rate, logical_batches)
        if logical_batches and self._accountant.history != [reserved]:
            raise RuntimeError(f"the accountant saw {self._accountant.history}, trained were {[reserved]}")


def per_sample_gradients(model: nn.Module, images: Tensor, targets: Targets) -> Tensor:
    """Write ``p.grad_sample`` [B, ...] of every parameter, one sample at a time.

    Returns:
        Losses, float32 [B].
    """
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad_sample = parameter.new_empty((len(images), *parameter.shape))  # type: ignore[attr-defined]  # Opacus' attribute
    losses = []
    for index in range(len(images)):
        one = slice(index, index + 1)
        soft = None if targets.soft is None else targets.soft[one]
        loss = student_loss(model(images[one]), Targets(targets.masks[one], targets.has_mask[one], soft), DEFAULT_OBJECTIVE)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss.sum(), parameters), strict=True):
            parameter.grad_sample[index] = gradient  # type: ignore[attr-defined]  # Opacus' attribute
        losses.append(loss.detach())
    return torch.cat(losses) if losses else images.new_zeros(0)


@dataclass(frozen=True)
class Parts:
    """The parts that privacy hangs on; named so that a test can put a faulty one in and see it caught."""

    sampler: Callable[[int, float, int, KeyStream], Sampler[list[int]]] = PoissonSampler
    gradients: Callable[[nn.Module, Tensor, Targets], Tensor] = per_sample_gradients
    private: Callable[..., Any] = SecureOptimizer
    optimiser: Callable[[nn.Module, TrainingPlan], torch.optim.Optimizer] = field(
        default=lambda model, plan: torch.optim.AdamW(model.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)
    )


DEFAULT_PARTS = Parts()


@dataclass(frozen=True)
class PrivateTraining:
    """One round's private training.

    Attributes:
        plan: learning rate, decay, augmentation; ``batch_images`` is the physical batch, a matter of memory alone.
        privacy: noise, clip, sampling, steps.
        should_stop: asked before every physical batch.
        entropy: where keys come from.
        parts: see Parts.
    """

    plan: TrainingPlan
    privacy: PrivacyPlan
    should_stop: Callable[[], bool]
    entropy: Entropy = os.urandom
    parts: Parts = DEFAULT_PARTS


def train_privately(model: nn.Module, data: StudentData, how: PrivateTraining) -> PrivateReport | None:
    """Train a model in place for one round.

    Args:
        model: changed in place; no layer may mix samples.
        data: images with masks, soft labels or both.
        how: everything else.

    Returns:
        None where ``should_stop`` said so; the model must be dropped then, and what was reserved is void.

    Raises:
        EmptyDataset: no image has anything to learn from.
        ModelError: a layer mixes samples, or the loss is no longer a finite number.
        BudgetExhausted: more steps than reserved.
    """
    model.train()  # Opacus' validator asks for it
    check_layers(model)
    if data.soft is None:
        data = data.with_masks()
    if not len(data):
        raise EmptyDataset("there is no image to learn from")
    who, image, noise, change = (KeyStream(how.entropy(KEY_BYTES)) for _ in range(4))
    patients, privacy = Patients(data.patient_ids, image), how.privacy
    sampler = how.parts.sampler(len(patients), privacy.sampling_rate, privacy.steps_per_round, who)
    optimiser = how.parts.private(how.parts.optimiser(model, how.plan), privacy, privacy.sampling_rate * len(patients), noise)
    meter = StepMeter(privacy.one_round)
    optimiser.attach_step_hook(meter)
    loader = DataLoader(patients, batch_sampler=sampler, collate_fn=_positions)
    augmenting = torch.Generator().manual_seed(change.below(1 << 53))
    tally = _Tally()
    with BatchMemoryManager(data_loader=loader, max_physical_batch_size=how.plan.batch_images, optimizer=optimiser) as batches:
        for positions in batches:
            if how.should_stop():
                return None
            images, targets = data.batch(positions)
            if how.plan.augment and len(positions):
                images, targets = augment(images, targets, DEFAULT_AUGMENTATION, augmenting)
            losses = how.parts.gradients(model, images, targets)
            tally.add(losses, meter.steps)
            optimiser.step()
            optimiser.zero_grad()
    meter.check(privacy.steps_per_round)
    return tally.report(meter.steps)


class _Tally:
    """Losses and sizes over the batches."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._busy: set[int] = set()

    def add(self, losses: Tensor, step: int) -> None:
        values = losses.tolist()
        if not all(math.isfinite(value) for value in values):
            raise ModelError(
                "the loss is no longer a finite number", cure="lower the learning rate, or check the model it started from"
            )
        self._losses += values
        self._busy |= {step} if values else set()

    def report(self, steps: int) -> PrivateReport:
        mean = math.fsum(self._losses) / len(self._losses) if self._losses else math.nan
        return PrivateReport(steps, len(self._losses), steps - len(self._busy), mean)


def check_layers(model: nn.Module) -> None:
    """Refuse layers that mix samples or keep statistics of them, such as BatchNorm.

    Raises:
        ModelError: names the first one.
    """
    faults = ModuleValidator.validate(model, strict=False)
    if faults:
        raise ModelError(f"this model cannot be trained privately: {faults[0]}", cure="use GroupNorm, as SM-lite does")


def prv_epsilon(history: History, delta: float) -> float | None:
    """Upper bound on epsilon by privacy loss random variables (Gopi, Lee & Wutschitz 2021), through Opacus.

    Returns:
        None where the grid would be too large or the accountant gives up, as it does for some histories.
    """
    if _prv_points(history, delta) > MAX_PRV_POINTS:
        return None
    accountant = PRVAccountant()
    accountant.history = [(item.noise_multiplier, item.sampling_rate, item.steps) for item in history]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of orders and integrals at the edge of their range; a bad result is seen below
        try:
            value = float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR, delta_error=delta * DELTA_ERROR_SHARE))
        except (RuntimeError, ValueError, ArithmeticError, IndexError):
            return None
    return value if math.isfinite(value) and value >= 0 else None


def _prv_points(history: History, delta: float) -> float:
    """Size of the grid that Opacus would allocate (Gopi et al., remark 5.6)."""
    steps = sum(item.steps for item in history)
    error = delta * DELTA_ERROR_SHARE
    single = max(rdp_epsilon((Segment(item.noise_multiplier, item.sampling_rate, 1),), error / (8 * steps)) for item in history)
    reach = max(rdp_epsilon(history, error / 4), single) + 3
    return 2 * reach * math.sqrt(steps * math.log(12 / error) / 2) / EPSILON_ERROR


def _positions(items: list[int]) -> Tensor:
    return torch.tensor(items, dtype=torch.int64)

"""An auditor of DP-SGD: runs training with whatever parts it is given, looks at what a step would publish, names what is wrong.

It knows nothing of the code it audits but its parts: it measures. What would be published is the gradient that the innermost
optimiser is handed, times the expected batch: the clipped sum with its noise, in units of C = 1.

    no noise, half noise    deviation over coordinates and steps, against sigma C
    no clip                 norm of what is published when every patient's gradient is far over C and the noise small
    batch loss              gradient of one patient with one neighbour and with another
    shuffle-as-Poisson      spread of the batch sizes against the binomial distribution's
    lost ledger             tests/contract/test_ledger_contract_disk.py and test_fed_node_privacy.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from fed_node.dp import Parts, PrivateTraining, train_privately
from fed_node.student.losses import Targets
from fed_node.student.samples import StudentData
from fedmentor.federation import TrainingPlan
from fedmentor.privacy.noise import KeyStream
from fedmentor.privacy.plan import PrivacyPlan

PATIENTS, RATE, STEPS, SIDE = 12, 0.25, 12, 16
SIGMAS_OF_TOLERANCE = 5.0


class TinyNet(nn.Module):
    """One image in, one map of logits out; 1 153 parameters, GroupNorm as in SM-lite. ``gain`` blows the gradients up."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Conv2d(32, 1, 5, padding=2))
        self.gain = gain

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 1, H, W] to [B, 1, H, W]."""
        return self.gain * self.layers(images)


def tiny_data(patients: int = PATIENTS, images_each: int = 1, seed: int = 0, side: int = SIDE) -> StudentData:
    """Noise with a square on it."""
    random = np.random.default_rng(seed)
    count = patients * images_each
    masks = np.zeros((count, 1, side, side), bool)
    for mask in masks:
        top, left = random.integers(0, side // 2, 2)
        mask[0, top : top + 6, left : left + 6] = True
    images = (0.5 * masks + random.uniform(0, 0.5, masks.shape)).astype(np.float32)
    return StudentData(
        ids=tuple(f"image-{number}" for number in range(count)),
        patient_ids=tuple(f"patient-{number // images_each}" for number in range(count)),
        images=torch.tensor(images),
        masks=torch.tensor(masks),
        has_mask=torch.ones(count, dtype=torch.bool),
    )


class Recorder(torch.optim.Optimizer):
    """The innermost optimiser: keeps what it is handed, and changes nothing."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), {})
        self.seen: list[np.ndarray] = []

    def step(self, closure=None) -> None:
        """See torch."""
        del closure
        flat = [parameter.grad.flatten() for group in self.param_groups for parameter in group["params"]]
        self.seen.append(torch.cat(flat).double().numpy().copy())


def plan(noise: float, steps: int = STEPS, rate: float = RATE) -> PrivacyPlan:
    """Whatever it costs: nobody's data are in here."""
    cheap = PrivacyPlan(epsilon=100.0, delta=1e-5, noise_multiplier=100.0, sampling_rate=0.1, rounds=1, steps_per_round=1)
    return cheap.model_copy(update={"noise_multiplier": noise, "sampling_rate": rate, "steps_per_round": steps})


def entropy(seed: int):
    """Random bytes that repeat."""
    random = np.random.default_rng(seed)
    return random.bytes


def published(parts: Parts, noise: float, gain: float = 1.0, seed: int = 0) -> np.ndarray:
    """What each step would publish, float64 [STEPS, d], in units of C."""
    model, recorders = TinyNet(gain), []

    def optimiser(net: nn.Module, _plan: TrainingPlan) -> Recorder:
        recorders.append(Recorder(net))
        return recorders[-1]

    how = PrivateTraining(
        TrainingPlan(batch_images=4, augment=False), plan(noise), lambda: False, entropy(seed), replace(parts, optimiser=optimiser)
    )
    assert train_privately(model, tiny_data(), how) is not None
    return np.stack(recorders[0].seen) * RATE * PATIENTS


def findings(parts: Parts) -> set[str]:
    """What is wrong with these parts; empty where nothing is."""
    wrong = set()
    noisy = published(parts, noise=4.0)
    if not deviation_fits(noisy, 4.0):
        wrong.add("no noise" if noisy.std() < 1.0 else "other noise than was promised")
    # A batch of 12 adds at most 12; the noise of deviation 0.1 adds about 0.1 sqrt(d) = 3.4.
    if np.linalg.norm(published(parts, noise=0.1, gain=1e4), axis=1).max() > PATIENTS + 8:
        wrong.add("no clip")
    if depends_on_neighbours(parts):
        wrong.add("a patient's gradient depends on who else was drawn")
    if not is_poisson(parts):
        wrong.add("no Poisson sampling")
    return wrong


def deviation_fits(values: np.ndarray, expected: float) -> bool:
    """Root mean square against N(0, expected^2), with what clipped gradients can add and chance can do."""
    signal = RATE * PATIENTS * 3 / np.sqrt(values.shape[1])
    chance = SIGMAS_OF_TOLERANCE * expected / np.sqrt(2 * values.size)
    return bool(abs(np.sqrt(np.mean(values**2)) - expected) < chance + signal**2 / expected)


def depends_on_neighbours(parts: Parts) -> bool:
    """One patient's gradient beside one neighbour, beside another, and alone."""
    data, model = tiny_data(), TinyNet()
    rows = []
    for others in ([1], [2], [1, 2, 3], []):
        images, targets = data.batch(torch.tensor([0, *others]))
        parts.gradients(model, images, Targets(targets.masks, targets.has_mask))
        rows.append(torch.cat([parameter.grad_sample[0].flatten() for parameter in model.parameters()]))
    return not all(torch.allclose(rows[0], row, rtol=1e-4, atol=1e-7) for row in rows[1:])


def is_poisson(parts: Parts, patients: int = 200, rate: float = 0.1, steps: int = 400) -> bool:
    """Mean and variance of the batch sizes are the binomial distribution's, each patient comes as often as chance has it."""
    batches = list(parts.sampler(patients, rate, steps, KeyStream(entropy(1)(32))))
    sizes = np.array([len(batch) for batch in batches])
    times = np.bincount(np.concatenate([np.array(batch, int) for batch in batches]), minlength=patients)
    size_variance, times_variance = patients * rate * (1 - rate), steps * rate * (1 - rate)
    relative = SIGMAS_OF_TOLERANCE * np.sqrt(2 / steps), SIGMAS_OF_TOLERANCE * np.sqrt(2 / patients)
    return bool(
        len(batches) == steps
        and abs(sizes.mean() - patients * rate) < SIGMAS_OF_TOLERANCE * np.sqrt(size_variance / steps)
        and abs(sizes.var() / size_variance - 1) < relative[0]
        and abs(times.var() / times_variance - 1) < relative[1]
    )

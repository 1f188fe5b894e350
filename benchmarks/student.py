"""SM-lite beside the students it was chosen from: parameters, images/s at one thread, and Dice on real held-out patients.

    python benchmarks/student.py                          speed only, on noise
    python benchmarks/student.py --data DATASET           and Dice after 15 epochs with every mask, about a minute a row
    python benchmarks/student.py --data DATASET --only SM-lite

Speed is counted in CPU seconds of this process, so that a neighbour on the machine disturbs it less; the best of three is shown.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch sizes its pool

import numpy as np
import torch
from student_variants import STUDENTS
from torch import nn

from fed_node.data.dataset import open_dataset
from fed_node.student.augment import DEFAULT_AUGMENTATION, augment
from fed_node.student.evaluation import BATCH_IMAGES, Evaluation, evaluate
from fed_node.student.losses import Targets, segmentation_loss
from fed_node.student.samples import StudentData, load_samples
from fed_node.student.training import TrainingOptions, train
from fedmentor.federation import TrainingPlan

BATCH = 8
REPEATS = 3
HELD_OUT_SHARE = 1 / 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="dataset folder with masks")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = None if options.data is None else split(load_samples(open_dataset(options.data)))
    print(f"augmentation costs {1000 / augmenting():.1f} ms an image")
    print("| student | parameters | training images/s | inference images/s | Dice | worst | HD95 px | left out |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in STUDENTS.items():
        if options.only in name:
            quality = "- | - | - | -" if data is None else dice(make(), *data, options.epochs, options.learning_rate)
            student = make().to(memory_format=torch.channels_last)
            size = sum(parameter.numel() for parameter in student.parameters())
            print(f"| {name} | {size:,} | {training(student):.0f} | {inference(student):.0f} | {quality} |", flush=True)


def training(student: nn.Module) -> float:
    """Images/s of forward, loss and backward, without augmentation."""
    images, masks = torch.rand(BATCH, 1, 256, 256), (torch.rand(BATCH, 1, 256, 256) > 0.5).float()
    student.train()

    def step() -> None:
        student.zero_grad()
        segmentation_loss(student(images), masks).mean().backward()

    return BATCH / fastest(step)


def inference(student: nn.Module) -> float:
    """Images/s of the forward pass."""
    images = torch.rand(BATCH_IMAGES, 1, 256, 256)
    student.eval()
    with torch.inference_mode():
        return BATCH_IMAGES / fastest(lambda: student(images))


def augmenting() -> float:
    """Images/s of augmentation with masks and soft labels."""
    images = torch.rand(BATCH, 1, 256, 256)
    targets = Targets(images.round(), torch.ones(BATCH, dtype=torch.bool), images)
    generator = torch.Generator().manual_seed(0)
    return BATCH / fastest(lambda: augment(images, targets, DEFAULT_AUGMENTATION, generator))


def dice(student: nn.Module, known: StudentData, held_out: StudentData, epochs: int, learning_rate: float) -> str:
    """Train with every mask and score on patients that were not seen."""
    student = student.to(memory_format=torch.channels_last)
    plan = TrainingPlan(local_epochs=epochs, batch_images=BATCH, learning_rate=learning_rate)
    train(student, known, plan, 0, TrainingOptions(schedule="cosine"))
    scores: Evaluation = evaluate(student, held_out)
    return f"{scores.dice:.4f} | {min(image.dice for image in scores.per_image):.3f} | {scores.hd95:.1f} | {scores.hd95_undefined}"


def split(data: StudentData) -> tuple[StudentData, StudentData]:
    """Training and held-out images; a patient is in one of them."""
    patients = sorted(set(data.patient_ids))
    order = np.random.default_rng(0).permutation(len(patients))
    away = {patients[i] for i in order[: round(len(patients) * HELD_OUT_SHARE)]}
    held_out = torch.tensor([patient in away for patient in data.patient_ids])
    return data.subset(torch.nonzero(~held_out).flatten()), data.subset(torch.nonzero(held_out).flatten())


def fastest(work: Callable[[], object]) -> float:
    """CPU seconds of one call: the best of REPEATS rounds of five, after one to warm up."""
    work()
    rounds = []
    for _ in range(REPEATS):
        started = time.process_time()
        for _ in range(5):
            work()
        rounds.append((time.process_time() - started) / 5)
    return min(rounds)


if __name__ == "__main__":
    main()

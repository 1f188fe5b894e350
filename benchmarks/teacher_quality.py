"""How good is the teacher with prompts that need nobody's hand? Mean Dice on a dataset folder with human masks.

    python benchmarks/teacher_quality.py ../shared/data/covid-cxr --images 40
    python benchmarks/teacher_quality.py ../shared/data/covid-cxr --search     # other fixed boxes, embeddings made once

Needs ``images/ID.png`` and ``masks/ID.png``. Images are taken evenly over the sorted names. One thread, this process.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fedmentor.teacher.contract import Box, Pixels, Prompt, logits_at
from fedmentor.teacher.images import read_image
from fedmentor.teacher.prompts import CENTRAL, LEFT_LUNG, RIGHT_LUNG, central_box, lung_boxes, mask_box
from teacher_service.local import LocalTeacher, local_teacher

Mask = npt.NDArray[np.bool_]
Case = tuple[str, Pixels, Mask]
Boxes = tuple[Box, ...]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--weights", type=Path, help="converted weights; LiteMedSAM as installed if left out")
    parser.add_argument("--search", action="store_true", help="also try a grid of fixed boxes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = local_teacher(options.weights)
    cases = list(read_cases(options.dataset, options.images))
    card = teacher.card()
    print(f"{card.architecture} {card.digest[:12]}, {len(cases)} images of {options.dataset.name}\n")
    print(f"{'prompt':44s} {'mean':>7s} {'median':>7s} {'worst':>7s}")
    prompts: dict[str, Callable[[Pixels, Mask], Boxes]] = {
        "box around the human mask": lambda _pixels, mask: mask_box(mask),
        "box around the human mask, 5 px margin": lambda _pixels, mask: mask_box(mask, 5.0),
        "a box around each human lung": lambda _pixels, mask: each_lung(mask),
        f"central_box {CENTRAL}": lambda pixels, _mask: central_box(size_of(pixels)),
        f"lung_boxes {RIGHT_LUNG} {LEFT_LUNG}": lambda pixels, _mask: lung_boxes(size_of(pixels)),
    }
    for name, boxes in prompts.items():
        report(name, teacher, cases, boxes)
    if options.search:
        search(teacher, cases)


def evenly(dataset: Path, count: int) -> list[Path]:
    """So many of a dataset's images, evenly over their sorted names."""
    paths = sorted((dataset / "images").glob("*.png"), key=lambda path: path.stem)
    return [paths[index] for index in np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))]


def read_cases(dataset: Path, count: int) -> Iterator[Case]:
    """Evenly spaced images with their masks."""
    for path in evenly(dataset, count):
        name = path.stem
        pixels = read_image(path.read_bytes())
        mask = read_image((dataset / "masks" / f"{name}.png").read_bytes())
        yield name, pixels, (mask if mask.ndim == 2 else mask[..., 0]) > 127


def report(name: str, teacher: LocalTeacher, cases: Sequence[Case], boxes: Callable[[Pixels, Mask], Boxes]) -> float:
    """Print one row; returns the mean Dice."""
    scores = [dice(predict(teacher, pixels, boxes(pixels, mask)), mask) for _name, pixels, mask in cases]
    print(f"{name:44s} {np.mean(scores):7.4f} {np.median(scores):7.4f} {min(scores):7.4f}", flush=True)
    return float(np.mean(scores))


def predict(teacher: LocalTeacher, pixels: Pixels, boxes: Boxes) -> Mask:
    """The union of all objects at the image's size."""
    return logits_at(teacher.soften(pixels, Prompt(boxes)), size_of(pixels)) > 0


def dice(predicted: Mask, truth: Mask) -> float:
    """2 |A and B| / (|A| + |B|)."""
    return 2.0 * float((predicted & truth).sum()) / float(predicted.sum() + truth.sum())


def each_lung(mask: Mask) -> Boxes:
    """The tight box of either half of the mask, cut at the image's middle column between the lungs."""
    columns = mask.any(axis=0)
    middle = int(np.flatnonzero(columns).mean())
    thinnest = middle - 20 + int(mask[:, middle - 20 : middle + 20].sum(axis=0).argmin())
    sides = (np.arange(mask.shape[1]) < thinnest, np.arange(mask.shape[1]) >= thinnest)
    return tuple(box for side in sides if (mask & side).any() for box in mask_box(mask & side))


def search(teacher: LocalTeacher, cases: Sequence[Case]) -> None:
    """Other fixed boxes: one around both lungs, and pairs that mirror each other."""
    print("\none box: margin left/right, top, bottom")
    for side, top, bottom in itertools.product((0.04, 0.08, 0.12), (0.04, 0.08, 0.12), (0.84, 0.90, 0.96)):
        report(f"  {side} {top} {bottom}", teacher, cases, fixed([(side, top, 1 - side, bottom)]))
    print("\ntwo boxes: outer margin, inner edge, top, bottom")
    for outer, inner, top, bottom in itertools.product((0.05, 0.10), (0.46, 0.50), (0.06, 0.12), (0.80, 0.88)):
        pair = [(outer, top, inner, bottom), (1 - inner, top, 1 - outer, bottom)]
        report(f"  {outer} {inner} {top} {bottom}", teacher, cases, fixed(pair))


def fixed(fractions: Sequence[tuple[float, float, float, float]]) -> Callable[[Pixels, Mask], Boxes]:
    """Boxes at fractions of the image's width and height."""

    def boxes(pixels: Pixels, _mask: Mask) -> Boxes:
        height, width = size_of(pixels)
        return tuple(Box(x0 * width, y0 * height, x1 * width, y1 * height) for x0, y0, x1, y1 in fractions)

    return boxes


def size_of(pixels: Pixels) -> tuple[int, int]:
    """(H, W)."""
    return pixels.shape[0], pixels.shape[1]


if __name__ == "__main__":
    main()

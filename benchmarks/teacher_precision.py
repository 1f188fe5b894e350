"""What half precision and larger batches change: milliseconds an image, and how far its soft labels are from float32's.

    OMP_NUM_THREADS=1 python benchmarks/teacher_precision.py [--data DATASET] [--weights FILE]

It computes on the GPU where there is one, in every precision and with 1, 4 and 16 images at once, as ``fedmentor teacher serve
--precision --batch-images`` configures it. On a processor, where the halves are refused, their rows show what the arithmetic does
to soft labels, not what it would cost on a GPU: products of rounded operands, added up in float32 as a GPU does. The yardstick is
float32 on the processor in the same run; ``max`` and ``mean`` are differences of probabilities over all pixels, ``mask Dice``
compares the masks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from teacher import picture
from teacher_quality import evenly

from fedmentor.teacher.contract import Pixels, probability
from fedmentor.teacher.images import read_image
from fedmentor.teacher.prompts import central_box
from teacher_service.compute import FLOAT32, PRECISIONS
from teacher_service.convert import convert_bundled
from teacher_service.models.network import Network
from teacher_service.models.registry import Architecture, architecture
from teacher_service.weights import read_weights

BATCHES = (1, 4, 16)
Labels = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Teacher:
    """One architecture's network and how it takes pictures."""

    architecture: Architecture
    network: Network

    def labels(self, pictures: Sequence[Pixels], together: int) -> tuple[Labels, list[float]]:
        """Soft labels for one box, and the milliseconds an image of each batch, until its numbers have arrived."""
        labels: Labels = []
        costs = []
        for first in range(0, len(pictures), together):
            some = pictures[first : first + together]
            start = time.perf_counter()
            prepared = torch.from_numpy(np.stack([self.architecture.preprocessing.image(one) for one in some]))
            embeddings = torch.split(self.network.encode(prepared), 1)
            labels += [self._label(embedding, one) for embedding, one in zip(embeddings, some, strict=True)]
            costs.append(1000 * (time.perf_counter() - start) / len(some))
        return labels, costs

    def _label(self, embedding: torch.Tensor, picture: Pixels) -> npt.NDArray[np.float32]:
        size = (picture.shape[0], picture.shape[1])
        (box,) = central_box(size)
        corners = np.array([[box.x0, box.y0], [box.x1, box.y1]])
        on_input = torch.from_numpy(self.architecture.preprocessing.coordinates(corners, size)).reshape(1, 4)
        return probability(self.network.decode(embedding, on_input, None)[0][0].cpu().numpy())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, or cuda")
    parser.add_argument("--data", type=Path, help="dataset folder with images/ID.png; synthetic pictures if left out")
    parser.add_argument("--images", type=int, help="64 on a GPU, 8 on a processor if left out")
    parser.add_argument("--weights", type=Path, help="converted weights; LiteMedSAM as installed if left out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.images or (8 if options.device == "cpu" else 64)
    build = builder(options.weights)
    if options.data:
        pictures = [read_image(path.read_bytes()) for path in evenly(options.data, count)]
    else:
        pictures = [picture(seed) for seed in range(count)]
    yardstick, costs = build("cpu", FLOAT32).labels(pictures, 1)
    print(f"{len(pictures)} images; float32 on the processor: {statistics.median(costs):.0f} ms an image\n")
    print(f"{'device':8s} {'precision':10s} {'at once':>7s} {'ms/image':>9s} {'max':>9s} {'mean':>9s} {'mask Dice':>10s}")
    for precision in PRECISIONS:
        teacher = build(options.device, precision)
        teacher.labels(pictures[: max(BATCHES)], 1)  # warms up
        for together in BATCHES if options.device != "cpu" else (1,):
            row(options.device, precision, together, *teacher.labels(pictures, together), yardstick)


def builder(weights: Path | None) -> Callable[[str, str], Teacher]:
    """A teacher for a device and a precision; the processor's halves, too, which a service refuses."""
    with tempfile.TemporaryDirectory() as folder:
        path = weights or Path(folder) / "weights.safetensors"
        if weights is None:
            convert_bundled(path)
        loaded = read_weights(path)
    kind = architecture(loaded.architecture)

    def build(device: str, precision: str) -> Teacher:
        network = kind.build(loaded.tensors, device)
        return Teacher(kind, replace(network, half=None if precision == FLOAT32 else getattr(torch, precision)))

    return build


def row(device: str, precision: str, together: int, labels: Labels, costs: Sequence[float], yardstick: Labels) -> None:
    """One line of the table."""
    apart = [np.abs(one - other) for one, other in zip(labels, yardstick, strict=True)]
    largest, mean = max(float(each.max()) for each in apart), float(np.mean([each.mean() for each in apart]))
    overlap = np.mean([dice(one > 0.5, other > 0.5) for one, other in zip(labels, yardstick, strict=True)])
    print(
        f"{device:8s} {precision:10s} {together:7d} {statistics.median(costs):9.1f} {largest:9.1e} {mean:9.1e} {overlap:10.4f}",
        flush=True,
    )


def dice(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 for two empty masks."""
    total = float(one.sum() + other.sum())
    return 2.0 * float((one & other).sum()) / total if total else 1.0


if __name__ == "__main__":
    main()

"""How fast is the teacher's encoder, and what does a request cost? One thread.

    OMP_NUM_THREADS=1 python benchmarks/teacher.py

``published`` is LiteMedSAM as its package ships it; ``ours`` is what the teacher runs. The two take turns on the same pictures, so
that other load on the machine falls on both. Times are processor seconds of this process, which other load disturbs least.
``served`` is the same question through TorchServe, as wall-clock time: the first one on a picture, and a repeat.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedmentor.teacher.client import TorchServeTeacher
from fedmentor.teacher.contract import Box, Pixels, Prompt
from teacher_service.models import lite_medsam
from teacher_service.models.network import Network
from teacher_service.preprocess import LONGEST256
from teacher_service.server import ServerConfig, serving

BOX = torch.tensor([[26.0, 26.0, 230.0, 230.0]])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pictures = [picture(seed) for seed in range(options.images)]
    in_process(pictures)
    served(pictures)


def picture(seed: int) -> Pixels:
    """A smooth random picture with two dark fields, 256 x 256."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:256, :256]
    fields = sum(np.exp(-(((across - x) / 40) ** 2) - ((down - 128) / 70) ** 2) for x in (80, 176))
    return np.clip(190 - 120 * fields + rng.normal(0, 8, (256, 256)), 0, 255).astype(np.uint8)


def in_process(pictures: list[Pixels]) -> None:
    """The published network against ours: speed and largest difference."""
    tensors = torch.load(io.BytesIO(lite_medsam.bundled_checkpoint()), weights_only=True)
    networks = {"published": lite_medsam.build_as_published(tensors), "ours": lite_medsam.build(tensors)}
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    decode: list[float] = []
    difference = 0.0
    for index, pixels in enumerate([pictures[0], *pictures]):
        image = torch.from_numpy(LONGEST256.image(pixels))[None]
        soft = {}
        for name, network in networks.items():
            embedding, spent = timed(network.encode, image)
            logits, decoded = timed(probability, network, embedding)
            soft[name] = logits
            if index:  # the first picture warms up
                seconds[name].append(spent)
                decode.append(decoded)
        difference = max(difference, float((soft["published"] - soft["ours"]).abs().max()))
    print(f"{'encoder':12s} {'s/image':>8s} {'images/s':>9s} {'speed':>6s}")
    for name, spent in seconds.items():
        median = statistics.median(spent)
        print(f"{name:12s} {median:8.3f} {1 / median:9.2f} {statistics.median(seconds['published']) / median:5.2f}x")
    print(f"decode, one box: {statistics.median(decode):.3f} s; largest difference of a probability: {difference:.1e}\n")


def served(pictures: list[Pixels]) -> None:
    """Wall-clock time of single questions through TorchServe."""
    prompt = Prompt((Box(26, 26, 230, 230),))
    with tempfile.TemporaryDirectory() as folder, serving(ServerConfig(Path(folder))) as server:  # noqa: SIM117  # server outlives client
        with TorchServeTeacher(server.endpoint) as client:
            client.soften(pictures[0], prompt)
            first = [wall(client.soften, pixels, prompt) for pixels in pictures[1:]]
            repeat = [wall(client.soften, pixels, prompt) for pixels in pictures[1:]]
            trip = [wall(client.describe) for _ in range(20)]
    for name, spent in (("new picture", first), ("known picture", repeat), ("no arithmetic", trip)):
        print(f"served, {name:14s} median {1000 * statistics.median(spent):7.1f} ms, slowest {1000 * max(spent):7.1f} ms")


def probability(network: Network, embedding: torch.Tensor) -> torch.Tensor:
    """The soft label of one box."""
    return network.decode(embedding, BOX, None)[0].sigmoid()


def timed(work: Callable[..., torch.Tensor], *arguments: object) -> tuple[torch.Tensor, float]:
    """A result and the processor seconds it took."""
    start = time.process_time()
    result = work(*arguments)
    return result, time.process_time() - start


def wall(work: Callable[..., object], *arguments: object) -> float:
    """Seconds on the clock."""
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

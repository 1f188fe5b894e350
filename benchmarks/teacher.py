"""How fast is the teacher: a naive handler, ours behind TorchServe under concurrent clients, and the limit in one process.

    OMP_NUM_THREADS=1 python benchmarks/teacher.py [--sam-med2d]

``naive`` is what a handler of a few lines does: the network as its package ships it, float32, one image a call, nothing kept. It
is measured in this process, which favours it: no server stands in front. ``limit`` is the best in-process form, and ``served`` the
same through TorchServe with several clients. The first two take turns on the same pictures. Processor seconds (of this process; of
Java, worker and client together where something is served) are what other load on the machine disturbs least; wall-clock seconds
mean something on an otherwise idle machine only. ``--sam-med2d`` adds that architecture under random weights: a gigabyte.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from fedmentor.ids import Digest
from fedmentor.teacher.client import Patience, TorchServeTeacher
from fedmentor.teacher.contract import Box, Pixels, Prompt
from fedmentor.teacher.endpoint import STATE_FILE, read_endpoint
from fedmentor.teacher.images import png_bytes, read_image
from teacher_service.archive import build_archive
from teacher_service.local import LocalTeacher, local_teacher
from teacher_service.models import lite_medsam, sam_med2d
from teacher_service.preprocess import LONGEST256
from teacher_service.server import ServerConfig, serving
from teacher_service.weights import weights_bytes, write_weights

SIDE = 256
ONE = Prompt((Box(26, 26, 230, 230),))
FIFTY = Prompt(tuple(Box(10 + i, 10 + i, 180 + i, 190 + i) for i in range(50)))
TENSOR = torch.tensor([[26.0, 26.0, 230.0, 230.0]])
CLIENTS = 4


@dataclass(frozen=True)
class Cost:
    """Of one question: seconds of processor time, and on the clock."""

    cpu: float
    wall: float


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--sam-med2d", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average when started: {psutil.getloadavg()[0]:.1f} on {psutil.cpu_count()} processors\n")
    naive, limit = in_process(options.images)
    with tempfile.TemporaryDirectory() as folder, serving(ServerConfig(Path(folder))) as server:
        together = served("lite-medsam", server.endpoint.key_file.parent, options.images, limit)
        print(f"{naive.cpu / together.cpu:.2f} times the naive handler's images a processor second\n")
    if options.sam_med2d:
        with tempfile.TemporaryDirectory() as folder:
            seeded_sam_med2d(Path(folder), options.images)


def picture(seed: int) -> Pixels:
    """A smooth random picture with two dark fields, 256 x 256."""
    rng = np.random.default_rng(seed)
    down, across = np.mgrid[:SIDE, :SIDE]
    fields = sum(np.exp(-(((across - x) / 40) ** 2) - ((down - 128) / 70) ** 2) for x in (80, 176))
    return np.clip(190 - 120 * fields + rng.normal(0, 8, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def in_process(count: int) -> tuple[Cost, Cost]:
    """Naive against ours, in turns; the cost of a new image for each."""
    tensors = torch.load(io.BytesIO(lite_medsam.bundled_checkpoint()), weights_only=True)
    naive, ours = lite_medsam.build_as_published(tensors), local_teacher()
    costs: dict[str, list[Cost]] = {"naive": [], "limit": [], "limit, known image": []}
    difference = 0.0
    for seed in range(count + 1):
        file = png_bytes(picture(seed))
        told, first = timed(naive_answer, naive, file)
        soft, second = timed(lambda data: ours.soften(read_image(data), ONE), file)
        _again, third = timed(lambda data: ours.soften(read_image(data), ONE), file)
        exact = torch.from_numpy(soft.logits.astype(np.float32)).sigmoid()
        difference = max(difference, float((told.sigmoid() - exact).abs().max()))
        if seed:  # the first picture warms up
            for name, cost in zip(costs, (first, second, third), strict=True):
                costs[name].append(cost)
    table("lite-medsam, in this process", costs, "naive")
    print(f"largest difference of a soft label, its float16 encoding included: {difference:.1e}\n")
    return median(costs["naive"]), median(costs["limit"])


def naive_answer(network: object, file: bytes) -> torch.Tensor:
    """Decode, prepare, encode, decode: everything again for every question."""
    image = torch.from_numpy(LONGEST256.image(read_image(file)))[None]
    logits: torch.Tensor = network.decode(network.encode(image), TENSOR, None)[0]  # type: ignore[attr-defined]
    return logits


def served(name: str, run_folder: Path, count: int, limit: Cost) -> Cost:
    """Single questions one after another, then many clients at a time; the cost of a new image for those."""
    meter = Meter(run_folder)
    with TorchServeTeacher(read_endpoint(run_folder), Patience(in_flight=CLIENTS)) as client:
        client.soften(picture(900), ONE)
        client.soften(picture(900), FIFTY)
        pictures = [picture(1000 + seed) for seed in range(count)]
        costs = {
            "new image": meter.each(client.soften, [(one, ONE) for one in pictures]),
            "known image": meter.each(client.soften, [(one, ONE) for one in pictures for _ in range(3)]),
            "known image, 50 prompts": meter.each(client.soften, [(one, FIFTY) for one in pictures[:4]]),
            "no arithmetic": meter.each(client.describe, [()] * 20),
        }
        table(f"{name}, served, one question at a time", costs, "new image")
        walls = sorted(1000 * cost.wall for cost in costs["new image"])
        again = sorted(1000 * cost.wall for cost in costs["known image"])
        print(f"new image: p50 {percentile(walls, 50):.0f} ms, p95 {percentile(walls, 95):.0f} ms", end="; ")
        print(f"known image: p50 {percentile(again, 50):.0f} ms, p95 {percentile(again, 95):.0f} ms")
        fresh = [picture(2000 + seed) for seed in range(2 * count)]
        together = meter.together(client.soften, [(one, ONE) for one in fresh])
        print(
            f"{CLIENTS} clients at a time, new images: {together.cpu:.3f} processor seconds and {together.wall:.3f} s an image, ",
            end="",
        )
        print(f"{limit.cpu / together.cpu:.2f} of the limit's images a processor second")
        print(f"memory: {meter.memory()}\n")
    return together


def seeded_sam_med2d(folder: Path, count: int) -> None:
    """SAM-Med2D's true architecture; speed does not depend on what its weights are."""
    generator = torch.Generator().manual_seed(5)
    shapes = {name: tensor.shape for name, tensor in sam_med2d.skeleton().state_dict().items()}
    tensors = {name: torch.randn(shape, generator=generator).mul_(0.02) for name, shape in shapes.items()}
    weights = folder / "weights.safetensors"
    write_weights(weights, weights_bytes(tensors, sam_med2d.ARCHITECTURE, Digest("0" * 64)))
    del tensors
    limit = new_images(local_teacher(weights), count)
    archive = build_archive(weights, folder / "teacher.mar")
    with serving(ServerConfig(folder / "run", archive=archive)):
        served("sam-med2d", folder / "run", count, limit)


def new_images(teacher: LocalTeacher, count: int) -> Cost:
    """The in-process cost of a new image."""
    teacher.soften(picture(0), ONE)
    return median([timed(teacher.soften, picture(1 + seed), ONE)[1] for seed in range(count)])


class Meter:
    """Processor time of a server and of this process together."""

    def __init__(self, run_folder: Path) -> None:
        keeper = psutil.Process(json.loads((run_folder / STATE_FILE).read_text())["keeper_pid"])
        java = next(one for one in keeper.children() if "java" in one.name())
        self._processes = {"Java": java, "worker": java.children()[0]}

    def cpu(self) -> float:
        """Seconds so far."""
        times = [process.cpu_times() for process in (*self._processes.values(), psutil.Process())]
        return sum(time.user + time.system for time in times)

    def each(self, work: Callable[..., object], questions: Sequence[tuple[object, ...]]) -> list[Cost]:
        """The cost of each question, one after another."""
        costs = []
        for question in questions:
            cpu, wall = self.cpu(), time.perf_counter()
            work(*question)
            costs.append(Cost(self.cpu() - cpu, time.perf_counter() - wall))
        return costs

    def together(self, work: Callable[..., object], questions: Sequence[tuple[object, ...]]) -> Cost:
        """The cost of a question when CLIENTS ask at a time."""
        cpu, wall = self.cpu(), time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda question: work(*question), questions))
        return Cost((self.cpu() - cpu) / len(questions), (time.perf_counter() - wall) / len(questions))

    def memory(self) -> str:
        """Resident bytes of each process."""
        return ", ".join(f"{name} {process.memory_info().rss / 2**20:.0f} MiB" for name, process in self._processes.items())


def timed(work: Callable[..., object], *arguments: object) -> tuple[Any, Cost]:
    """A result and what it cost in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work(*arguments)
    return result, Cost(time.process_time() - cpu, time.perf_counter() - wall)


def median(costs: Sequence[Cost]) -> Cost:
    """Of each part on its own."""
    return Cost(statistics.median(cost.cpu for cost in costs), statistics.median(cost.wall for cost in costs))


def percentile(ordered: Sequence[float], share: int) -> float:
    """The nearest rank."""
    return ordered[min(len(ordered) - 1, round(share / 100 * (len(ordered) - 1)))]


def table(title: str, costs: dict[str, list[Cost]], against: str) -> None:
    """Medians, and how many times faster than ``against`` by processor time and by the clock."""
    base = median(costs[against])
    print(f"{title:44s} {'cpu s':>8s} {'wall s':>8s} {'cpu':>7s} {'wall':>7s}")
    for name, each in costs.items():
        cost = median(each)
        print(f"{name:44s} {cost.cpu:8.3f} {cost.wall:8.3f} {base.cpu / max(cost.cpu, 1e-3):6.1f}x {base.wall / cost.wall:6.1f}x")


if __name__ == "__main__":
    main()

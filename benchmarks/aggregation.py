"""What a coordinator pays for a round: time and peak memory from the first byte of an update to the next model on disk.

    python benchmarks/aggregation.py                          200 MB models, 2, 4 and 8 sites
    python benchmarks/aggregation.py --megabytes 100 --sites 4 16

Every row is a process of its own, so that its peak resident memory (VmHWM) is that row's alone. Updates go through the real service
(admission, spool, fsync, journal) without a network. Below it stands the ring sum beside a float32 average of the same updates.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from coordinator.app import JOURNAL_FILE, EngineParts, build_engine
from coordinator.averaging import mean_blocks
from coordinator.phases.phase import PhaseLimits
from coordinator.progress import Progress
from coordinator.service import CoordinatorService
from coordinator.state import PhaseName
from coordinator.store.models import ModelStore
from coordinator.store.sqlite import SqliteJournal
from fedmentor.clock import SystemClock
from fedmentor.federation import CHUNK_BYTES, RoundRef, RunManifest, UpdateHeader
from fedmentor.ids import Attempt, Digest, Round, RunId, SiteId
from fedmentor.models import ModelRecord
from fedmentor.secagg.ring import Ring, quantise
from fedmentor.tensors import TensorSpec, sha256_hex

TENSORS = 50
ORDERS = 5
COMPARED_PARAMETERS = 5_000_000


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(measure(options.row, options.megabytes), flush=True)
        return
    print("| sites | model MB | updates in s | aggregate s | peak RSS MB | of the model |")
    print("|---|---|---|---|---|---|")
    for sites in options.sites:
        command = [sys.executable, __file__, "--row", str(sites), "--megabytes", str(options.megabytes)]
        print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)
    print()
    print("| average of 8 updates | parameters | s | different results in 5 orders of arrival | largest error against float64 |")
    print("|---|---|---|---|---|")
    for row in compare():
        print(row)


def measure(sites: int, megabytes: int) -> str:
    """One row: a whole round of one site count."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        size = megabytes * 1_000_000 // 4 // TENSORS
        spec = tuple(TensorSpec(f"t{number:03}", (size,)) for number in range(TENSORS))
        zeros = (np.zeros(size, np.float32) for _ in spec)
        model = ModelStore(place / "source", spec).write(zeros, lambda digest: ModelRecord(architecture="noise", digest=digest))
        manifest = RunManifest(
            run=RunId("bench"),
            roster=tuple(SiteId(f"s{number:02}") for number in range(sites)),
            rounds=1,
            quorum=sites,
            architecture="noise",
            tensors=tuple((tensor.name, tensor.shape) for tensor in spec),
            initial_model=model,
            clip_norm=1e6,
        )
        (place / "state").mkdir()
        clock = SystemClock()
        journal = SqliteJournal(place / "state" / JOURNAL_FILE, clock)
        engine = build_engine(
            manifest, place / "source" / model, EngineParts(place / "state", journal, clock, PhaseLimits(), lambda _: None)
        )
        for site in manifest.roster:
            engine.service.subscribe(site, lambda: None)
        while engine.driver.step() == 0.0:
            pass
        sent_s = sum(send(engine.service, site, number, size * TENSORS, model) for number, site in enumerate(manifest.roster))
        start = time.perf_counter()
        while Progress(journal, clock).now().state.phase is not PhaseName.EVALUATE:
            engine.driver.step()
        aggregate_s = time.perf_counter() - start
        journal.close()
    peak = peak_megabytes()
    return f"| {sites} | {megabytes} | {sent_s:.1f} | {aggregate_s:.1f} | {peak:.0f} | {peak / megabytes:.2f} x |"


def send(service: CoordinatorService, site: SiteId, seed: int, parameters: int, model: Digest) -> float:
    """Deliver one update; seconds that the service took, without the making of the noise."""
    sha256 = hashlib.sha256()
    for chunk in noise(seed, parameters):
        sha256.update(chunk)
    ref = RoundRef(RunId("bench"), Round(0), Attempt(1))
    header = UpdateHeader(ref, Digest(sha256.hexdigest()), 4 * (parameters + 1), model)
    service.offer_update(site, header)
    offset, seconds = 0, 0.0
    for chunk in noise(seed, parameters):
        start = time.perf_counter()
        service.append_update(site, header, offset, chunk)
        seconds += time.perf_counter() - start
        offset += len(chunk)
    start = time.perf_counter()
    service.finish_update(site, header)
    return seconds + time.perf_counter() - start


def noise(seed: int, parameters: int) -> Iterator[bytes]:
    """Ring words of a made-up update in chunks; a shuffled block again and again, which is cheap and moves just as many bytes."""
    block = np.random.default_rng(seed).integers(-(2**16), 2**16, CHUNK_BYTES // 4, dtype=np.int32).astype("<i4")
    for start in range(0, parameters, block.size):
        yield np.roll(block, start // block.size)[: min(block.size, parameters - start)].tobytes()
    yield np.array([2**24], "<i4").tobytes()


def peak_megabytes() -> float:
    """Peak resident memory of this process."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


class Words:
    """Ring words in memory."""

    def __init__(self, words: npt.NDArray[np.uint32]) -> None:
        self._words = words

    def words(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        """See coordinator.averaging.WordSource."""
        return self._words[start:stop]


def compare() -> Iterator[str]:
    """Ring sum and float32 FedAvg of the same eight updates in five orders."""
    generator = np.random.default_rng(0)
    deltas = [generator.normal(scale=1e-2, size=COMPARED_PARAMETERS).astype(np.float32) for _ in range(8)]
    examples = [int(n) for n in generator.integers(20, 1000, 8)]
    exact = np.average([delta.astype(np.float64) for delta in deltas], axis=0, weights=examples)
    sources = [Words(quantise(delta, n, Ring())) for delta, n in zip(deltas, examples, strict=True)]
    orders = [generator.permutation(8) for _ in range(ORDERS)]
    for name, average in (
        ("ring integers", lambda order: np.concatenate(list(mean_blocks([sources[i] for i in order], COMPARED_PARAMETERS)))),
        ("float32 in order of arrival", lambda order: float_average([deltas[i] for i in order], [examples[i] for i in order])),
    ):
        start = time.perf_counter()
        results = [average(order) for order in orders]
        seconds = (time.perf_counter() - start) / ORDERS
        different = len({sha256_hex([result.tobytes()]) for result in results})
        error = max(float(np.abs(result - exact).max()) for result in results)
        yield f"| {name} | {COMPARED_PARAMETERS:,} | {seconds:.3f} | {different} | {error:.1e} |"


def float_average(deltas: list[npt.NDArray[np.float32]], examples: list[int]) -> npt.NDArray[np.float32]:
    """FedAvg as it is usually written: a running float32 sum."""
    total = np.zeros_like(deltas[0])
    for delta, weight in zip(deltas, examples, strict=True):
        total += delta * np.float32(weight / sum(examples))
    return total


if __name__ == "__main__":
    main()

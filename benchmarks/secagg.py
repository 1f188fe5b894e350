"""What secure aggregation costs: CPU of one site, CPU of the coordinator, bytes on the wire.

    python benchmarks/secagg.py
    python benchmarks/secagg.py --rows 16,1000000,5,0
    python benchmarks/secagg.py --flower .venv-peers/bin/python     # Flower's SecAgg+ beside it, see secagg_flower.py

A row is sites, parameters, sites that drop out after the shares are dealt, and neighbours in the graph (0: complete). Every
message is real and every site takes part. Times are process time on one core; that of a site is the median of the survivors',
from its advert to its reveal, with masking and the SHA-256 of the upload. ``unmask`` is rebuilding and verifying every secret
and removing the masks; ``check`` is all the coordinator verifies before. The sum is compared with the plain sum of the
survivors' updates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import ParamSpec, TypeVar

import numpy as np

from fedmentor.ids import Digest
from fedmentor.secagg.aggregator import Advertising
from fedmentor.secagg.masks import MaskedWords, words_sha256
from fedmentor.secagg.ring import RingWords, add_in_place
from fedmentor.testing.secagg import Enrolled, enrol

ROWS = ["4,1000000,1,0", "16,1000000,5,0", "50,1000000,10,0", "100,1000000,20,40", "16,25000000,5,0"]
FLOWER_ROWS = ["4,1000000,1,0", "16,1000000,5,0"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@dataclass
class Meter:
    """CPU seconds of each site and of the coordinator, and bytes that one site sends besides its words."""

    site_s: dict[int, float] = field(default_factory=dict)
    check_s: float = 0.0
    sum_s: float = 0.0
    unmask_s: float = 0.0
    sent: dict[int, int] = field(default_factory=dict)
    share_bytes: int = 0

    def site(self, index: int, step: Callable[_Arguments, _Result], *args: _Arguments.args, **kw: _Arguments.kwargs) -> _Result:
        """Run a site's step on its account."""
        start = time.process_time()
        result = step(*args, **kw)
        self.site_s[index] = self.site_s.get(index, 0.0) + time.process_time() - start
        return result

    def check(self, step: Callable[_Arguments, _Result], *args: _Arguments.args, **kw: _Arguments.kwargs) -> _Result:
        """Run a step on the coordinator's account."""
        start = time.process_time()
        result = step(*args, **kw)
        self.check_s += time.process_time() - start
        return result

    def send(self, index: int, data: bytes) -> None:
        """Count a message of a site."""
        self.sent[index] = self.sent.get(index, 0) + len(data)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=ROWS)
    parser.add_argument("--flower", type=Path, metavar="PYTHON", help="an interpreter that has Flower")
    parser.add_argument("--flower-rows", nargs="+", default=FLOWER_ROWS)
    options = parser.parse_args()
    if options.flower:
        beside_flower(options.flower, options.flower_rows)
        return
    print(
        "| sites | parameters | dropped | graph | site CPU s | coordinator check s | unmask s | bytes up per parameter"
        " | other bytes up | of these shares |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in options.rows:
        print(measure(*(int(part) for part in row.split(","))), flush=True)


def beside_flower(python: Path, rows: list[str]) -> None:
    """One table: each row by us and by Flower, one after the other."""
    print("| sites | parameters | dropped | | site CPU s | server CPU s | bytes up per parameter |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        sites, parameters, dropped, degree = (int(part) for part in row.split(","))
        ours = figures(sites, parameters, dropped, degree)
        script = Path(__file__).with_name("secagg_flower.py")
        done = subprocess.run([python, script, row], capture_output=True, text=True, check=True)
        theirs = json.loads(done.stdout)
        where = f"| {sites} | {parameters:,} | {dropped} "
        print(f"{where}| FedMentor | {ours.site_s:.4f} | {ours.server_s:.3f} | {ours.bytes_up / parameters:.4f} |", flush=True)
        flower = theirs["site_cpu_s"], theirs["server_cpu_s"], theirs["bytes_up"] / parameters
        print(f"{where}| Flower {theirs['version']} | {flower[0]:.4f} | {flower[1]:.3f} | {flower[2]:.4f} |", flush=True)
        if theirs["errors"]:
            print(f"| | | | Flower's errors | {theirs['errors'][0]} | | |", flush=True)


@dataclass(frozen=True)
class Figures:
    """One row of ours."""

    site_s: float
    check_s: float
    sum_s: float
    unmask_s: float
    other_bytes: int
    share_bytes: int
    parameters: int

    @property
    def server_s(self) -> float:
        """All of the coordinator's CPU: checks, SHA-256 and sum of the uploads, unmasking."""
        return self.check_s + self.sum_s + self.unmask_s

    @property
    def bytes_up(self) -> int:
        """All that one site sends."""
        return 4 * (self.parameters + 1) + self.other_bytes


def figures(sites: int, parameters: int, dropped: int, degree: int) -> Figures:
    """Measure one row.

    Raises:
        SystemExit: the sum is wrong.
    """
    enrolled, meter = enrol(sites, degree=degree), Meter()
    clear = np.zeros(parameters + 1, np.uint32)
    total = run_round(enrolled, parameters, dropped, meter, clear)
    if not np.array_equal(total, clear):
        raise SystemExit("the sum is wrong")
    site_s = median(meter.site_s[index] for index in survivors_of(sites, dropped))
    coordinator = meter.check_s, meter.sum_s, meter.unmask_s
    return Figures(site_s, *coordinator, max(meter.sent.values()), meter.share_bytes, parameters)


def measure(sites: int, parameters: int, dropped: int, degree: int) -> str:
    """One row."""
    made = figures(sites, parameters, dropped, degree)
    graph = f"{degree} neighbours" if degree else "complete"
    return (
        f"| {sites} | {parameters:,} | {dropped} | {graph} | {made.site_s:.4f} | {made.check_s:.3f} | {made.unmask_s:.3f}"
        f" | {4 * (parameters + 1) / parameters:.6f} | {made.other_bytes:,} | {made.share_bytes:,} |"
    )


def survivors_of(sites: int, dropped: int) -> list[int]:
    """Every k-th site is lost, so that survivors stand on both sides of the lost ones."""
    lost = {index * sites // dropped for index in range(dropped)} if dropped else set()
    return [index for index in range(sites) if index not in lost]


def run_round(enrolled: Enrolled, parameters: int, dropped: int, meter: Meter, clear: RingWords) -> RingWords:
    """One attempt; ``clear`` becomes the sum that must come out."""
    everybody = range(len(enrolled.signers))
    context = enrolled.context()
    opened = {i: meter.site(i, enrolled.site, i, context) for i in everybody}

    advertising = Advertising(enrolled.terms, context, parameters + 1)
    for i in everybody:
        advert = meter.site(i, opened[i].advertise).message
        meter.send(i, advert.to_bytes())
        meter.check(advertising.add, advert)
    adverts, sharing = meter.check(advertising.close)

    for i in everybody:
        shares = meter.site(i, opened[i].share, adverts)
        meter.send(i, shares.to_bytes())
        meter.share_bytes = max(meter.share_bytes, sum(len(box.ciphertext) for box in shares.boxes))
        meter.check(sharing.add, shares)
    deliveries, collecting = meter.check(sharing.close)

    total = np.zeros(parameters + 1, np.uint32)
    for i in survivors_of(len(everybody), dropped):
        words = np.random.default_rng(i).integers(0, 2**32, parameters + 1, np.uint32)
        add_in_place(clear, words)
        meter.site(i, opened[i].accept, deliveries[i])
        update = Digest(words_sha256(words).hex())
        upload = meter.site(i, opened[i].upload, words, update)
        meter.send(i, upload.header.to_bytes())
        start = time.process_time()
        found = Digest(words_sha256(upload.masked.words).hex())
        add_in_place(total, upload.masked.words)
        meter.sum_s += time.process_time() - start
        meter.check(collecting.add, upload.header, found)
    survivors, consenting = meter.check(collecting.close)

    for i in survivors:
        consent = meter.site(i, opened[i].consent, survivors).message
        meter.send(i, consent.to_bytes())
        meter.check(consenting.add, consent)
    consents, revealing = meter.check(consenting.close)

    for i in survivors:
        reveal = meter.site(i, opened[i].reveal, consents).message
        meter.send(i, reveal.to_bytes())
        meter.check(revealing.add, reveal)
    start = time.process_time()
    result = revealing.close().remove(MaskedWords(total))
    meter.unmask_s = time.process_time() - start
    return result


if __name__ == "__main__":
    main()

"""What one malicious site of ten costs: every attack against no defence, the default defences, and every other rule.

    python benchmarks/robustness.py                 no defence and the default, about five minutes on an idle core
    python benchmarks/robustness.py --all           every rule, about three times as long
    python benchmarks/robustness.py --seeds 0 1 2   so many times as long; in the end median and worst over the seeds
    python benchmarks/robustness.py --start-epochs 0 --rounds 5 --learning-rate 3e-3          from a random model 0

Ten sites on chest-X-ray phantoms (drawings; nothing here says anything about patients), each hospital's images at neighbouring
sites, so that sites differ. Real parts: coordinator with its rounds, admission, journal and strategies; node sessions; SM-lite. In
process and in one thread. Model 0 has learned a little from other phantoms. Dice is the patients' mean over all sites' held-out
patients of the last model; a loss is in points (hundredths) against the same run with ten honest sites. Attacks marked ``+n`` also
claim as many images as the run counts (``max_weight``), which a coordinator cannot check. Each seed draws other phantoms, another
model 0 and another order of training.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch sizes its pool

import numpy as np
import torch
from PIL import Image

from coordinator.app import Engine, EngineParts, build_engine
from coordinator.phases.phase import PhaseLimits
from coordinator.report import RunReport
from coordinator.store.memory import MemoryJournal
from coordinator.strategies.choice import robust_strategy
from coordinator.strategies.dp_fedavg import DpFedAvg
from coordinator.strategies.screening import idle_sites
from coordinator.strategies.testing import combined, held_update
from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, Dataset, open_dataset
from fed_node.data.export import write_subset
from fed_node.data.phantom import write_phantoms
from fed_node.data.site import SiteData
from fed_node.outbox import MemoryOutbox
from fed_node.ports import SessionPolicy, SessionPorts
from fed_node.rules import PlanLimits
from fed_node.session import Session
from fed_node.student.samples import load_samples
from fed_node.student.sm_lite import ARCHITECTURE, SPEC, new_student, student_tensors
from fed_node.student.training import TrainingOptions, train
from fed_node.student_trainer import StudentTrainer
from fed_node.testing import Attack, MaliciousTrainer, PolledMailbox
from fed_node.trainer import LocalTrainer
from fedmentor.federation import RunManifest, TrainingPlan
from fedmentor.ids import RunId, SiteId
from fedmentor.models import ModelRecord, digest_of, load_record, save_model
from fedmentor.robust import CoordinateMedian, Flag, Krum, NormClipping, RobustPlan, Rule, TrimmedMean
from fedmentor.secagg.ring import Ring
from fedmentor.testing.clock import ManualClock
from fedmentor.testing.link import DirectLink

SITES = tuple(SiteId(f"site-{number}") for number in range(10))
LIAR = SITES[3]
PROXY_IMAGES = 16
HELD_OUT_IMAGES = 3
MAX_WEIGHT = 1000
SPEED_PARAMETERS = 1_000_000

DEFENCES: dict[str, Rule | None] = {
    "none (FedAvg)": None,
    "default: clip to the median norm": NormClipping(),
    "trimmed mean, f = 1": TrimmedMean(malicious=1),
    "coordinate median": CoordinateMedian(),
    "multi-Krum, f = 1": Krum(malicious=1),
    "Krum, f = 1": Krum(malicious=1, selected=1),
}
ATTACKS: dict[str, tuple[Attack, int | None]] = {
    "sign flip": (Attack.SIGN_FLIP, None),
    "x100": (Attack.TIMES_100, None),
    "sign flip x100": (Attack.SIGN_FLIP_TIMES_100, None),
    "label flip": (Attack.LABEL_FLIP, None),
    "free rider: zero": (Attack.ZERO, None),
    "free rider: echo": (Attack.ECHO, None),
    "sign flip +n": (Attack.SIGN_FLIP, MAX_WEIGHT),
    "label flip +n": (Attack.LABEL_FLIP, MAX_WEIGHT),
    "sign flip x100 +n": (Attack.SIGN_FLIP_TIMES_100, MAX_WEIGHT),
}


@dataclass(frozen=True)
class Stage:
    """What all runs share.

    Attributes:
        folder: for models and spools.
        trainers: of honest sites.
        flipped: the liar's trainer on masks that are the wrong way round.
        plan: local training.
        rounds: of each run.
    """

    folder: Path
    trainers: Mapping[SiteId, LocalTrainer]
    flipped: LocalTrainer
    plan: TrainingPlan
    rounds: int


@dataclass(frozen=True)
class Row:
    """One defence, from one seed.

    Attributes:
        start, honest: Dice of model 0, and of the last model of ten honest sites.
        losses: points of Dice that each attack costs.
    """

    defence: str
    start: float
    honest: float
    losses: tuple[float, ...]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every rule, not the default alone")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="NAME", help="columns of the table")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--images", type=int, default=6, help="training images a site")
    parser.add_argument("--start-epochs", type=int, default=2, help="epochs of model 0 on the other phantoms; 0 for a random one")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="one row a defence and seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    speed()
    shared_memory = Path("/dev/shm")  # noqa: S108 - folders in it are made by tempfile
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as place:
        stages = {seed: set_up(Path(place) / f"seed-{seed}", options, seed) for seed in options.seeds}
        chosen = dict(list(DEFENCES.items())[: None if options.all else 2])
        rows = table(stages, chosen, options.attacks)
    if len(stages) > 1:
        summary(rows, options.attacks)


def speed() -> None:
    """CPU seconds of each rule on updates in memory."""
    random, ring = np.random.default_rng(0), Ring()
    updates = [held_update(site, random.normal(scale=0.01, size=SPEED_PARAMETERS), 10, ring) for site in SITES]
    print(f"| CPU seconds, {len(SITES)} sites, {SPEED_PARAMETERS:,} parameters | |\n|---|---|")
    central = DpFedAvg(1.0, 1.0, len(SITES), 1 << ring.fraction_bits, bytes(32))
    for name, strategy in [*((name, robust_strategy(rule)) for name, rule in DEFENCES.items()), ("central DP-FedAvg", central)]:
        began = time.process_time()
        combined(strategy, updates, SPEED_PARAMETERS)
        print(f"| {name} | {time.process_time() - began:.3f} |")
    began = time.process_time()
    idle_sites(updates, SPEED_PARAMETERS, updates[0].words)
    print(f"| search for free riders | {time.process_time() - began:.3f} |\n", flush=True)


def set_up(folder: Path, options: argparse.Namespace, seed: int) -> Stage:
    """Draw the phantoms, deal them to the sites, and train model 0 on the first few."""
    images = options.images
    per_site = images + HELD_OUT_IMAGES
    ids = write_phantoms(folder / "phantoms", PROXY_IMAGES + per_site * len(SITES), seed)
    dataset = open_dataset(folder / "phantoms")
    by_hospital = sorted(ids[PROXY_IMAGES:], key=lambda id_: (dataset.subset([id_])[0].metadata["location"], id_))
    for number, site in enumerate(SITES):
        mine = by_hospital[number * per_site : (number + 1) * per_site]
        write_subset(dataset, mine, folder / site, held_out=mine[images:])
    flip_masks(folder)
    start(dataset.subset(ids[:PROXY_IMAGES]), folder / "model", options.start_epochs, seed)
    trainers = {site: StudentTrainer(SiteData(open_dataset(folder / site)), site, 1) for site in SITES}
    plan = TrainingPlan(local_epochs=2, batch_images=4, learning_rate=options.learning_rate, augment=False, seed=seed)
    return Stage(folder, trainers, StudentTrainer(SiteData(open_dataset(folder / "flipped")), LIAR, 1), plan, options.rounds)


def flip_masks(folder: Path) -> None:
    """The liar's images once more, with lung and background swapped where it trains; it is scored on the right masks."""
    mine = open_dataset(folder / LIAR)
    held_out = [sample.id for sample in mine if sample.metadata[SPLIT_COLUMN] == HELD_OUT]
    write_subset(mine, [sample.id for sample in mine], folder / "flipped", held_out=held_out)
    for sample in open_dataset(folder / "flipped"):
        if sample.mask is not None and sample.id not in held_out:
            flipped = Image.fromarray(255 * (np.asarray(Image.open(sample.mask)) == 0).astype(np.uint8))
            sample.mask.unlink()  # a hard link: writing into it would change the honest mask, too
            flipped.save(sample.mask)


def start(proxy: Dataset, folder: Path, epochs: int, seed: int) -> None:
    """Make model 0; with no epochs a random one."""
    student = new_student(seed)
    if epochs:
        plan = TrainingPlan(local_epochs=epochs, batch_images=4, learning_rate=2e-3, augment=False)
        train(student, load_samples(proxy), plan, seed, TrainingOptions(schedule="cosine"))
    tensors = student_tensors(student)
    save_model(folder, tensors, ModelRecord(architecture=ARCHITECTURE, digest=digest_of(tensors)))


def table(stages: Mapping[int, Stage], defences: Mapping[str, Rule | None], chosen: Sequence[str]) -> list[Row]:
    """One row a defence and seed, one column an attack."""
    columns = ["Dice points lost by one liar of ten", "seed", "Dice of model 0", "all honest", *chosen, "flagged", "seconds"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    rows = []
    for seed, stage in stages.items():
        for name, rule in defences.items():
            began = time.perf_counter()
            honest = federate(stage, rule, None)
            reports = {label: federate(stage, rule, ATTACKS[label]) for label in chosen}
            losses = tuple(round(100 * (dice_of(honest) - dice_of(report)), 1) + 0.0 for report in reports.values())  # no -0.0
            rows.append(Row(name, honest.rounds[0].dice or 0.0, dice_of(honest), losses))
            found = flagged({"honest": honest, **reports})
            dice = [f"{rows[-1].start:.4f}", f"{rows[-1].honest:.4f}"]
            cells = [name, str(seed), *dice, *(f"{loss:.1f}" for loss in losses), found, f"{time.perf_counter() - began:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    return rows


def summary(rows: Sequence[Row], chosen: Sequence[str]) -> None:
    """One row a defence: the median over the seeds, and in brackets the worst seed, which is another one in each column."""
    columns = ["median (worst) over the seeds", "Dice of model 0", "all honest", *chosen]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in dict.fromkeys(row.defence for row in rows):
        mine = [row for row in rows if row.defence == name]
        dice = [
            f"{median(values):.4f} ({min(values):.4f})" for values in zip(*((row.start, row.honest) for row in mine), strict=True)
        ]
        losses = [f"{median(values):.1f} ({max(values):.1f})" for values in zip(*(row.losses for row in mine), strict=True)]
        print(f"| {' | '.join([name, *dice, *losses])} |")


def flagged(reports: Mapping[str, RunReport]) -> str:
    """For which attacks the liar was flagged, and how many honest sites in all runs; what Krum leaves out does not count."""
    seen = {
        (label, site)
        for label, report in reports.items()
        for entry in report.rounds
        for site, flags in entry.flags.items()
        if set(flags) != {Flag.LEFT_OUT.value}
    }
    found = [label for label in reports if (label, LIAR) in seen and label != "honest"]
    return f"{', '.join(found) or 'nobody'}; {len(seen) - len(found)} honest"


def dice_of(report: RunReport) -> float:
    """Of the last model; 0 where it is no model any more."""
    dice = report.rounds[-1].dice
    return 0.0 if dice is None or np.isnan(dice) else dice


def federate(stage: Stage, rule: Rule | None, attack: tuple[Attack, int | None] | None) -> RunReport:
    """One run."""
    with tempfile.TemporaryDirectory(dir=stage.folder) as state:
        manifest = manifest_of(stage, rule)
        clock = ManualClock()
        limits = PhaseLimits(gather_s=1e9, straggler_grace_s=1e9, linger_s=1e9)
        parts = EngineParts(Path(state), MemoryJournal(clock), clock, limits, ignore)
        engine = build_engine(manifest, stage.folder / "model", parts)
        trainers = {**stage.trainers}
        if attack is not None:
            kind, claims = attack
            learner = stage.flipped if kind is Attack.LABEL_FLIP else trainers[LIAR]
            trainers[LIAR] = MaliciousTrainer(kind, learner, claims)
        drive(engine, [session_of(site, engine, trainer, clock) for site, trainer in trainers.items()])
        return engine.report()


def manifest_of(stage: Stage, rule: Rule | None) -> RunManifest:
    """The rules of a run."""
    return RunManifest(
        run=RunId("robustness"),
        roster=SITES,
        rounds=stage.rounds,
        quorum=5,
        architecture=ARCHITECTURE,
        tensors=tuple((tensor.name, tensor.shape) for tensor in SPEC),
        initial_model=load_record(stage.folder / "model").digest,
        max_weight=MAX_WEIGHT,
        training=stage.plan,
        robust=None if rule is None else RobustPlan(rule=rule, set_aside_after=3),
    )


def session_of(site: SiteId, engine: Engine, trainer: LocalTrainer, clock: ManualClock) -> Session:
    """A node that talks to the coordinator of this process."""
    ports = SessionPorts(
        link=DirectLink(site, lambda: engine.service),
        open_mailbox=lambda stream: PolledMailbox(stream, clock),  # type: ignore[arg-type]  # a DirectStream can be polled
        trainer=trainer,
        outbox=MemoryOutbox(),
        clock=clock,
        pause=clock.advance,
        jitter=lambda: 0.5,
        stopping=lambda: False,
        observe=ignore,
    )
    # Krum publishes one site's update, which nodes refuse unless they are told otherwise.
    return Session(site, ports, SessionPolicy(limits=PlanLimits(quorum=1), give_up_seconds=1e9))


def drive(engine: Engine, sessions: list[Session]) -> None:
    """Let everybody go on in turn until every site knows that the run is over."""
    going = list(sessions)
    while going:
        while engine.driver.step() == 0.0:
            pass
        going = [session for session in going if session.step() is None]


def ignore(_event: object) -> None:
    """Nobody watches."""


if __name__ == "__main__":
    main()

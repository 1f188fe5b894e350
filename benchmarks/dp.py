"""What differential privacy costs in time: DP-SGD of SM-lite beside plain training, per-sample gradients, accountants, ledger.

    python benchmarks/dp.py                 all tables, about a minute
    python benchmarks/dp.py --batch 16      another expected batch

Times are CPU seconds of this process at one thread, so that a neighbour on the machine disturbs them less; the best of three. The
ledger is timed by the clock, because it waits for the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch sizes its pool

import torch
from opacus.grad_sample import GradSampleModule, wrap_model
from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from fed_node.dp import PrivateTraining, per_sample_gradients, prv_epsilon, train_privately
from fed_node.ledger.ledger import BudgetPolicy, LedgerPorts, PrivacyLedger, Spend
from fed_node.ledger.sqlite import FileAnchor, SqliteStore, site_key
from fed_node.student.losses import Targets, segmentation_loss
from fed_node.student.samples import StudentData
from fed_node.student.sm_lite import SmLite, new_student
from fed_node.student.training import train
from fedmentor.clock import SystemClock
from fedmentor.federation import TrainingPlan
from fedmentor.ids import Digest, Round, RunId, SiteId
from fedmentor.privacy.accounting import Segment, rdp_epsilon
from fedmentor.privacy.noise import KeyStream
from fedmentor.privacy.plan import PrivacyPlan, calibrate

PATIENTS = 48
REPEATS = 3
ROUNDS = 20


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="expected patients a step")
    batch = parser.parse_args().batch
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of Opacus' hooks on inputs without gradients
    gradients(batch)
    training(batch)
    accountants()
    ledger()


def gradients(batch: int) -> None:
    """Per-sample gradients of one batch, every way that there is, against the gradient of the batch."""
    images, masks = torch.rand(batch, 1, 256, 256), (torch.rand(batch, 1, 256, 256) > 0.5).float()
    targets = Targets(masks, torch.ones(batch, dtype=torch.bool))
    student = new_student(0)

    def plain() -> None:
        student.zero_grad()
        segmentation_loss(student(images), masks).mean().backward()

    ways: dict[str, Callable[[], object]] = {
        "one patient at a time (ours)": lambda: per_sample_gradients(student, images, targets),
        "Opacus hooks": hooked(GradSampleModule(new_student(0), loss_reduction="sum"), images, masks),
        "Opacus functorch": hooked(GradSampleModule(new_student(0), loss_reduction="sum", force_functorch=True), images, masks),
        "Opacus expanded weights": hooked(wrap_model(SmLite(), grad_sample_mode="ew", loss_reduction="sum"), images, masks),
        "Opacus ghost clipping": ghost(images, masks),
    }
    once = fastest(plain)
    print(f"| gradients of {batch} images | ms | x plain |\n|---|---|---|\n| plain batch | {1000 * once:.0f} | 1.00 |")
    for name, way in ways.items():
        try:
            seconds = fastest(way)
        except (RuntimeError, TypeError, ValueError) as error:
            print(f"| {name} | fails: {str(error).splitlines()[0][:60]} | - |")
            continue
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / once:.2f} |", flush=True)


def hooked(model: nn.Module, images: Tensor, masks: Tensor) -> Callable[[], object]:
    """Opacus' per-sample gradients."""

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = parameter.grad_sample = None
        segmentation_loss(model(images), masks).sum().backward()

    return step


def ghost(images: Tensor, masks: Tensor) -> Callable[[], object]:
    """Opacus' ghost clipping: norms first, then a second pass with weighted losses."""
    model = GradSampleModuleFastGradientClipping(new_student(0), max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="sum")

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        losses = segmentation_loss(model(images), masks)
        losses.sum().backward(retain_graph=True)
        for parameter in model.parameters():
            parameter.grad = None
        weights = model.get_clipping_coef()
        model.disable_hooks()
        (weights * losses).sum().backward()
        model.enable_hooks()

    return step


def training(batch: int) -> None:
    """One pass over the patients, plain and private, with everything that belongs to it."""
    data, plan = noise_images(), TrainingPlan(local_epochs=1, batch_images=batch)
    steps = PATIENTS // batch
    privacy = PrivacyPlan(
        epsilon=100, delta=1e-5, noise_multiplier=1.0, sampling_rate=batch / PATIENTS, rounds=1, steps_per_round=steps
    )
    plain = min(cpu(lambda: train(new_student(0), data, plan, 0)) for _ in range(REPEATS)) / PATIENTS
    runs = []
    for _ in range(REPEATS):
        reports = []
        seconds = cpu(
            lambda keep=reports: keep.append(train_privately(new_student(0), data, PrivateTraining(plan, privacy, never)))
        )
        # Poisson: what was drawn varies, so time is counted a patient.
        runs.append(seconds / reports[0].drawn)
    private = min(runs)
    parameters = sum(parameter.numel() for parameter in new_student(0).parameters())
    noise = fastest(lambda: KeyStream(bytes(32)).gaussian(parameters))
    print(f"\n| training, augmented, {batch} patients a step | ms a patient | x plain |\n|---|---|---|")
    print(f"| plain | {1000 * plain:.1f} | 1.00 |\n| DP-SGD | {1000 * private:.1f} | {private / plain:.2f} |")
    print(f"\nnoise for {parameters:,} parameters: {1000 * noise:.0f} ms a step, of the above")


def accountants() -> None:
    """Epsilon of a run of many rounds, and of two runs with different noise."""
    print("\n| history | epsilon RDP | ms | epsilon PRV | ms |\n|---|---|---|---|---|")
    one, two = Segment(1.0, 0.1, 200), Segment(1.5, 0.05, 400)
    for name, history in {"200 steps, one mechanism": (one,), "600 steps, two mechanisms": (one, two)}.items():
        rdp, rdp_s = timed(lambda past=history: rdp_epsilon(past, 1e-5))
        prv, prv_s = timed(lambda past=history: prv_epsilon(past, 1e-5))
        print(f"| {name} | {rdp:.3f} | {1000 * rdp_s:.0f} | {prv:.3f} | {1000 * prv_s:.0f} |")
    noise, seconds = timed(lambda: calibrate(8.0, 1e-5, 200, 0.1))
    print(f"\ncalibration for epsilon 8 over 200 steps: noise multiplier {noise:.4f} in {1000 * seconds:.0f} ms")


def ledger() -> None:
    """What a round pays at the ledger, disk included."""
    with tempfile.TemporaryDirectory() as folder:
        state, anchor = Path(folder) / "state", FileAnchor(Path(folder) / "anchor")
        ports = LedgerPorts(SqliteStore(state), site_key(state), SystemClock(), prv_epsilon, anchor)
        book = PrivacyLedger(SiteId("north"), BudgetPolicy(100.0, 1e-5), ports)
        patients = [f"patient-{number}" for number in range(1000)]
        times = []
        for number in range(ROUNDS):
            spend = Spend(RunId("run"), Round(number), Segment(1.0, 0.05, 10), patients)
            held, reserve_s = timed(lambda wanted=spend: book.reserve(wanted))
            words = Digest(f"{number:064x}")
            _, commit_s = timed(lambda item=held, name=words: book.commit(item, 10, name))
            _, release_s = timed(lambda at=number, name=words: book.release(RunId("run"), Round(at), name))
            times.append((reserve_s, commit_s, release_s))
        book.close()
    reserve, commit, release = (1000 * sorted(column)[ROUNDS // 2] for column in zip(*times, strict=True))
    print("\n| ledger, 1 000 patients, fsync and anchor | reserve | commit | release |\n|---|---|---|---|")
    print(f"| median ms of {ROUNDS} rounds | {reserve:.0f} | {commit:.0f} | {release:.0f} |")


def noise_images() -> StudentData:
    """One image a patient, of noise."""
    generator = torch.Generator().manual_seed(0)
    names = tuple(f"patient-{number}" for number in range(PATIENTS))
    images = torch.rand(PATIENTS, 1, 256, 256, generator=generator)
    return StudentData(names, names, images, images > 0.5, torch.ones(PATIENTS, dtype=torch.bool))


def never() -> bool:
    """Nobody stops a benchmark."""
    return False


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def timed(work: Callable[[], object]) -> tuple[object, float]:
    """A result and its wall seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def fastest(work: Callable[[], object]) -> float:
    """CPU seconds of one call: the best of REPEATS, after one to warm up."""
    work()
    return min(cpu(work) for _ in range(REPEATS))


if __name__ == "__main__":
    main()

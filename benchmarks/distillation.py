"""How good is a student that never saw a mask? Dice of the teacher and of its student, by prompt, on a dataset with human masks.

    python benchmarks/distillation.py DATASET
    python benchmarks/distillation.py DATASET --prompts central mask --epochs 20

The public pool (30 % of the images, whole patients) is labelled by the teacher and its masks are hidden from the student, which is
then scored on all other patients. The teacher's own Dice is on the pool. One seed, one thread, CPU seconds of training.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch sizes its pool

from fed_node.data.dataset import open_dataset
from fed_node.student.distil import DistilConfig, distil
from fed_node.student.evaluation import evaluate
from fed_node.student.samples import load_samples
from fed_node.student.sm_lite import load_student
from fedmentor.teacher.cache import CachedTeacher, FolderStore
from study.mentor import teacher_scores
from study.partition import PartitionPlan, plan_sites
from teacher_service.local import local_teacher


def main() -> None:
    """Parse, label, train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--prompts", nargs="+", default=["central", "lungs", "mask"])
    parser.add_argument("--epochs", type=int, default=DistilConfig().epochs)
    parser.add_argument("--cache", type=Path, help="folder that keeps the soft labels for the next run")
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.dataset)
    proxy = set(plan_sites(dataset, PartitionPlan()).proxy)
    pool, others = dataset.subset(proxy), dataset.subset({sample.id for sample in dataset} - proxy)
    held_out = load_samples(others)
    print(f"{len(pool)} images to learn from, {len(held_out)} images of {held_out.patients} other patients to score on\n")
    print(f"{'prompt':10} {'teacher Dice':>13} {'student Dice':>13} {'IoU':>6} {'HD95 px':>8} {'left out':>9} {'train CPU s':>12}")
    with tempfile.TemporaryDirectory() as temporary:
        teacher = CachedTeacher(local_teacher(), FolderStore(arguments.cache or Path(temporary)))
        for prompt in arguments.prompts:
            config = DistilConfig(prompt=prompt, epochs=arguments.epochs, use_masks=False)
            own, _ = teacher_scores(prompt, teacher, pool)
            started = time.process_time()
            result = distil(config, teacher, pool)
            seconds = time.process_time() - started
            scores = evaluate(load_student(result.tensors), held_out)
            distance = f"{scores.hd95:8.1f} {scores.hd95_undefined:9}"
            print(f"{prompt:10} {own:13.3f} {scores.dice:13.3f} {scores.iou:6.3f} {distance} {seconds:12.0f}", flush=True)


if __name__ == "__main__":
    main()

"""A hand-made report of the size of a real one: two runs, four sites, six rounds. Its numbers are made up and describe no study."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedmentor.pictures import grey, overlay, save_picture
from study.report.comparison import choose_target
from study.report.values import DataFacts, DistilFacts, Example, Report, RoundFacts, RunFacts, SiteFacts, SiteScores, TeacherFacts

RANDOM_DICE = (0.271, 0.702, 0.811, 0.868, 0.893, 0.905, 0.912)
MENTORED_DICE = (0.866, 0.897, 0.911, 0.919, 0.924, 0.927, 0.929)
SITES = {
    "site-a": SiteFacts(train_images=41, train_patients=36, held_out_images=13, held_out_patients=12),
    "site-b": SiteFacts(train_images=38, train_patients=31, held_out_images=11, held_out_patients=10),
    "site-c": SiteFacts(train_images=24, train_patients=22, held_out_images=8, held_out_patients=7),
    "site-d": SiteFacts(train_images=17, train_patients=15, held_out_images=6, held_out_patients=5),
}
_OFFSETS = {"site-a": 0.018, "site-b": 0.004, "site-c": -0.012, "site-d": -0.041}
MODEL_BYTES = 1_931_264


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_round(init: str, number: int, dice: float) -> RoundFacts:
    sent = MODEL_BYTES if number else 0
    sites = {
        site: SiteScores(
            dice=min(1.0, dice + offset * (1.6 - dice)),
            iou=dice / (2 - dice),
            hd95=14 + 60 * (1 - dice),
            patients=SITES[site].held_out_patients,
            images=SITES[site].held_out_images,
            bytes_up=sent,
            bytes_down=sent,
        )
        for site, offset in _OFFSETS.items()
    }
    worst = min(sites, key=lambda site: sites[site].dice)
    return RoundFacts(
        round=number,
        model_digest=sha256(f"{init} {number}"),
        dice=dice,
        iou=dice / (2 - dice),
        hd95=14 + 60 * (1 - dice),
        worst_site=worst,
        worst_dice=sites[worst].dice,
        sites=sites,
        bytes_up=sent * len(sites),
        bytes_down=sent * len(sites),
        seconds=17.0 + number * 0.3 if number else 0.0,
    )


def make_run(init: str, dice: Sequence[float], *, partition: str = "by-hospital", seed: int = 0) -> RunFacts:
    rounds = tuple(make_round(init, number, value) for number, value in enumerate(dice))
    final = rounds[-1].model_digest if rounds else sha256(init)
    return RunFacts(init=init, partition=partition, strategy="fedavg", seed=seed, rounds=rounds, final_model_digest=final)


def make_report(*runs: RunFacts, examples: tuple[Example, ...] = ()) -> Report:
    """Without arguments: the two runs of the tables above."""
    runs = runs or (make_run("random", RANDOM_DICE), make_run("fm-instructed", MENTORED_DICE))
    return Report(
        created_utc="2025-03-04T10:20:30+00:00",
        software={"fedmentor": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "monai": "1.5.1"},
        command="fedmentor demo --data chest-x-rays --seed 0",
        data=DataFacts(source="chest-x-rays", fingerprint=sha256("data"), images=205, patients=181, proxy_images=47, sites=SITES),
        teacher=TeacherFacts(
            architecture="lite-medsam",
            digest=sha256("teacher"),
            preprocessing="litemedsam-v1",
            prompt="fixed central box",
            dice=0.803,
            iou=0.688,
            images_per_second=1.42,
        ),
        distil=DistilFacts(
            model_digest=sha256("student"),
            images=47,
            masks_used=0,
            alpha=1.0,
            temperature=2.0,
            epochs=20,
            label_seconds=33.4,
            train_seconds=71.8,
            cache_hits=12,
            losses=tuple(0.08 + 0.6 * 0.82**epoch for epoch in range(20)),
        ),
        runs=runs,
        rounds_to_target=choose_target(runs),
        examples=examples,
        total_seconds=412.6,
    )


def make_examples(folder: Path, count: int = 2) -> tuple[Example, ...]:
    """Draw small made-up lungs and write their pictures into ``folder``."""
    return tuple(_make_example(folder, f"image-{number:03d}", f"site-{'abcd'[number % 4]}", number) for number in range(count))


def _make_example(folder: Path, image_id: str, site: str, seed: int) -> Example:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:128, :128].astype(np.float32)
    field = np.maximum(*(1 - ((columns - centre) / 19) ** 2 - ((rows - 64) / 42) ** 2 for centre in (40, 88)))
    image = np.clip(150 - 80 * (field > 0) + random.normal(0, 9, field.shape), 0, 255).astype(np.uint8)
    truth = field > 0
    guesses = {
        "teacher": 1 / (1 + np.exp(-6 * (field + 0.15))),
        "student before": 1 / (1 + np.exp(-3 * (field + 0.3 + 0.2 * np.sin(rows / 9)))),
        "student after": 1 / (1 + np.exp(-9 * (field + 0.02))),
    }
    drawn = {"image": grey(image)} | {name: overlay(image, guess, truth) for name, guess in guesses.items()}
    drawn["truth"] = overlay(image, None, truth)
    pictures = {caption: f"{image_id}-{caption.replace(' ', '-')}.jpg" for caption in drawn}
    for caption, picture in drawn.items():
        save_picture(picture, folder / pictures[caption])
    return Example(
        image_id=image_id, site=site, pictures=pictures, dice={name: dice(guess > 0.5, truth) for name, guess in guesses.items()}
    )


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (prediction & truth).sum() / (prediction.sum() + truth.sum()))

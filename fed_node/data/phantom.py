"""Chest-X-ray phantoms: synthetic radiographs with a known lung mask, for demonstrations and tests.

They have the anatomy, the spread of appearance and the metadata that the program deals with. They are drawings: nothing learned on
them, and no score measured on them, says anything about patients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fed_node.data import phantom_body as body
from fed_node.data.folder import building
from fed_node.data.limits import GreyImage, Mask
from fed_node.data.phantom_bones import skeleton
from fed_node.data.phantom_details import air, equipment, interstitium, opacities, vessels
from fed_node.data.phantom_film import HOSPITALS, develop
from fedmentor.errors import ConfigError

SIDE = 256
MAX_COUNT = 100_000
MIN_SIDE, MAX_SIDE = 64, 2048
COLUMNS = ("id", "patient_id", "age", "sex", "view", "location", "finding", "severity", "rotation_deg", "source")


@dataclass(frozen=True)
class Phantom:
    """One synthetic radiograph: uint8 [side, side], bool [side, side], and its row without ``id``."""

    image: GreyImage
    mask: Mask
    metadata: Mapping[str, str]


def phantom(person: body.Person, shot: body.Shot, side: int = SIDE) -> Phantom:
    """Image one person once. Pure: the same arguments give the same pixels."""
    at = body.grid(shot, side)
    lung = body.lungs(person, shot, at)
    heart = body.heart(person, shot, lung, at)
    inflated = air(lung, at) * (1 - 0.72 * heart)
    tissue = body.soft_tissue(person, lung, at) + body.breasts(person, lung, at) + body.airways(person, lung, at)
    tissue += body.gas(person, lung, at)
    tissue += 0.13 * np.maximum(heart, body.mediastinum(person, shot, lung, at))
    in_lung = vessels(person, shot, at) + interstitium(person, at) + opacities(shot, lung, at)
    depth = np.float32(0.40 - 0.08 * person.habitus + 0.0004 * (person.age - 50))
    density = tissue + inflated * (in_lung - depth) + skeleton(person, shot, lung, at) + equipment(person, shot, at)
    image = develop(density.astype(np.float32), HOSPITALS[person.hospital], shot)
    return Phantom(image, lung.mask, _metadata(person, shot))


def draw_person(rng: np.random.Generator, number: int) -> body.Person:
    """A patient of one of the hospitals in turn; age and sex shape the body."""
    hospital = number % len(HOSPITALS)
    age = int(np.clip(rng.normal(HOSPITALS[hospital].mean_age, 15), 18, 95))
    sex = "F" if rng.random() < 0.5 else "M"
    old = (age - 18) / 77
    return body.Person(
        patient_id=f"p{number:05d}",
        age=age,
        sex=sex,
        hospital=hospital,
        chest=rng.uniform(0.385, 0.445) - (0.015 if sex == "F" else 0.0),
        apex=rng.uniform(0.07, 0.14),
        base=rng.uniform(0.74, 0.82) + 0.02 * old,
        heart=rng.uniform(0.13, 0.165) + 0.025 * old,
        habitus=float(rng.beta(2, 3)),
        bone=rng.uniform(0.9, 1.25) - 0.45 * old,
        aorta=float(np.clip(rng.normal(old, 0.15), 0, 1.2)),
        scoliosis=abs(rng.normal(0, 0.004 + 0.006 * old)),
        asymmetry=rng.uniform(0.0, 0.09),
        seed=int(rng.integers(1 << 31)),
    )


def draw_shot(rng: np.random.Generator, person: body.Person) -> body.Shot:
    """One exposure of a person, as the person's hospital takes it."""
    hospital = HOSPITALS[person.hospital]
    supine = rng.random() < hospital.supine
    return body.Shot(
        view=body.AP_SUPINE if supine else body.PA,
        inspiration=rng.uniform(0.06, 0.15) if supine else rng.uniform(0.0, 0.05),
        turn=float(np.clip(rng.normal(0, 0.05 if supine else 0.015), -0.1, 0.1)),
        tilt_deg=float(np.clip(rng.normal(0, 4.0 if supine else 1.5), -10, 10)),
        zoom=hospital.zoom * rng.uniform(0.94, 1.06),
        shift=(float(rng.normal(0, 0.012)), float(rng.normal(0.0, 0.015))),
        severity=rng.uniform(0.2, 1.0) if rng.random() < (0.6 if supine else 0.35) else 0.0,
        seed=int(rng.integers(1 << 31)),
    )


def draw_phantoms(count: int, seed: int, side: int = SIDE) -> Iterator[Phantom]:
    """``count`` images of patients with one to three images each; a longer series starts like a shorter one.

    Raises:
        ConfigError: ``count`` or ``side`` is out of range.
    """
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError(f"{count} phantoms were asked for; 1 to {MAX_COUNT} are possible")
    if not MIN_SIDE <= side <= MAX_SIDE or side % 4:
        raise ConfigError(f"a side of {side} pixels is not possible", cure=f"use a multiple of 4 from {MIN_SIDE} to {MAX_SIDE}")
    return _draw(count, seed, side)


def write_phantoms(
    folder: Path,
    count: int,
    seed: int,
    side: int = SIDE,
    *,
    progress: Callable[[Iterable[Phantom]], Iterable[Phantom]] = iter,
    replace: bool = False,
) -> tuple[str, ...]:
    """Write a dataset folder of phantoms; an earlier dataset there is replaced when the new one is complete.

    Args:
        folder: dataset folder to make.
        count: number of images.
        seed: same seed, same pixels.
        side: side of the square images, pixels.
        progress: wraps the series of phantoms while they are drawn, for a progress bar.
        replace: also replace a dataset folder that this program did not make.

    Returns:
        The ids, in the order of drawing.

    Raises:
        ConfigError: see draw_phantoms, or ``folder`` holds something else.
    """
    images = draw_phantoms(count, seed, side)
    ids = []
    with building(folder, COLUMNS, replace=replace) as builder:
        for number, image in enumerate(progress(images)):
            ids.append(f"ph{seed}-{number:05d}")
            builder.add({"id": ids[-1], **image.metadata}, image.image, image.mask)
    return tuple(ids)


def _draw(count: int, seed: int, side: int) -> Iterator[Phantom]:
    made, number = 0, 0
    while made < count:
        rng = np.random.default_rng([seed, number])
        person = draw_person(rng, number)
        for _ in range(min(int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])), count - made)):
            yield phantom(person, draw_shot(rng, person), side)
            made += 1
        number += 1


def _metadata(person: body.Person, shot: body.Shot) -> dict[str, str]:
    return {
        "patient_id": person.patient_id,
        "age": str(person.age),
        "sex": person.sex,
        "view": shot.view,
        "location": HOSPITALS[person.hospital].name,
        "finding": "opacity" if shot.severity > 0 else "clear",
        "severity": f"{shot.severity:.2f}",
        "rotation_deg": f"{shot.tilt_deg:.1f}",
        "source": "phantom",
    }

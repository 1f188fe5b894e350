"""The phantom's body: who is imaged, how, and what attenuates where.

Patient coordinates: x to the right of the picture (the patient's left), y down, both in units of the picture's side at zoom 1, with
the spine at x = 0. Every function returns a float32 [side, side] map of attenuation (soft tissue about 0.6, bone more, air less);
maps add up, because a radiograph's film density is a sum along the ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import binary_opening

from fed_node.data.limits import Mask

Map = npt.NDArray[np.float32]

AP_SUPINE = "AP_Supine"
PA = "PA"


@dataclass(frozen=True)
class Person:
    """What stays the same in every image of one patient.

    Attributes:
        patient_id: name.
        age: years.
        sex: ``F`` or ``M``.
        hospital: index into fed_node.data.phantom_film.HOSPITALS.
        chest: half width of the rib cage.
        apex: y of the top of the lungs.
        base: y of the right dome of the diaphragm at full inspiration.
        heart: half width of the heart.
        habitus: soft tissue beyond the thinnest body, 0 to 1.
        bone: contrast of bone; falls with age (osteopenia).
        aorta: prominence of the aortic knob; grows with age.
        scoliosis: sideways amplitude of the spine.
        asymmetry: how much narrower the left lung is.
        seed: for details that nobody would name: spacing of ribs, branches of vessels.
    """

    patient_id: str
    age: int
    sex: str
    hospital: int
    chest: float
    apex: float
    base: float
    heart: float
    habitus: float
    bone: float
    aorta: float
    scoliosis: float
    asymmetry: float
    seed: int


@dataclass(frozen=True)
class Shot:
    """What differs between two images of one patient.

    Attributes:
        view: ``PA`` or ``AP_Supine``; supine the heart is magnified, inspiration shallow, lines and tubes lie on the chest.
        inspiration: how far the diaphragm is from its lowest place, in picture sides; 0 is full inspiration.
        turn: rotation of the patient about the long axis, -0.1 to 0.1; widens one lung and narrows the other.
        tilt_deg: rotation in the picture's plane.
        zoom: magnification.
        shift: (x, y) of the picture's centre in patient coordinates, relative to (0, 0.5).
        severity: 0 for clear lungs, up to 1 for dense consolidation.
        seed: noise, opacities, tubes.
    """

    view: str
    inspiration: float
    turn: float
    tilt_deg: float
    zoom: float
    shift: tuple[float, float]
    severity: float
    seed: int


@dataclass(frozen=True)
class Grid:
    """Patient coordinates of every pixel centre, and the way back."""

    x: Map
    y: Map
    shot: Shot

    @property
    def side(self) -> int:
        """Pixels along one edge."""
        return int(self.x.shape[0])

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """(column, row) of a point in patient coordinates."""
        across, down = (x - self.shot.shift[0]) * self.shot.zoom, (y - 0.5 - self.shot.shift[1]) * self.shot.zoom
        turn = math.radians(self.shot.tilt_deg)
        column = across * math.cos(turn) - down * math.sin(turn)
        row = across * math.sin(turn) + down * math.cos(turn)
        return (column + 0.5) * self.side - 0.5, (row + 0.5) * self.side - 0.5


def grid(shot: Shot, side: int) -> Grid:
    """Coordinates for one exposure."""
    axis = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5) / np.float32(shot.zoom)
    column, row = np.meshgrid(axis, axis)
    turn = math.radians(shot.tilt_deg)
    x = column * math.cos(turn) + row * math.sin(turn) + shot.shift[0]
    y = row * math.cos(turn) - column * math.sin(turn) + 0.5 + shot.shift[1]
    return Grid(x.astype(np.float32), y.astype(np.float32), shot)


@dataclass(frozen=True)
class Lungs:
    """Both lungs.

    Attributes:
        mask: bool, the human convention: what lies behind heart and vessels belongs to the lung.
        cage: half width of the rib cage at each pixel's height, on the pixel's side.
        diaphragm: y of the domes at each pixel's column, where the abdomen begins to show.
        spine: x of the spine at each pixel's height.
    """

    mask: Mask
    cage: Map
    diaphragm: Map
    spine: Map


def lungs(person: Person, shot: Shot, at: Grid) -> Lungs:
    """The outline: apices, lateral walls, costophrenic angles, domes, and a medial border along the spine."""
    spine = person.scoliosis * np.sin(5.0 * at.y + person.seed % 7) - 0.25 * shot.turn
    across = at.x - spine
    left = across > 0
    width = person.chest * np.where(left, 1 - person.asymmetry - shot.turn, 1 + shot.turn)
    lateral = np.abs(across)
    dome = person.base - shot.inspiration
    lowest = dome + 0.10
    depth = np.clip((at.y - person.apex) / (lowest - person.apex), 0, 1)
    top = 0.44 * width
    cage = (
        top + (width - top) * np.sqrt(1 - (1 - np.clip(depth / 0.75, 0, 1)) ** 2.2) - 0.02 * np.clip((depth - 0.8) / 0.2, 0, 1) ** 2
    )
    border = 0.050 + 0.018 * left + 0.020 * np.exp(-(((depth - 0.16) / 0.13) ** 2)) + 0.006 * np.sin(9 * depth + person.seed % 5)
    medial = border + (top - border) * np.clip(1 - depth / 0.11, 0, 1) ** 2
    reach = np.clip((lateral - 0.055) / (width - 0.055), 0, 1.2)
    peak = np.where(left, 0.50, 0.42)
    outer = 0.120 * np.clip((reach - peak) / (1 - peak), 0, None) ** 1.9
    inner = np.where(left, 0.050, 0.034) * np.clip((peak - reach) / peak, 0, None) ** 1.7
    level = dome + 0.034 * step(across, 0.03) + outer + 0.4 * inner
    diaphragm = level + 0.6 * inner
    mask = (lateral > medial) & (lateral < cage) & (at.y > person.apex) & (at.y < diaphragm)
    smooth = binary_opening(mask)  # no stray pixels at the tips of the costophrenic angles
    return Lungs(smooth, *(values.astype(np.float32) for values in (cage, level, spine)))


def as_map(values: Any) -> Map:
    """Float32, whatever a formula's constants made of it."""
    return np.asarray(values, np.float32)


def step(distance: Map, softness: float) -> Map:
    """A smooth edge: 0 well below zero, 1 well above, ``softness`` wide."""
    return as_map((0.5 + 0.5 * np.tanh(distance / np.float32(softness))).astype(np.float32))


def dome(distance: Map) -> Map:
    """Thickness of a sphere seen from in front: 1 at distance 0, falling to 0 at 1."""
    return np.sqrt(np.clip(1 - distance**2, 0, 1)).astype(np.float32)


def cloud(rng: np.random.Generator, side: int, cells: int) -> Map:
    """Smooth noise of about unit variance with features of side / cells pixels."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
    fine = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
    return 1.3 * fine


def soft_tissue(person: Person, lung: Lungs, at: Grid) -> Map:
    """Neck, shoulders, chest wall, the arms' skin line, and the abdomen below the diaphragm."""
    across = np.abs(at.x - lung.spine)
    shoulder = 0.15 + 0.42 * step(at.y - person.apex - 0.01, 0.06) - 0.06 * step(at.y - person.apex - 0.34, 0.10)
    outline = shoulder + 0.05 * person.habitus
    trunk = dome(np.clip(across / outline, 0, 1)) ** 0.4
    wall = (0.56 + 0.10 * person.habitus) * trunk
    below = step(at.y - lung.diaphragm, 0.012) * (0.16 + 0.08 * person.habitus) * trunk
    recess = 0.10 * np.exp(-np.clip(at.y - lung.diaphragm, 0, None) / 0.06) * step(at.y - lung.diaphragm, 0.012)
    arm = 0.32 * dome(np.clip((across - outline - 0.06) / 0.055, -1, 1)) * step(at.y - person.apex - 0.30, 0.05)
    return as_map(wall + below - recess + arm)


def breasts(person: Person, lung: Lungs, at: Grid) -> Map:
    """Two shadows with a sharp lower edge over the lower zones; they sag with age and grow with habitus. Zero for men."""
    if person.sex != "F":
        return np.zeros_like(at.x)
    radius = 0.15 + 0.04 * person.habitus
    centre_y = person.apex + 0.44 + 0.0008 * person.age
    across = (np.abs(at.x - lung.spine) - 0.235) / radius
    down = (at.y - centre_y) / (radius * np.where(at.y > centre_y, 0.85, 1.6))
    return (0.10 + 0.06 * person.habitus) * dome(np.hypot(across, down)) ** 0.8


def heart(person: Person, shot: Shot, lung: Lungs, at: Grid) -> Map:
    """How much of the heart the ray passes, 0 to 1: a slanting left border down to the apex, a bulging right atrium."""
    size = person.heart * (1.20 if shot.view == AP_SUPINE else 1.0)
    across = at.x - lung.spine + 0.4 * shot.turn
    top, bottom = person.apex + 0.23, person.base - shot.inspiration + 0.05
    down = np.clip((at.y - top) / (bottom - top), 0, 1.3)
    slope = np.sin(0.5 * np.pi * np.clip(down / 0.88, 0, 1)) ** 1.6 * dome(np.clip((down - 0.88) / 0.40, 0, 1))
    left = 0.045 + (1.75 * size - 0.045) * slope
    right = 0.040 + 0.55 * size * np.sin(np.pi * np.clip((down - 0.2) / 1.1, 0, 1)) ** 0.8
    position = np.abs(across - 0.5 * (left - right)) / (0.5 * (left + right))
    return (
        dome(np.clip(position, 0, 1)) ** 0.7
        * step(at.y - top - 0.02, 0.03)
        * (1 - 0.75 * step(at.y - lung.diaphragm - 0.01, 0.012))
    )


def mediastinum(person: Person, shot: Shot, lung: Lungs, at: Grid) -> Map:
    """How much of the great vessels the ray passes, 0 to about 1: upper trunk, aortic knob, descending aorta."""
    across = at.x - lung.spine + 0.3 * shot.turn
    wide = 0.052 + (0.016 if shot.view == AP_SUPINE else 0.0) + 0.02 * np.exp(-(((at.y - person.apex) / 0.10) ** 2))
    trunk = step(wide + 0.006 * np.sin(14 * at.y) - np.abs(across - 0.006), 0.018)
    knob_y = person.apex + 0.20
    knob = dome(np.hypot((across - 0.050) / (0.040 + 0.022 * person.aorta), (at.y - knob_y) / (0.05 + 0.015 * person.aorta)))
    aorta = step(0.020 + 0.008 * person.aorta - np.abs(across - 0.050 - 0.012 * person.aorta), 0.008) * step(at.y - knob_y, 0.02)
    return as_map(np.maximum(trunk, 0.95 * knob**0.7) + 0.30 * person.aorta * aorta)


def airways(person: Person, lung: Lungs, at: Grid) -> Map:
    """Trachea and main bronchi: dark bands down to the carina. Negative attenuation."""
    across, carina = at.x - lung.spine, person.apex + 0.26
    trachea = step(0.020 - np.abs(across - 0.006), 0.006) * step(carina - at.y, 0.02)
    fork = np.abs(np.abs(across) - 0.55 * (at.y - carina))
    bronchi = step(0.011 - fork, 0.006) * step(at.y - carina, 0.01) * step(carina + 0.11 - at.y, 0.03)
    return -0.10 * trachea - 0.05 * bronchi


def gas(person: Person, lung: Lungs, at: Grid) -> Map:
    """Stomach bubble under the left dome and a few bowel loops. Negative attenuation."""
    rng = np.random.default_rng([person.seed, 3])
    total = np.zeros_like(at.x)
    for index in range(int(rng.integers(1, 6))):
        first = index == 0
        x0 = rng.uniform(0.13, 0.22) if first else rng.uniform(-0.25, 0.28)
        y0 = rng.uniform(0.05, 0.09) if first else rng.uniform(0.10, 0.24)
        bubble = dome(np.hypot((at.x - x0) / rng.uniform(0.03, 0.08), (at.y - person.base - y0) / rng.uniform(0.02, 0.05)))
        total -= np.float32(rng.uniform(0.04, 0.22)) * bubble
    return total * step(at.y - lung.diaphragm - 0.012, 0.008)

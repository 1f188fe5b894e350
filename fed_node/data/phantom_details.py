"""What lies in and on the phantom's lungs: vessels, opacities, tubes and leads. Lines are drawn by Pillow on a doubled canvas."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter

from fed_node.data.phantom_body import AP_SUPINE, Grid, Lungs, Map, Person, Shot, as_map, cloud, dome

OVERSAMPLING = 2


def air(lung: Lungs, at: Grid) -> Map:
    """How much air the ray passes: rises within a few millimetres of the lung's border and then slowly. In [0, 1]."""
    pixel = 1 / (at.side * at.shot.zoom)
    depth = distance_transform_edt(lung.mask).astype(np.float32) * pixel
    edge = np.clip(depth / 0.012, 0, 1)
    return as_map((edge * (0.55 + 0.45 * (1 - np.exp(-depth / 0.05)))).astype(np.float32))


def vessels(person: Person, shot: Shot, at: Grid) -> Map:
    """Hila, and trees of vessels that branch and thin towards the pleura."""
    rng = np.random.default_rng([person.seed, 5])
    canvas = _canvas(at.side)
    ink = ImageDraw.Draw(canvas)
    hilum_y = person.apex + 0.32 - 0.4 * shot.inspiration
    shadows = np.zeros_like(at.x)
    for sign in (-1, 1):
        x0, y0 = sign * 0.075 - 0.25 * shot.turn, hilum_y - (0.02 if sign > 0 else 0)
        shadows += dome(np.hypot((at.x - x0) / 0.050, (at.y - y0) / 0.085))
        for angle in np.linspace(-1.45, 1.50, 11) + rng.normal(0, 0.15, 11):
            start = (x0 + sign * rng.uniform(0, 0.03), y0 + 0.05 * math.sin(angle) + rng.normal(0, 0.015))
            heading = angle if sign > 0 else math.pi - angle
            _branch(ink, at, rng, (*start, heading, rng.uniform(0.05, 0.10), rng.uniform(1.4, 3.2)))
    tree = gaussian_filter(_shrunk(canvas, at.side), 0.7 * at.side / 256)
    return as_map(0.13 * tree + 0.08 * shadows**1.5 * np.clip(1 + 0.4 * cloud(rng, at.side, 20), 0, 2))


def interstitium(person: Person, at: Grid) -> Map:
    """The fine mottling of normal lung, stronger with age."""
    rng = np.random.default_rng([person.seed, 6])
    strength = 0.010 + 0.00012 * person.age
    return as_map(np.float32(strength) * (cloud(rng, at.side, 64) + cloud(rng, at.side, 28) + 0.7 * cloud(rng, at.side, 110)))


def opacities(shot: Shot, lung: Lungs, at: Grid) -> Map:
    """Patchy consolidation and ground glass, mostly low and peripheral, as viral pneumonia looks; zero for severity 0."""
    total = np.zeros_like(at.x)
    rows, columns = np.nonzero(lung.mask)
    if shot.severity <= 0 or rows.size == 0:
        return total
    rng = np.random.default_rng([shot.seed, 7])
    low = np.sort(rng.integers(0, rows.size, 64))[::-1]  # later pixels of the mask lie lower
    for index in range(1 + int(5 * shot.severity)):
        pick = low[int(rng.integers(0, 40)) if index else 0]
        x0, y0 = float(at.x[rows[pick], columns[pick]]), float(at.y[rows[pick], columns[pick]])
        wide, tall = rng.uniform(0.05, 0.13, 2)
        blob = np.exp(-(((at.x - x0) / wide) ** 2) - ((at.y - y0) / tall) ** 2)
        total += np.float32(rng.uniform(0.5, 1.0)) * blob
    patchy = np.clip(0.8 + 0.35 * cloud(rng, at.side, 18) + 0.25 * cloud(rng, at.side, 45), 0, 2)
    return as_map(np.float32(0.10 + 0.16 * shot.severity) * np.clip(total, 0, 1.3) * patchy)


def equipment(person: Person, shot: Shot, at: Grid) -> Map:
    """Tracheal tube, central line, and monitoring leads with their electrodes, on supine patients. Zero in a PA view."""
    if shot.view != AP_SUPINE:
        return np.zeros_like(at.x)
    rng = np.random.default_rng([shot.seed, 8])
    canvas = _canvas(at.side)
    ink = ImageDraw.Draw(canvas)
    unit = OVERSAMPLING * at.side / 256
    if rng.random() < 0.6:
        tip = person.apex + rng.uniform(0.16, 0.22)
        for offset in (-0.008, 0.008):
            _line(ink, at, [(offset + 0.006, -0.3), (offset + 0.008, 0.0), (offset + 0.004, tip)], unit, 140)
    if rng.random() < 0.5:
        _line(
            ink,
            at,
            _curve([(-0.20, -0.05), (-0.13, person.apex), (-0.07, person.apex + 0.1), (-0.05, person.apex + 0.3)]),
            unit,
            170,
        )
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(-0.32, 0.32), person.apex + rng.uniform(0.08, 0.55)
        edge = math.copysign(0.75, x + rng.normal(0, 0.1))
        _line(
            ink,
            at,
            _curve([(x, y), (x * 1.2, y + 0.10), (0.7 * edge, y + rng.uniform(-0.1, 0.2)), (edge, y + rng.uniform(-0.2, 0.3))]),
            unit,
            150,
        )
        column, row = (OVERSAMPLING * value for value in at.pixel(x, y))
        ink.ellipse((column - 4 * unit, row - 4 * unit, column + 4 * unit, row + 4 * unit), outline=230, width=round(1.5 * unit))
    return as_map(0.32 * gaussian_filter(_shrunk(canvas, at.side), 0.35 * at.side / 256))


def _branch(ink: ImageDraw.ImageDraw, at: Grid, rng: np.random.Generator, stem: tuple[float, float, float, float, float]) -> None:
    """Draw one vessel and its two children, until it is thinner than half a pixel at 256."""
    x, y, heading, length, width = stem
    if width < 0.5:
        return
    bend = rng.normal(0, 0.30)
    middle = (x + 0.5 * length * math.cos(heading), y + 0.5 * length * math.sin(heading))
    end = (middle[0] + 0.5 * length * math.cos(heading + bend), middle[1] + 0.5 * length * math.sin(heading + bend))
    scale = OVERSAMPLING * at.side / 256
    _line(ink, at, [(x, y), middle, end], width * scale, round(min(255.0, 40 + 60 * width)))
    for turn in (rng.uniform(0.1, 0.45), -rng.uniform(0.1, 0.45)):
        _branch(ink, at, rng, (*end, heading + bend + turn, length * rng.uniform(0.6, 0.85), width * rng.uniform(0.6, 0.75)))


def _line(ink: ImageDraw.ImageDraw, at: Grid, points: list[tuple[float, float]], width: float, grey: int) -> None:
    pixels = [tuple(OVERSAMPLING * value for value in at.pixel(*point)) for point in points]
    ink.line([(column, row) for column, row in pixels], fill=grey, width=max(1, round(width)), joint="curve")


def _curve(control: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A cubic Bezier curve through 24 points."""
    t = np.linspace(0, 1, 24)[:, None]
    weights = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    return [(float(x), float(y)) for x, y in weights @ np.asarray(control)]


def _canvas(side: int) -> Image.Image:
    return Image.new("L", (OVERSAMPLING * side, OVERSAMPLING * side))


def _shrunk(canvas: Image.Image, side: int) -> Map:
    return as_map(np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255)

"""The phantom's skeleton: spine, ribs, clavicles, shoulder blades. Maps of attenuation, as in fed_node.data.phantom_body."""

from __future__ import annotations

import numpy as np

from fed_node.data.phantom_body import AP_SUPINE, Grid, Lungs, Map, Person, Shot, as_map, dome, step

RIB_SPACING = 0.066
"""Distance of neighbouring ribs at the spine, in picture sides: ten pairs over a full inspiration."""


def skeleton(person: Person, shot: Shot, lung: Lungs, at: Grid) -> Map:
    """All bones, scaled by the person's bone contrast."""
    bones = spine(person, lung, at) + ribs(person, lung, at) + clavicles(person, shot, lung, at) + shoulders(person, shot, lung, at)
    return as_map(np.float32(person.bone) * bones)


def spine(person: Person, lung: Lungs, at: Grid) -> Map:
    """A column of vertebral bodies with discs between, pedicles, and the row of spinous processes."""
    across = at.x - lung.spine
    phase = 2 * np.pi * (at.y / 0.052 + (person.seed % 11) / 11)
    body = step(0.040 + 0.004 * np.cos(phase) - np.abs(across), 0.006) * (1 + 0.22 * np.cos(phase))
    pedicle = dome(np.hypot((np.abs(across) - 0.024) / 0.010, np.sin(phase / 2 + 0.6) / 0.35))
    process = step(0.006 - np.abs(across), 0.004) * (1 + np.cos(phase + 1.5))
    return as_map(0.055 * body + 0.03 * pedicle + 0.02 * process)


def ribs(person: Person, lung: Lungs, at: Grid) -> Map:
    """Posterior ribs fall gently from the spine to the wall; anterior ribs, fainter, fall from the wall towards the sternum."""
    rng = np.random.default_rng([person.seed, 1])
    across = np.abs(at.x - lung.spine)
    reach = across / (lung.cage + 0.014)
    inside = step(1.0 - reach, 0.015)
    wobble = rng.uniform(0, 2 * np.pi)
    steep = rng.uniform(0.85, 1.2)
    back_drop = np.float32(steep) * (0.015 * reach + 0.105 * reach**3)
    front_drop = np.float32(steep) * (0.215 - 0.105 * reach**2 + 0.03 * (1 - reach))
    back = _family((at.y - person.apex - back_drop) / RIB_SPACING + 0.9, 0.24, 10.6, wobble)
    front = _family((at.y - person.apex - front_drop) / RIB_SPACING + 0.4, 0.25, 7.6, wobble + 1)
    back *= step(reach - 0.10, 0.02) * (0.75 + 0.55 * np.clip(reach, 0, 1) ** 4)
    front *= step(reach - 0.42, 0.06) * (0.35 + 0.45 * np.clip(reach, 0, 1) ** 3)
    return (0.095 * back + 0.045 * front) * inside


def clavicles(person: Person, shot: Shot, lung: Lungs, at: Grid) -> Map:
    """Two S-shaped bars from the sternum to the shoulders; supine they lie higher."""
    across = np.abs(at.x - lung.spine)
    height = person.apex + (0.035 if shot.view == AP_SUPINE else 0.065)
    reach = (across - 0.045) / 0.33
    line = height - 0.055 * reach - 0.022 * np.sin(2.6 * np.pi * np.clip(reach, -0.1, 1.1))
    half = 0.013 + 0.007 * np.clip(1 - reach / 0.2, 0, 1)
    return 0.17 * _bar((at.y - line) / half) * step(across - 0.045, 0.006) * step(0.40 - across, 0.012)


def shoulders(person: Person, shot: Shot, lung: Lungs, at: Grid) -> Map:
    """Blades and humeral heads; in a PA view the blades are turned out of the lungs, supine they lie over them."""
    across = np.abs(at.x - lung.spine)
    inner = 0.30 if shot.view == AP_SUPINE else 0.375
    edge = inner + 0.22 * (at.y - person.apex - 0.05)
    blade = (
        step(across - edge, 0.006)
        * step(at.y - person.apex + 0.005, 0.02)
        * step(person.apex + 0.36 - at.y + 0.3 * (across - edge), 0.03)
    )
    rim = np.exp(-(((across - edge) / 0.008) ** 2)) * blade
    head = dome(np.hypot((across - 0.475) / 0.055, (at.y - person.apex - 0.035) / 0.06))
    shaft = _bar((across - 0.50 - 0.1 * (at.y - person.apex)) / 0.028) * step(at.y - person.apex - 0.06, 0.02)
    return as_map(0.035 * blade + 0.05 * rim + 0.14 * head**0.7 + 0.10 * shaft)


def _family(index: Map, half: float, last: float, wobble: float) -> Map:
    """A stack of ribs: ``index`` counts spacings down from the first; a rib is ``2 * half`` spacings wide."""
    index = index + 0.16 * np.sin(1.1 * index + np.float32(wobble))
    inside = step(index, 0.05) * step(np.float32(last) - index, 0.05)
    centred = np.abs(index - np.floor(index) - 0.5)
    return _bar(centred / np.float32(half)) * inside


def _bar(position: Map) -> Map:
    """A tube's profile over position / half width: bright cortex at the rims, paler marrow between."""
    away = np.abs(position)
    return as_map(step(1 - away, 0.30) * (0.75 + 0.30 * np.exp(-(((away - 0.75) / 0.3) ** 2))))

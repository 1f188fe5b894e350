"""From attenuation to a picture: each hospital's exposure, contrast, sharpness, noise, field of view, collimation and letters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from fed_node.data.limits import GreyImage
from fed_node.data.phantom_body import AP_SUPINE, Map, Shot, as_map, cloud


@dataclass(frozen=True)
class Hospital:
    """One hospital's imaging habits and patients.

    Attributes:
        name: goes into the column ``location``.
        black, white: attenuation that is shown black and white.
        gamma: exponent of the display curve.
        detail: strength of local contrast enhancement.
        blur: sigma of the detector's point spread, in pixels at 256.
        noise: standard deviation of quantum noise where the film is darkest, of a full scale of 1.
        zoom: usual magnification.
        border: width of the black collimation border, in picture sides.
        letters: burnt in at ``letters_at`` (x, y as fractions of the side).
        supine: share of images taken AP supine.
        mean_age: of its patients.
    """

    name: str
    black: float
    white: float
    gamma: float
    detail: float
    blur: float
    noise: float
    zoom: float
    border: float
    letters: str
    letters_at: tuple[float, float]
    supine: float
    mean_age: float


HOSPITALS = (
    Hospital("Alder Hospital", 0.02, 1.02, 1.00, 0.30, 0.45, 0.010, 1.00, 0.000, "L", (0.91, 0.05), 0.10, 42.0),
    Hospital("Birch Clinic", -0.45, 1.35, 1.10, 0.10, 0.80, 0.006, 0.93, 0.030, "L", (0.88, 0.10), 0.25, 55.0),
    Hospital("Cedar Hospital", 0.02, 0.92, 0.80, 0.20, 0.65, 0.016, 1.06, 0.000, "R  AP", (0.06, 0.06), 0.70, 67.0),
    Hospital("Dune Medical Centre", -0.25, 1.05, 0.95, 0.50, 0.40, 0.012, 0.96, 0.012, "ERECT  L", (0.72, 0.03), 0.35, 60.0),
)


def develop(density: Map, hospital: Hospital, shot: Shot) -> GreyImage:
    """Expose, blur, add noise, enhance, apply the display curve, burn in the letters, collimate.

    Args:
        density: float32 [side, side] sum of attenuation.
        hospital: whose machine.
        shot: its seed draws noise and small variations of exposure.

    Returns:
        uint8 [side, side].
    """
    rng = np.random.default_rng([shot.seed, 9])
    side = density.shape[0]
    mobile = shot.view == AP_SUPINE
    sharp = gaussian_filter(density, hospital.blur * (1.4 if mobile else 1.0) * side / 256)
    sharp = sharp + _heel(side, rng)
    unit = (sharp - hospital.black - rng.normal(0, 0.03)) / ((hospital.white - hospital.black) * rng.uniform(0.92, 1.10))
    unit = unit + hospital.detail * (unit - _smooth(unit, side // 12))
    unit = unit + _grain(rng, side) * hospital.noise * (1.6 if mobile else 1.0) * (0.6 + 0.8 * np.clip(unit, 0, 1))
    shown = np.clip(_shoulder(unit), 0, 1) ** np.float32(hospital.gamma * rng.uniform(0.92, 1.08))
    picture = Image.fromarray(np.rint(255 * shown).astype(np.uint8))
    return _finish(picture, hospital, mobile, rng)


def _shoulder(unit: Map) -> Map:
    """The film's toe and shoulder: linear in the middle, compressed at both ends."""
    return np.where(
        unit > 0.8, 0.8 + 0.2 * np.tanh((unit - 0.8) / 0.2), np.where(unit < 0.08, 0.08 * np.exp((unit - 0.08) / 0.08), unit)
    )


def _heel(side: int, rng: np.random.Generator) -> Map:
    """Uneven illumination: a weak tilt, as the anode heel effect makes."""
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    return as_map(np.float32(rng.normal(0, 0.02)) * ramp[None, :] + np.float32(rng.normal(0, 0.02)) * ramp[:, None])


def _grain(rng: np.random.Generator, side: int) -> Map:
    """Quantum noise, half of it correlated over neighbouring pixels."""
    return rng.standard_normal((side, side), np.float32) + 0.6 * cloud(rng, side, side // 2)


def _smooth(values: Map, radius: int) -> Map:
    """A wide blur through a small copy."""
    side = values.shape[0]
    small = Image.fromarray(values).resize((side // 4, side // 4), Image.Resampling.BOX)
    blurred = gaussian_filter(np.asarray(small, np.float32), radius / 4)
    return np.asarray(Image.fromarray(blurred).resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _finish(picture: Image.Image, hospital: Hospital, mobile: bool, rng: np.random.Generator) -> GreyImage:  # noqa: FBT001 - a private step
    side = picture.width
    ink = ImageDraw.Draw(picture)
    border = round(side * hospital.border * rng.uniform(0.3, 1.5))
    if border:
        ink.rectangle((0, 0, side - 1, side - 1), outline=0, width=border)
    x, y = hospital.letters_at
    text = "SUPINE  L" if mobile and "L" in hospital.letters else hospital.letters
    place = (side * min(x, 0.78 if mobile else x), side * y + rng.uniform(0, 0.03) * side)
    ink.text(place, text, fill=int(rng.integers(215, 256)), font=ImageFont.load_default(size=max(8, round(0.042 * side))))
    return np.asarray(picture, np.uint8)

"""Small random changes of view and exposure, the same for image, mask and soft label, for a whole batch at once.

Resampling a batch in one call costs a tenth of MONAI's one-sample dictionary transforms; the resampling itself is MONAI's.
There is no left-right flip: the heart lies on one side, and a mirrored radiograph is either a mistake in the archive or a situs
inversus, which the student should not be taught to expect in every second patient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from monai.networks.layers import AffineTransform
from torch import Tensor

from fed_node.student.losses import Targets


@dataclass(frozen=True)
class Augmentation:
    """Half-widths of uniform distributions around "unchanged".

    Attributes:
        rotation_degrees: about the centre.
        shift: of the image's side, in x and in y.
        scale: of the size; 0.15 is 85 to 115 %.
        gamma_octaves: exposure; the grey values' exponent is 2 to the power of this.
        contrast: factor about mid-grey.
        noise: largest standard deviation of Gaussian noise; images are in [0, 1].
    """

    rotation_degrees: float = 15.0
    shift: float = 0.08
    scale: float = 0.15
    gamma_octaves: float = 0.6
    contrast: float = 0.25
    noise: float = 0.06


DEFAULT_AUGMENTATION = Augmentation()

_RESAMPLE = AffineTransform(normalized=True, mode="bilinear", padding_mode="border", align_corners=False)
# Border, not zeros: a logit of zero outside the image would tell the student "maybe foreground".


def augment(images: Tensor, targets: Targets, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Targets]:
    """Change a batch.

    Args:
        images: float32 [B, 1, H, W] in [0, 1]; left unchanged.
        targets: what belongs to them; left unchanged.
        how: how much.
        generator: the only source of randomness.

    Returns:
        New images in [0, 1] and targets that moved with them; masks are zeros and ones again.
    """
    planes = [images, targets.masks] if targets.soft is None else [images, targets.masks, targets.soft]
    moved = _RESAMPLE(torch.cat(planes, 1), _affine(len(images), how, generator))
    exposed = _expose(moved[:, :1], how, generator)
    masks = (moved[:, 1:2] >= 0.5).to(images.dtype)
    soft = None if targets.soft is None else moved[:, 2:3]
    return exposed, Targets(masks, targets.has_mask, soft)


def _affine(samples: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Inverse maps, output to input, in coordinates of -1 to 1: float32 [B, 2, 3]."""
    rotation, grow, *shift = _uniform((4, samples), generator)
    angle = rotation * math.radians(how.rotation_degrees)
    size = 1 / (1 + grow * how.scale)
    cosine, sine = torch.cos(angle) * size, torch.sin(angle) * size
    # The side is 2 in these coordinates.
    right, down = (2 * how.shift * amount for amount in shift)
    rows = [torch.stack([cosine, -sine, right], 1), torch.stack([sine, cosine, down], 1)]
    return torch.stack(rows, 1)


def _expose(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    exponent, factor, noise = (row.reshape(-1, 1, 1, 1) for row in _uniform((3, len(images)), generator))
    # pow() has an infinite slope at zero, but nothing is differentiated here.
    exposed = images.clamp(0, 1) ** (2 ** (exponent * how.gamma_octaves))
    contrasted = (exposed - 0.5) * (1 + factor * how.contrast) + 0.5
    grain = torch.randn(images.shape, generator=generator)
    noisy: Tensor = contrasted + noise.abs() * how.noise * grain
    return noisy.clamp(0, 1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(shape, generator=generator) - 1

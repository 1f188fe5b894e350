"""Maps at another size; pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Maps = npt.NDArray[np.floating[Any]]
"""[..., h, w]."""

Content = tuple[float, float]
"""(height, width) of a map's top-left part; fractions where a pixel of the map covers the image in part."""


def whole(extent: float) -> float:
    """An extent without a fraction as an integer, so that whole contents are written as such."""
    return int(extent) if float(extent).is_integer() else extent


def resized(maps: Maps, size: tuple[int, int], content: Content | None = None) -> npt.NDArray[np.float32]:
    """Bilinear with half-pixel centres (``align_corners=False``), map by map; where a map shrinks, it is averaged first.

    Args:
        maps: [..., h, w].
        size: (height, width).
        content: the part that becomes the whole; None for all. What lies beside it still enters its last pixels.

    Returns:
        float32 [..., height, width].
    """
    flat = maps.reshape(-1, *maps.shape[-2:]).astype(np.float32)
    height, width = content or maps.shape[-2:]
    box = (0.0, 0.0, float(width), float(height))
    pictures = (Image.fromarray(one, mode="F").resize((size[1], size[0]), Image.Resampling.BILINEAR, box) for one in flat)
    return np.stack([np.asarray(one, np.float32) for one in pictures]).reshape(*maps.shape[:-2], *size)

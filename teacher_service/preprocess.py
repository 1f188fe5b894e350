"""What the teachers' authors do to a picture before the network sees it; pure.

Each variant has an id. The id enters every answer and every cache key, because the same weights behind another pre-processing are
another teacher.

* ``longest256-area-minmax-v1``, LiteMedSAM (bowang-lab/MedSAM, branch LiteMedSAM, CVPR24 inference script): longest side to 256
  with OpenCV's INTER_AREA, min-max over the whole picture to [0, 1], zeros padded on the right and the bottom; coordinates times
  256 / max(H, W), truncated to integers.
* ``stretch256-nearest-bgr-v1``, SAM-Med2D (OpenGVLab/SAM-Med2D, predictor_sammed.py): OpenCV's INTER_NEAREST to 256x256 whatever
  the aspect, (value - mean) / std with SAM's constants applied in blue-green-red order as in their training; coordinates scaled
  in x and y separately, not rounded.
* ``longest1024-bilinear-rgb-v2``, SAM (facebookresearch/segment-anything, predictor.py and transforms.py): longest side to 1024
  with Pillow's bilinear filter, (value - mean) / std, zeros on the right and the bottom; coordinates scaled per axis, not rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fedmentor.teacher.contract import Pixels

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]

SIDE = 256
SAM_SIDE = 1024

# SAM's constants (segment_anything.modeling.Sam), in the order of its channels.
_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
_STD = np.array([58.395, 57.12, 57.375], np.float32)


@dataclass(frozen=True)
class Preprocessing:
    """One way from a picture to a network's input.

    Attributes:
        id: the name that enters answers and cache keys.
        image: uint8 [H, W] or [H, W, 3] RGB to float32 [3, S, S].
        content: picture size (H, W) to the (height, width) of the input's top-left part that shows the picture.
        coordinates: float64 [..., 2] x, y on a picture of size (H, W) to float32 [..., 2] on the input.
    """

    id: str
    image: Callable[[Pixels], Floats]
    content: Callable[[Size], Size]
    coordinates: Callable[[npt.NDArray[np.float64], Size], Floats]


def longest_image(pixels: Pixels) -> Floats:
    """LiteMedSAM's input; see the module's text.

    Returns:
        float32 [3, 256, 256] in [0, 1].
    """
    height, width = longest_content((pixels.shape[0], pixels.shape[1]))
    small = resize_area(pixels, (height, width)).astype(np.float64)
    spread = max(small.max() - small.min(), 1e-8)
    padded = np.zeros((3, SIDE, SIDE), np.float32)
    padded[:, :height, :width] = _three_channels((small - small.min()) / spread)
    return padded


def longest_content(size: Size) -> Size:
    """Size after the longest side became 256; halves round up, as the authors do."""
    scale = SIDE / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def longest_coordinates(xy: npt.NDArray[np.float64], size: Size) -> Floats:
    """Scaled by 256 / max(H, W) and truncated, as the authors do."""
    return np.asarray(np.trunc(xy * (SIDE / max(size))), np.float32)


def sam_image(pixels: Pixels) -> Floats:
    """SAM's input; see the module's text.

    Returns:
        float32 [3, 1024, 1024].
    """
    height, width = sam_content((pixels.shape[0], pixels.shape[1]))
    small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    padded = np.zeros((3, SAM_SIDE, SAM_SIDE), np.float32)
    padded[:, :height, :width] = (_three_channels(small).astype(np.float32) - _MEAN[:, None, None]) / _STD[:, None, None]
    return padded


def sam_content(size: Size) -> Size:
    """Size after the longest side became 1024; halves round up, as the authors do."""
    scale = SAM_SIDE / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def sam_coordinates(xy: npt.NDArray[np.float64], size: Size) -> Floats:
    """Scaled by the new size over the old one, in x and in y."""
    height, width = sam_content(size)
    return np.asarray(xy * np.array([width / size[1], height / size[0]]), np.float32)


def stretched_image(pixels: Pixels) -> Floats:
    """SAM-Med2D's input; see the module's text.

    Returns:
        float32 [3, 256, 256].
    """
    rows, columns = (np.arange(SIDE) * extent // SIDE for extent in pixels.shape[:2])
    small = pixels[np.ix_(rows, columns)]
    blue_green_red = _three_channels(small[..., ::-1] if small.ndim == 3 else small).astype(np.float32)
    normal: Floats = (blue_green_red - _MEAN[:, None, None]) / _STD[:, None, None]
    return normal


def stretched_content(_size: Size) -> Size:
    """The picture fills the whole input."""
    return SIDE, SIDE


def stretched_coordinates(xy: npt.NDArray[np.float64], size: Size) -> Floats:
    """Scaled in x by 256 / W and in y by 256 / H."""
    return np.asarray(xy * np.array([SIDE / size[1], SIDE / size[0]]), np.float32)


LONGEST256 = Preprocessing("longest256-area-minmax-v1", longest_image, longest_content, longest_coordinates)
SAM1024 = Preprocessing("longest1024-bilinear-rgb-v2", sam_image, sam_content, sam_coordinates)
STRETCH256 = Preprocessing("stretch256-nearest-bgr-v1", stretched_image, stretched_content, stretched_coordinates)


def resize_area(pixels: Pixels, size: Size) -> Pixels:
    """OpenCV's ``resize(..., INTER_AREA)`` without OpenCV.

    Shrinking averages the source over each target pixel's area, exactly. As in OpenCV, enlarging in either direction becomes
    a linear blend in which every target pixel that lies within one source pixel keeps its value.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        size: target (H, W).

    Returns:
        uint8 of the target size. Equal to OpenCV when shrinking; within one grey level when enlarging, where OpenCV rounds its
        weights to 11 bits.
    """
    if pixels.shape[:2] == size:
        return pixels
    # Not source / target: the last bit decides on which side of a pixel's edge a target falls, and OpenCV computes it this way.
    scales = [1 / (target / source) for source, target in zip(pixels.shape[:2], size, strict=True)]
    taps = _area_taps if min(scales) >= 1 else _linear_taps
    rows = _blend(pixels, [taps(i, scales[0], pixels.shape[0]) for i in range(size[0])])
    mixed = _blend(rows.swapaxes(0, 1), [taps(i, scales[1], pixels.shape[1]) for i in range(size[1])]).swapaxes(0, 1)
    # OpenCV has a fast path for exact halving that rounds halves up; everywhere else it rounds halves to even.
    rounded = np.floor(mixed + 0.5) if scales == [2.0, 2.0] else np.rint(mixed)
    return np.asarray(rounded, np.uint8)


_Taps = tuple[int, npt.NDArray[np.float64]]
"""First source index and the weights of it and its followers."""


def _area_taps(index: int, scale: float, extent: int) -> _Taps:
    start, stop = index * scale, min((index + 1) * scale, float(extent))
    first, last = int(start), min(int(np.ceil(stop - 1e-9)), extent)
    edges = np.arange(first, last + 1, dtype=np.float64).clip(start, stop)
    return first, np.diff(edges) / (stop - start)


def _linear_taps(index: int, scale: float, extent: int) -> _Taps:
    first = min(int(index * scale), extent - 1)
    share = float(np.float32((index + 1) - (first + 1) * (1 / scale)))  # OpenCV keeps it in single precision
    share = share - np.floor(share) if share > 0 else 0.0
    if first == extent - 1:
        return first, np.ones(1)
    return first, np.array([1.0 - share, share])


def _blend(values: npt.NDArray[Any], taps: list[_Taps]) -> npt.NDArray[np.float64]:
    """Weighted sums along the first axis, one target row at a time, so that a large radiograph is never copied to floats whole."""
    return np.stack([np.tensordot(weights, values[first : first + weights.size], axes=1) for first, weights in taps])


def _three_channels(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[H, W] or [H, W, 3] to [3, H, W]."""
    return picture.transpose(2, 0, 1) if picture.ndim == 3 else np.broadcast_to(picture, (3, *picture.shape))

"""V7 Darwin annotation files: JSON with polygons, versions 1 and 2.

A polygon annotation has its outline in ``path``, further outlines in ``additional_paths`` (or all in ``paths``, version 2); a
``complex_polygon`` has a list of outlines in ``path``. Within one annotation outlines follow the even-odd rule, so that an outline
inside another is a hole; annotations of the same name are joined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fed_node.data.limits import Mask, check_pixels
from fedmentor.errors import DataError

MAX_JSON_BYTES = 64 << 20
MAX_POINTS = 2_000_000
MAX_COORDINATE = 1e6
"""Outlines may run over the edge of the picture; Pillow's fixed-point rasteriser needs them smaller than this."""

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Annotation:
    """One annotated image.

    Attributes:
        image_name: file name of the image that was annotated.
        size: its (H, W).
        shapes: per annotation of the wanted name, its outlines as (x, y) pixels.
    """

    image_name: str
    size: tuple[int, int]
    shapes: tuple[tuple[Outline, ...], ...]


def read_annotation(path: Path, name: str) -> Annotation:
    """Read the annotations of one name (compared without case).

    Raises:
        DataError: not a Darwin file, or over a limit; names the file.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} is over the limit of {MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_bytes())
        image_name, size = _image(content)
        shapes = tuple(
            tuple(_outline(path_) for path_ in _paths(item)) for item in content["annotations"] if _is_polygon(item, name)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(f"{path} is not a V7 Darwin annotation file ({type(error).__name__})") from error
    check_pixels(path, *size)
    if sum(len(outline) for shape in shapes for outline in shape) > MAX_POINTS:
        raise DataError(f"{path} has more than {MAX_POINTS} points")
    return Annotation(image_name, size, shapes)


def rasterise(annotation: Annotation) -> Mask:
    """Fill the outlines at the annotated image's own size.

    Returns:
        bool [H, W]; outlines' own pixels are part of the shape.
    """
    height, width = annotation.size
    joined = np.zeros((height, width), np.bool_)
    for shape in annotation.shapes:
        parity = np.zeros((height, width), np.bool_)
        for outline in shape:
            canvas = Image.new("1", (width, height))
            ImageDraw.Draw(canvas).polygon(outline, fill=1)
            parity ^= np.asarray(canvas, np.bool_)
        joined |= parity
    return joined


def _image(content: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    if "image" in content:  # version 1
        image = content["image"]
        return str(image.get("original_filename") or image["filename"]), (int(image["height"]), int(image["width"]))
    slot = content["item"]["slots"][0]
    files = slot.get("source_files") or [{}]
    name = str(files[0].get("file_name") or content["item"]["name"])
    return name, (int(slot["height"]), int(slot["width"]))


def _is_polygon(item: Mapping[str, Any], name: str) -> bool:
    return str(item["name"]).casefold() == name.casefold() and ("polygon" in item or "complex_polygon" in item)


def _paths(item: Mapping[str, Any]) -> list[list[Mapping[str, float]]]:
    shape = item.get("complex_polygon") or item["polygon"]
    main = shape.get("paths") or shape["path"]
    nested = bool(main) and isinstance(main[0], list)
    return [*(main if nested else [main]), *shape.get("additional_paths", ())]


def _outline(points: list[Mapping[str, float]]) -> Outline:
    outline = tuple((float(point["x"]), float(point["y"])) for point in points)
    if len(outline) < 3:
        raise ValueError("an outline has at least three points")
    if not all(math.isfinite(value) and abs(value) < MAX_COORDINATE for point in outline for value in point):
        raise ValueError("a coordinate is not a finite number")
    return outline

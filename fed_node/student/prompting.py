"""Where the teacher is told to look in each image of a dataset."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fed_node.data.dataset import Sample
from fedmentor.errors import ConfigError, DataError
from fedmentor.teacher.contract import MAX_BOXES, Box, Prompt
from fedmentor.teacher.prompts import central_box, lung_boxes, mask_box

CSV_COLUMNS = ("id", "x0", "y0", "x1", "y1")
MAX_CSV_BYTES = 64 << 20


@dataclass(frozen=True)
class PromptSource:
    """A rule that gives every image its prompt.

    Attributes:
        name: for the record: ``central``, ``lungs``, ``mask``, or ``csv:`` and the file's SHA-256.
        prompt: (sample, (H, W) of its image) to a prompt; raises DataError where it has none.
    """

    name: str
    prompt: Callable[[Sample, tuple[int, int]], Prompt]


def prompt_source(choice: str) -> PromptSource:
    """Read the rule that a person named.

    Args:
        choice: ``central`` (one box around both lung fields), ``lungs`` (one box each), ``mask`` (the box around the image's own
            mask), or the path of a CSV file with columns id, x0, y0, x1, y1 in pixels of the image; a row is a box.

    Raises:
        ConfigError: neither a rule nor a readable file.
        DataError: the file is not of that form.
    """
    if choice in _RULES:
        return PromptSource(choice, _RULES[choice])
    path = Path(choice)
    if path.suffix.lower() != ".csv":
        raise ConfigError(f"{choice!r} is not a prompt", cure=f"use {', '.join(_RULES)}, or a CSV file of boxes")
    return _csv_source(path)


def _csv_source(path: Path) -> PromptSource:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CSV_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_CSV_BYTES:
        raise DataError(f"{path} is over the limit of {MAX_CSV_BYTES} bytes")
    boxes = _boxes(path, content)
    return PromptSource(f"csv:{hashlib.sha256(content).hexdigest()}", lambda sample, _size: _listed(boxes, sample, path))


def _boxes(path: Path, content: bytes) -> Mapping[str, tuple[Box, ...]]:
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""))
        if not set(CSV_COLUMNS) <= set(rows.fieldnames or ()):
            raise DataError(f"{path} lacks a column", cure=f"give the columns {', '.join(CSV_COLUMNS)}")
        boxes: dict[str, tuple[Box, ...]] = {}
        for row in rows:
            x0, y0, x1, y1 = (float(row[name]) for name in CSV_COLUMNS[1:])
            boxes[row["id"]] = (*boxes.get(row["id"], ()), Box(x0, y0, x1, y1))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise DataError(f"{path} has a row that is not a box", cure="give id,x0,y0,x1,y1 with numbers in pixels") from error
    crowded = next((image_id for image_id, listed in boxes.items() if len(listed) > MAX_BOXES), None)
    if crowded is not None:
        raise DataError(f"{path} has more than {MAX_BOXES} boxes for image {crowded!r}")
    return boxes


def _listed(boxes: Mapping[str, tuple[Box, ...]], sample: Sample, path: Path) -> Prompt:
    if sample.id not in boxes:
        raise DataError(f"{path} has no box for image {sample.id!r}")
    return Prompt(boxes=boxes[sample.id])


def _around_mask(sample: Sample, size: tuple[int, int]) -> Prompt:
    truth = sample.truth(size)
    if truth is None:
        raise DataError(f"image {sample.id!r} has no mask to draw a box around", cure="use --prompt central or lungs")
    return Prompt(boxes=mask_box(truth))


_RULES: Mapping[str, Callable[[Sample, tuple[int, int]], Prompt]] = {
    "central": lambda _sample, size: Prompt(boxes=central_box(size)),
    "lungs": lambda _sample, size: Prompt(boxes=lung_boxes(size)),
    "mask": _around_mask,
}

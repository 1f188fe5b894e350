"""What is asked about each image of a collection, from a table: CSV for boxes and clicks, JSON lines for anything a prompt can be.

CSV: a column ``id`` (the image file's name without its ending), and ``x0,y0,x1,y1`` for boxes, ``x,y,label`` for clicks, or both. A
row is a box or a click, the other cells empty; rows of one image make one prompt. JSON lines: one object a line, ``id`` and the
members of a prompt (fedmentor.teacher.prompt_form). Coordinates are pixels of the image.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedmentor.errors import ConfigError, DataError, PromptRefused
from fedmentor.teacher.prompt_form import MAX_BOXES, MAX_POINTS, Prompt, check_corners, prompt_from_json
from fedmentor.teacher.prompts import AUTOMATIC

MAX_TABLE_BYTES = 64 << 20

_ID = "id"
_BOX = ("x0", "y0", "x1", "y1")
_CLICK = ("x", "y", "label")


@dataclass(frozen=True)
class PromptTable:
    """Prompts by image.

    Attributes:
        name: for the record: ``csv:`` or ``jsonl:`` and the file's SHA-256.
        path: the file, for messages.
        prompts: by image id.
    """

    name: str
    path: Path
    prompts: Mapping[str, Prompt]

    def of(self, image_id: str) -> Prompt:
        """What is asked about an image.

        Raises:
            DataError: the table has nothing about it.
        """
        if image_id not in self.prompts:
            raise DataError(f"{self.path} has no prompt for image {image_id!r}")
        return self.prompts[image_id]


def named_table(choice: str) -> PromptTable:
    """The table that a person named where a rule or a table was asked for.

    Raises:
        ConfigError: neither a rule's name nor a readable file.
        DataError: see read_prompt_table.
    """
    path = Path(choice)
    if not path.suffix:
        raise ConfigError(f"{choice[:40]!r} is not a prompt", cure=f"use {', '.join(AUTOMATIC)}, mask, or a CSV or JSON lines file")
    return read_prompt_table(path)


def read_prompt_table(path: Path) -> PromptTable:
    """Read a table; what does not fit its image is found when the image is there.

    Raises:
        ConfigError: the file cannot be read, or its ending is neither .csv nor .jsonl.
        DataError: over MAX_TABLE_BYTES, not of the form above, or an inverted box; names the line.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _READERS:
        raise ConfigError(f"{path} is not a table of prompts", cure="give a .csv or a .jsonl file")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TABLE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_TABLE_BYTES:
        raise DataError(f"{path} is over the limit of {MAX_TABLE_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    return PromptTable(f"{kind}:{hashlib.sha256(content).hexdigest()}", path, _READERS[kind](path, text))


def _from_csv(path: Path, text: str) -> Mapping[str, Prompt]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    found: dict[str, Prompt] = {}
    with _told_where(path, rows):
        columns = rows.fieldnames or ()
        if _ID not in columns or not any(set(kind) <= set(columns) for kind in (_BOX, _CLICK)):
            raise PromptRefused("a column is missing", cure="give id,x0,y0,x1,y1 for boxes, id,x,y,label for clicks")
        for row in rows:
            if None in row or None in row.values():
                raise PromptRefused(f"expected {len(columns)} cells")
            image_id = row[_ID].strip()
            found[image_id] = _joined(found.get(image_id, Prompt()), _csv_prompt(row))
    return found


def _csv_prompt(row: Mapping[str, str]) -> Prompt:
    box, click = _numbers(row, _BOX), _numbers(row, _CLICK)
    if not box and not click:
        raise PromptRefused("there is neither a box nor a click")
    return _checked(prompt_from_json({"boxes": [box] if box else [], "points": [click] if click else []}))


def _numbers(row: Mapping[str, str], columns: tuple[str, ...]) -> list[float]:
    """The numbers in some columns, or none where the table lacks them or all are empty."""
    cells = {column: row.get(column, "").strip() for column in columns}
    return [_number(column, cell) for column, cell in cells.items()] if any(cells.values()) else []


def _number(column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PromptRefused(f"{column} is {cell[:40]!r}, not a number")
    return value


def _joined(first: Prompt, second: Prompt) -> Prompt:
    both = Prompt(first.boxes + second.boxes, first.points + second.points)
    if len(both.boxes) > MAX_BOXES or len(both.points) > MAX_POINTS:
        raise PromptRefused(f"an image has at most {MAX_BOXES} boxes and {MAX_POINTS} clicks")
    return both


def _from_json_lines(path: Path, text: str) -> Mapping[str, Prompt]:
    lines = _Lines(text)
    found: dict[str, Prompt] = {}
    with _told_where(path, lines):
        for line in lines:
            image_id, prompt = _json_prompt(line)
            if image_id in found:
                raise PromptRefused(f"image {image_id!r} stands here a second time")
            found[image_id] = prompt
    return found


class _Lines:
    """The lines that are not empty; ``line_num`` is that of the last one, as csv's readers have it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.line_num = 0

    def __iter__(self) -> Iterator[str]:
        for line in io.StringIO(self._text):
            self.line_num += 1
            if line.strip():
                yield line


def _json_prompt(line: str) -> tuple[str, Prompt]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PromptRefused("this is not JSON") from error
    if not isinstance(value, dict) or not isinstance(value.get(_ID), str):
        raise PromptRefused("expected an object with 'id' and a prompt")
    prompt = prompt_from_json({name: part for name, part in value.items() if name != _ID})
    if not prompt.each():
        raise PromptRefused("there is neither a box, a point nor a mask")
    return value[_ID], _checked(prompt)


def _checked(prompt: Prompt) -> Prompt:
    for each in prompt.each():
        if each.box is not None:
            check_corners(each.box)
    return prompt


@contextmanager
def _told_where(path: Path, lines: csv.DictReader[str] | _Lines) -> Iterator[None]:
    """What is refused inside is told with its line."""
    try:
        yield
    except (PromptRefused, csv.Error) as error:
        what, cure = (error.message, error.cure) if isinstance(error, PromptRefused) else (str(error), "")
        raise DataError(f"{path}, line {lines.line_num}: {what}", cure=cure) from error


_READERS: Mapping[str, Callable[[Path, str], Mapping[str, Prompt]]] = {"csv": _from_csv, "jsonl": _from_json_lines}

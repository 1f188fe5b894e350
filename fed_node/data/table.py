"""metadata.csv: one row an image, plain text in every cell."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmentor.errors import DataError, MissingMetadata

METADATA_FILE = "metadata.csv"
MAX_TABLE_BYTES = 64 << 20
MAX_COLUMNS = 256

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Table:
    """Columns in file order, and rows as mappings from column to text."""

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]


def read_table(path: Path) -> Table:
    """Read a CSV file with a header line, UTF-8 with or without a byte-order mark.

    Raises:
        MissingMetadata: absent, too large, not UTF-8 text, without a header, or with a malformed row.
    """
    try:
        if path.exists() and not path.is_file():
            raise MissingMetadata(f"{path} is not a file")
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise MissingMetadata(f"{path} is over the limit of {MAX_TABLE_BYTES} bytes")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise MissingMetadata(f"{path} is missing or cannot be opened", cure="a dataset folder needs metadata.csv") from error
    except UnicodeDecodeError as error:
        raise MissingMetadata(f"{path} is not UTF-8 text", cure="save it as CSV, UTF-8") from error
    try:
        return _parsed(path, csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise MissingMetadata(f"{path} is not a CSV file: {error}") from error


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV file; a row's missing columns are left empty.

    Raises:
        ValueError: a row has a column that is not in ``columns``.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check_id(text: str) -> str:
    """Refuse ids that cannot be a file name everywhere: letters, digits, dot, hyphen, underscore; at most 128.

    Raises:
        DataError: not of that form.
    """
    if not _ID.fullmatch(text):
        raise DataError(f"{text[:80]!r} is not an image id", cure="use letters, digits, '.', '-' and '_'")
    return text


def need_columns(names: Iterable[str], existing: Iterable[str]) -> None:
    """Refuse a table without a column that is needed.

    Raises:
        MissingMetadata: names the first missing column and those that exist.
    """
    present = list(existing)
    for name in names:
        if name not in present:
            raise MissingMetadata(
                f"there is no metadata column {name!r}", cure=f"add it, or use one of: {', '.join(present) or 'none'}"
            )


def _parsed(path: Path, reader: csv.DictReader[str]) -> Table:
    columns = tuple(reader.fieldnames or ())
    if not columns or len(columns) > MAX_COLUMNS or len(set(columns)) != len(columns):
        raise MissingMetadata(f"{path} needs a header line of 1 to {MAX_COLUMNS} different column names")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise MissingMetadata(f"{path}, line {reader.line_num}: expected {len(columns)} cells", cure="quote cells with commas")
        rows.append({name: value.strip() for name, value in row.items()})
    return Table(columns, tuple(rows))

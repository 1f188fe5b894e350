"""Importing chest X-rays with human lung masks from two public sources in their own formats.

Images: the COVID-19 Image Data Collection (Cohen et al., arXiv 2006.11988), a folder of pictures and a ``metadata.csv``.
Masks: the COVID-19 X-ray dataset of V7, one Darwin JSON file an image. The polygons are filled at the image's own size; then the
image is resized bicubically and the mask by area, foreground where at least half of a pixel is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fed_node.data.darwin import Annotation, rasterise, read_annotation
from fed_node.data.folder import FolderBuilder, building
from fed_node.data.limits import GreyImage, Mask
from fed_node.data.reading import read_image
from fed_node.data.table import need_columns, read_table
from fedmentor.errors import ConfigError, DataError, EmptyDataset

ORGAN = "Lung"
SIDE = 256
MIN_SIDE, MAX_SIDE = 64, 4096

LICENCES = ("CC BY", "CC BY-NC-SA", "listed as authorized for everyone")
"""Licences whose images are taken, any version of each: those that allow adaptation and, without payment, passing on."""

FRONTAL_VIEWS = ("PA", "AP", "AP Supine", "AP semi erect", "AP erect")
"""Values of ``view`` that are frontal; lateral views and CT slices are left out."""

NEEDED = ("patientid", "age", "sex", "finding", "view", "modality", "location", "filename", "doi", "url", "license")
COLUMNS = (
    *("id", "patient_id", "age", "sex", "view", "location", "finding", "license", "url", "doi"),
    *("source_filename", "source_width", "source_height"),
)


@dataclass(frozen=True)
class Sources:
    """Where the two sources lie: Darwin JSON files, image files, and the image collection's metadata.csv."""

    annotations: Path
    images: Path
    metadata: Path


@dataclass(frozen=True)
class Skipped:
    """An annotation file that gave no image, and why."""

    file: str
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """How many images were written, and what was left out."""

    written: int
    skipped: tuple[Skipped, ...]


def import_covid_cxr(
    sources: Sources,
    out: Path,
    *,
    side: int = SIDE,
    licences: Sequence[str] = LICENCES,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
    replace: bool = False,
) -> ImportReport:
    """Build a dataset folder; an earlier one at ``out`` is replaced when the new one is complete.

    Args:
        sources: the two public sources.
        out: dataset folder to make.
        side: side of the square images, pixels.
        licences: whose images are taken.
        progress: wraps the sequence of annotation files that are worked through, for a progress bar.
        replace: also replace a dataset folder that this program did not make.

    Raises:
        MissingMetadata: the collection's table is absent or lacks a column.
        EmptyDataset: no annotation file, or none that gave an image; ``out`` is left as it was.
        ConfigError: ``side`` is out of range, or ``out`` holds something else.
    """
    if not MIN_SIDE <= side <= MAX_SIDE:
        raise ConfigError(f"a side of {side} pixels is not possible", cure=f"use {MIN_SIDE} to {MAX_SIDE}")
    rows = _collection_rows(sources.metadata)
    files = sorted(sources.annotations.glob("*.json"))
    if not files:
        raise EmptyDataset(f"{sources.annotations} holds no .json files", cure="give V7's folder of Darwin annotation files")
    skipped: list[Skipped] = []
    with building(out, COLUMNS, replace=replace) as builder:
        for file in progress(files):
            try:
                _import_one(file, sources.images, _Rules(rows, side, tuple(licences)), builder)
            except DataError as error:
                skipped.append(Skipped(file.name, str(error)))
        if len(skipped) == len(files):
            raise EmptyDataset(f"none of {len(files)} annotation files gave an image; the first: {skipped[0].reason}")
    return ImportReport(len(files) - len(skipped), tuple(skipped))


def licence_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """Whether a licence is one of ``allowed``, in any version: ``CC BY 4.0`` is ``CC BY``, ``CC BY-NC-ND`` is not."""
    family = re.sub(r"\s+\d+(\.\d+)*$", "", licence.strip()).casefold()
    return family in {name.strip().casefold() for name in allowed}


def square(image: GreyImage, mask: Mask, side: int) -> tuple[GreyImage, Mask]:
    """Resize both to ``side`` x ``side``: the image bicubic, the mask by area with a threshold of one half."""
    small = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    share = Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, np.uint8), np.asarray(share, np.uint8) >= 128


@dataclass(frozen=True)
class _Rules:
    rows: Mapping[str, Mapping[str, str]]
    side: int
    licences: tuple[str, ...]


def _collection_rows(path: Path) -> dict[str, Mapping[str, str]]:
    table = read_table(path)
    need_columns(NEEDED, table.columns)
    return {row["filename"]: row for row in table.rows}


def _import_one(file: Path, images: Path, rules: _Rules, builder: FolderBuilder) -> None:
    annotation = read_annotation(file, ORGAN)
    row = _wanted_row(annotation, rules)
    image = read_image(_inside(images, annotation.image_name))
    if image.shape != annotation.size:
        raise DataError(
            f"{annotation.image_name} is {image.shape[1]}x{image.shape[0]} pixels, its annotation was drawn on "
            f"{annotation.size[1]}x{annotation.size[0]}"
        )
    small, mask = square(image, rasterise(annotation), rules.side)
    if not mask.any():
        raise DataError(f"the outlines of {annotation.image_name} enclose nothing")
    builder.add(_row(file.stem, annotation, row), small, mask)


def _wanted_row(annotation: Annotation, rules: _Rules) -> Mapping[str, str]:
    row = rules.rows.get(annotation.image_name)
    if row is None:
        raise DataError(f"{annotation.image_name} has no row in the collection's metadata")
    if row["modality"] != "X-ray":
        raise DataError(f"{annotation.image_name} is not an X-ray but {row['modality'] or 'unknown'}")
    if _plain(row["view"]) not in {_plain(view) for view in FRONTAL_VIEWS}:
        raise DataError(f"{annotation.image_name} is not a frontal view but {row['view'] or 'unknown'}")
    if not licence_allowed(row["license"], rules.licences):
        raise DataError(f"the licence of {annotation.image_name} is not allowed: {row['license'] or 'unknown'}")
    if not annotation.shapes:
        raise DataError(f"{annotation.image_name} has no {ORGAN!r} outline")
    return row


def _row(image_id: str, annotation: Annotation, row: Mapping[str, str]) -> dict[str, str]:
    height, width = annotation.size
    same = {name: row[name] for name in ("age", "sex", "location", "finding", "license", "url", "doi")}
    return {
        "id": image_id,
        "patient_id": row["patientid"],
        "view": row["view"].replace(" ", "_"),
        "source_filename": annotation.image_name,
        "source_width": str(width),
        "source_height": str(height),
        **same,
    }


def _inside(folder: Path, name: str) -> Path:
    """A file of this folder; a name with a path in it could read anything on the disk."""
    if Path(name).name != name:
        raise DataError(f"{name[:80]!r} is not a plain file name")
    return folder / name


def _plain(view: str) -> str:
    return view.replace("_", " ").casefold()

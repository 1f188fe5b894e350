"""A site's data, whatever form it has: a dataset folder with a table, or a PACS export."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fed_node.data.dataset import Dataset, open_dataset
from fed_node.data.export_rules import ExportRules
from fed_node.data.limits import is_dicom
from fed_node.data.table import METADATA_FILE

if TYPE_CHECKING:
    from fed_node.data.pacs_export import Export


@dataclass(frozen=True)
class SiteData:
    """What a site trains on; ``export`` says what was left out where it is a PACS export."""

    dataset: Dataset
    export: Export | None = None


def is_export(folder: Path) -> bool:
    """Whether a folder is a PACS export: it has no metadata.csv, and somewhere in it lies a DICOM file."""
    if (folder / METADATA_FILE).exists():
        return False
    return any(is_dicom(Path(place, name)) for place, _, names in os.walk(folder) for name in names)


def open_site_data(folder: Path, key: Callable[[], bytes], rules: ExportRules) -> SiteData:
    """Open a dataset folder or a PACS export.

    Args:
        folder: the site's data.
        key: gives the site's secret for keyed names; called for an export only.
        rules: what of an export is used.

    Raises:
        DataError: the folder cannot be used, or nothing in it can.
    """
    if not is_export(folder):
        return SiteData(open_dataset(folder))
    # Only now, because pydicom is slow to load.
    from fed_node.data.identifiers import Pseudonyms  # noqa: PLC0415
    from fed_node.data.pacs_export import export_dataset, survey_export  # noqa: PLC0415

    pseudonyms = Pseudonyms(key())
    export = survey_export(folder, pseudonyms, rules)
    return SiteData(export_dataset(folder, export, pseudonyms, rules.held_out), export)

"""Copying part of a dataset into a folder of its own, as each site of a simulated federation gets it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from fed_node.data.dataset import HELD_OUT, IMAGES_FOLDER, MASKS_FOLDER, SPLIT_COLUMN, TRAIN, Dataset
from fed_node.data.folder import building
from fedmentor.errors import ConfigError


def write_subset(dataset: Dataset, ids: Collection[str], folder: Path, held_out: Collection[str] = ()) -> None:
    """Write the images of ``ids`` as a dataset folder with a column ``split``.

    Files are hard links where the disk allows it (no space, read-only data stays read-only) and copies elsewhere.

    Args:
        dataset: where the images come from.
        ids: which images.
        folder: where to; an earlier dataset that this program made there is replaced at once.
        held_out: those of ``ids`` that get ``split = held_out``; the others get ``train``.

    Raises:
        ConfigError: ``folder`` holds something else, or the dataset's own files.
        DataError: an id is not in the dataset, or held out without being written.
        EmptyDataset: no ids.
    """
    chosen = dataset.subset(ids)
    reserved = set(held_out)
    if not reserved <= set(ids):
        raise ConfigError("held-out ids must be among the ids that are written")
    if folder.resolve() in chosen[0].image.resolve().parents:
        raise ConfigError(f"{folder} holds the images that are to be copied", cure="choose another folder")
    columns = (*(name for name in dataset.columns if name != SPLIT_COLUMN), SPLIT_COLUMN)
    with building(folder, columns) as builder:
        for sample in chosen:
            builder.add_row({**sample.metadata, SPLIT_COLUMN: HELD_OUT if sample.id in reserved else TRAIN})
            _link(sample.image, builder.folder / IMAGES_FOLDER / sample.image.name)
            if sample.mask is not None:
                _link(sample.mask, builder.folder / MASKS_FOLDER / sample.mask.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)

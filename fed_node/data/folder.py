"""Writing dataset folders: built beside their place under a temporary name and moved there when complete.

A reader, a crash or Ctrl-C therefore sees the old folder or the new one, never half of one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from fed_node.data.dataset import IMAGES_FOLDER, MASKS_FOLDER
from fed_node.data.reading import GreyImage, Mask
from fed_node.data.table import METADATA_FILE, check_id, write_table
from fedmentor.errors import ConfigError

MARK_FILE = ".fedmentor"
"""Lies in every dataset folder that this program made."""


class FolderBuilder:
    """Collects images, masks and rows of a dataset folder that is being built."""

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.folder = folder
        self._columns = tuple(columns)
        self._rows: dict[str, Mapping[str, str]] = {}
        (folder / IMAGES_FOLDER).mkdir()
        (folder / MASKS_FOLDER).mkdir()

    def add_row(self, row: Mapping[str, str]) -> str:
        """Note one image's metadata; its files are the caller's.

        Returns:
            The row's checked id.

        Raises:
            ConfigError: the id is already there.
            DataError: the id is not a file name.
        """
        image_id = check_id(row["id"])
        if image_id in self._rows:
            raise ConfigError(f"image id {image_id!r} occurs twice")
        self._rows[image_id] = row
        return image_id

    def add(self, row: Mapping[str, str], image: GreyImage, mask: Mask) -> None:
        """Write one image and its mask as PNG (mask 0 and 255), and note its row."""
        image_id = self.add_row(row)
        Image.fromarray(image).save(self.folder / IMAGES_FOLDER / f"{image_id}.png")
        Image.fromarray(mask.astype("uint8") * 255).save(self.folder / MASKS_FOLDER / f"{image_id}.png")

    def finish(self) -> None:
        """Write metadata.csv, sorted by id, and the mark that this program made the folder."""
        write_table(self.folder / METADATA_FILE, self._columns, [self._rows[key] for key in sorted(self._rows)])
        (self.folder / MARK_FILE).write_text("Made by fedmentor, which may replace this folder when it is made again.\n")


@contextmanager
def building(folder: Path, columns: Sequence[str], *, replace: bool = False) -> Iterator[FolderBuilder]:
    """Build a dataset folder; on leaving without an error it takes the place of ``folder``, an earlier dataset included.

    Args:
        folder: where to.
        columns: of metadata.csv.
        replace: also replace a dataset folder that this program did not make.

    Raises:
        ConfigError: see check_replaceable; nothing is touched.
    """
    place = folder.resolve()
    check_replaceable(place, replace=replace)
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        fresh = scratch / "new"
        fresh.mkdir()
        builder = FolderBuilder(fresh, columns)
        yield builder
        builder.finish()
        if place.exists():
            place.rename(scratch / "old")
        fresh.rename(place)
    finally:
        # A failure between the two renames would otherwise take the old dataset with the scratch folder.
        if (scratch / "old").exists() and not place.exists():
            (scratch / "old").rename(place)
        shutil.rmtree(scratch, ignore_errors=True)


def check_replaceable(folder: Path, *, replace: bool = False) -> None:
    """Refuse to replace what this program did not make.

    Args:
        folder: that would be replaced.
        replace: a dataset folder that somebody else made may go, too.

    Raises:
        ConfigError: a file, a folder with other things in it, one that cannot be moved away, or somebody else's dataset.
    """
    if not folder.exists():
        return
    if folder.is_mount() or folder.samefile(Path.cwd()):
        raise ConfigError(f"{folder} is a mounted disk or the working folder", cure="choose a folder inside it as --out")
    found = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {""}
    if found - {IMAGES_FOLDER, MASKS_FOLDER, METADATA_FILE, MARK_FILE}:
        raise ConfigError(f"{folder} exists and is not a dataset folder", cure="choose another --out; nothing was touched")
    if found and MARK_FILE not in found and not replace:
        raise ConfigError(
            f"{folder} holds a dataset that this program did not make",
            cure="choose another --out, or let 'fedmentor data' have it with --replace; nothing was touched",
        )

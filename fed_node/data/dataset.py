"""A dataset folder as a sequence of samples. Opening reads the table and looks for files; pixels are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import overload

from fed_node.data.reading import MASK_ENDINGS, READERS, GreyImage, Mask, read_image, read_mask
from fed_node.data.table import METADATA_FILE, check_id, need_columns, read_table
from fedmentor.errors import DataError, EmptyDataset, MaskMismatch, UnreadableImage
from fedmentor.ids import Digest
from fedmentor.teacher.contract import image_digest
from fedmentor.tensors import sha256_hex

IMAGES_FOLDER = "images"
MASKS_FOLDER = "masks"
SPLIT_COLUMN = "split"
TRAIN = "train"
HELD_OUT = "held_out"


@dataclass(frozen=True)
class Sample:
    """One image with what is known about it.

    Attributes:
        id: the image's name, unique in its dataset.
        patient_id: who it shows; the image's own id where the table says nothing.
        image: path of the image.
        mask: path of the human mask, where there is one.
        metadata: every cell of the image's row, by column.
        label: what messages call the image where its path may name a patient; None: its path.
    """

    id: str
    patient_id: str
    image: Path = field(repr=False)
    mask: Path | None = field(repr=False)
    metadata: Mapping[str, str]
    label: str | None = None

    def pixels(self) -> GreyImage:
        """Read the image, uint8 [H, W].

        Raises:
            UnreadableImage: see fed_node.data.reading.read_image.
        """
        with self._labelled():
            return read_image(self.image)

    def truth(self, size: tuple[int, int]) -> Mask | None:
        """Read the human mask, bool [H, W], or None where there is none.

        Args:
            size: (H, W) of the image.

        Raises:
            MaskMismatch: the mask is of another size or image, or not binary.
            UnreadableImage: the mask cannot be read.
        """
        with self._labelled():
            return None if self.mask is None else read_mask(self.mask, size, self.image)

    @contextmanager
    def _labelled(self) -> Iterator[None]:
        """Errors about this sample's files; with a label they name no path."""
        try:
            yield
        except DataError as error:
            if self.label is None:
                raise
            message = error.message
            if self.mask is not None:
                message = message.replace(str(self.mask), f"the mask of {self.label}")
            raise type(error)(message.replace(str(self.image), self.label), cure=error.cure) from None


class Dataset(Sequence[Sample]):
    """Samples sorted by id."""

    def __init__(self, samples: Sequence[Sample], columns: Sequence[str]) -> None:
        self._samples = tuple(sorted(samples, key=lambda sample: sample.id))
        self.columns = tuple(columns)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Sample | Dataset:
        if isinstance(index, slice):
            return Dataset(self._samples[index], self.columns)
        return self._samples[index]

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return len({sample.patient_id for sample in self._samples})

    def subset(self, ids: Collection[str]) -> Dataset:
        """The samples of these ids.

        Raises:
            DataError: an id is not in the dataset.
            EmptyDataset: no ids.
        """
        wanted = set(ids)
        unknown = sorted(wanted - {sample.id for sample in self._samples})
        if unknown:
            raise DataError(f"there is no image {unknown[0]!r} in the dataset")
        return self._filtered(lambda sample: sample.id in wanted, "no ids were asked for")

    def where(self, column: str, value: str) -> Dataset:
        """The samples whose row has ``value`` in ``column``; ``where(SPLIT_COLUMN, TRAIN)`` are a site's training images.

        Raises:
            MissingMetadata: there is no such column.
            EmptyDataset: no row has that value.
        """
        need_columns([column], self.columns)
        return self._filtered(lambda sample: sample.metadata[column] == value, f"no image has {column} = {value!r}")

    def fingerprint(self) -> Digest:
        """SHA-256 over the sorted ids and the digests of the pixels of images and masks.

        Names the data itself: renaming the folder, or saving a PNG again without loss, changes nothing. Reads every file.

        Raises:
            UnreadableImage: an image or a mask cannot be read.
            MaskMismatch: a mask does not fit its image.
        """
        return sha256_hex(_content_line(sample) for sample in self._samples)

    def _filtered(self, keep: Callable[[Sample], bool], nothing: str) -> Dataset:
        chosen = [sample for sample in self._samples if keep(sample)]
        if not chosen:
            raise EmptyDataset(nothing)
        return Dataset(chosen, self.columns)


def open_dataset(folder: Path) -> Dataset:
    """Open ``images/``, ``masks/`` and ``metadata.csv``.

    Images without a row are left out; ``fed_node.data.check`` names them.

    Raises:
        MissingMetadata: metadata.csv is absent, malformed, or has no column ``id``.
        EmptyDataset: no rows.
        DataError: an id twice, or one that is not a file name.
        UnreadableImage: a row's image file is missing, or there are two.
        MaskMismatch: there are two masks of an image.
    """
    if not folder.is_dir():
        raise EmptyDataset(f"{folder} is not a folder", cure="give a folder with images/, masks/ and metadata.csv")
    table = read_table(folder / METADATA_FILE)
    need_columns(["id"], table.columns)
    if not table.rows:
        raise EmptyDataset(f"{folder / METADATA_FILE} has no rows")
    samples = [_sample(folder, row) for row in table.rows]
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise DataError(f"{folder / METADATA_FILE} names image {sample.id!r} twice", cure="keep one row an image")
        seen.add(sample.id)
    return Dataset(samples, table.columns)


def image_files(folder: Path, image_id: str) -> list[Path]:
    """The files in ``images/`` that carry this id, in the order of fed_node.data.reading.READERS."""
    candidates = (folder / IMAGES_FOLDER / f"{image_id}{suffix}" for suffix in READERS)
    return [path for path in candidates if path.is_file()]


def mask_files(folder: Path, image_id: str) -> list[Path]:
    """The files in ``masks/`` that carry this id, in the order of fed_node.data.reading.MASK_ENDINGS."""
    candidates = (folder / MASKS_FOLDER / f"{image_id}{suffix}" for suffix in MASK_ENDINGS)
    return [path for path in candidates if path.is_file()]


def _sample(folder: Path, row: Mapping[str, str]) -> Sample:
    image_id = check_id(row["id"])
    images = image_files(folder, image_id)
    if not images:
        raise UnreadableImage(
            f"there is no image file for id {image_id!r} in {folder / IMAGES_FOLDER}",
            cure="add the file or remove its row; 'fedmentor data check' lists every bad file",
        )
    if len(images) > 1:
        raise UnreadableImage(f"{images[0]} and {images[1].name} have the same id", cure="keep one file an id")
    masks = mask_files(folder, image_id)
    if len(masks) > 1:
        raise MaskMismatch(f"{masks[0]} and {masks[1].name} are masks of the same image", cure="keep one mask an image")
    return Sample(
        id=image_id,
        patient_id=row.get("patient_id") or image_id,
        image=images[0],
        mask=masks[0] if masks else None,
        metadata=MappingProxyType(dict(row)),
    )


def _content_line(sample: Sample) -> bytes:
    pixels = sample.pixels()
    truth = sample.truth((pixels.shape[0], pixels.shape[1]))
    mask = "-" if truth is None else image_digest(truth.view("uint8"))
    return f"{sample.id} {image_digest(pixels)} {mask}\n".encode()

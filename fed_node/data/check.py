"""Look at every file of a dataset folder and name each one that training would trip over, with the reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fed_node.data.dataset import IMAGES_FOLDER, MASKS_FOLDER, Sample, image_files, mask_files
from fed_node.data.limits import GreyImage
from fed_node.data.reading import MASK_ENDINGS, READERS, read_image, read_mask
from fed_node.data.table import METADATA_FILE, Table, check_id, read_table
from fedmentor.errors import DataError, MaskMismatch, MissingMetadata
from fedmentor.ids import Digest
from fedmentor.teacher.contract import image_digest

USEFUL_COLUMNS = ("patient_id", "age", "sex", "view", "location")
"""Columns without which a dataset works but fewer partitions are possible."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the file (relative to the folder), a short fixed code, and a sentence."""

    file: str
    code: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        findings: everything that is wrong, in the order of files.
        notes: what is not wrong but good to know.
        images, masks, patients: how many images are usable, how many of those have a usable mask, and how many patients they show.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    images: int
    masks: int
    patients: int

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


@dataclass
class _Survey:
    """What is known half-way through a check."""

    findings: list[Finding] = field(default_factory=list)
    pixels: dict[Digest, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    patients: set[str] = field(default_factory=set)
    masks: int = 0
    images: int = 0

    def note(self, file: str, code: str, reason: str) -> None:
        self.findings.append(Finding(file, code, reason))


def check_dataset(
    folder: Path, *, required: Sequence[str] = (), progress: Callable[[Sequence[str]], Iterable[str]] = iter
) -> Report:
    """Read every image and mask of a dataset folder.

    Args:
        folder: with ``images/``, ``masks/`` and ``metadata.csv``.
        required: columns that must exist besides ``id``.
        progress: wraps the sequence of ids that are worked through, for a progress bar.

    Raises:
        MissingMetadata: there is no table to check against.
    """
    if not folder.is_dir():
        raise MissingMetadata(f"{folder} is not a folder", cure="give a folder with images/, masks/ and metadata.csv")
    table = read_table(folder / METADATA_FILE)
    survey = _Survey()
    _check_columns(table, required, survey)
    rows = _unique_rows(table, survey)
    for image_id in progress(sorted(rows)):
        _check_image(folder, image_id, rows[image_id].get("patient_id") or image_id, survey)
    _check_strays(folder, rows.keys(), survey)
    _check_doubles(survey)
    if not survey.images:
        survey.note(METADATA_FILE, "empty", "no usable image is left in this folder")
    return Report(tuple(survey.findings), _notes(table, survey), survey.images, survey.masks, len(survey.patients))


def unreadable_samples(
    samples: Sequence[Sample], progress: Callable[[Sequence[Sample]], Iterable[Sample]] = iter
) -> tuple[str, ...]:
    """Read the pixels and the mask of every sample; a sentence for each that cannot be read."""
    messages = []
    for sample in progress(samples):
        try:
            pixels = sample.pixels()
            sample.truth((pixels.shape[0], pixels.shape[1]))
        except DataError as error:
            messages.append(error.message)
    return tuple(messages)


def _check_columns(table: Table, required: Sequence[str], survey: _Survey) -> None:
    for name in ("id", *required):
        if name not in table.columns:
            survey.note(METADATA_FILE, "missing-column", f"there is no column {name!r}; there are {', '.join(table.columns)}")


def _unique_rows(table: Table, survey: _Survey) -> dict[str, Mapping[str, str]]:
    rows: dict[str, Mapping[str, str]] = {}
    for row in table.rows if "id" in table.columns else ():
        image_id = row["id"]
        if image_id in rows:
            survey.note(METADATA_FILE, "duplicate-id", f"id {image_id!r} stands in two rows")
            continue
        try:
            rows[check_id(image_id)] = row
        except DataError as error:
            survey.note(METADATA_FILE, "bad-id", error.message)
    return rows


def _check_image(folder: Path, image_id: str, patient: str, survey: _Survey) -> None:
    files = image_files(folder, image_id)
    if len(files) != 1:
        reason = (
            "several files have this id: " + ", ".join(path.name for path in files) if files else "metadata row without an image"
        )
        survey.note(f"{IMAGES_FOLDER}/{image_id}", "duplicate-file" if files else "missing-image", reason)
        return
    try:
        pixels = read_image(files[0])
    except DataError as error:
        survey.note(_relative(files[0], folder), "unreadable", _reason(error, folder))
        return
    survey.images += 1
    survey.patients.add(patient)
    survey.pixels[image_digest(pixels)].append((patient, _relative(files[0], folder)))
    _check_mask(folder, image_id, pixels, survey)


def _check_mask(folder: Path, image_id: str, pixels: GreyImage, survey: _Survey) -> None:
    files = mask_files(folder, image_id)
    if not files:
        return
    if len(files) > 1:
        reason = "several masks have this id: " + ", ".join(path.name for path in files)
        survey.note(f"{MASKS_FOLDER}/{image_id}", "duplicate-file", reason)
        return
    path, image = files[0], image_files(folder, image_id)[0]
    name = _relative(path, folder)
    try:
        mask = read_mask(path, (pixels.shape[0], pixels.shape[1]), image)
    except MaskMismatch as error:
        survey.note(name, _mismatch(error), _reason(error, folder))
    except DataError as error:
        survey.note(name, "unreadable", _reason(error, folder))
    else:
        if mask.any():
            survey.masks += 1
        else:
            survey.note(name, "empty-mask", "the mask marks no pixel; remove it if the image was never annotated")


def _mismatch(error: MaskMismatch) -> str:
    if "binary" in error.message:
        return "mask-not-binary"
    return "mask-size" if "pixels, its image" in error.message else "mask-of-another"


def _check_strays(folder: Path, ids: Iterable[str], survey: _Survey) -> None:
    """Files that no row speaks of, and files that no reader is for."""
    known = set(ids)
    for path in _files(folder / IMAGES_FOLDER):
        suffix = next((ending for ending in READERS if path.name.endswith(ending)), None)
        if suffix is None:
            survey.note(_relative(path, folder), "unknown-format", f"not one of {', '.join(READERS)}")
        elif path.name.removesuffix(suffix) not in known:
            survey.note(_relative(path, folder), "no-row", "image without a metadata row")
    for path in _files(folder / MASKS_FOLDER):
        suffix = next((ending for ending in MASK_ENDINGS if path.name.endswith(ending)), None)
        if suffix is None:
            survey.note(_relative(path, folder), "unknown-format", f"not one of {', '.join(MASK_ENDINGS)}")
        elif path.name.removesuffix(suffix) not in known:
            survey.note(_relative(path, folder), "no-row", "mask without a metadata row")


def _check_doubles(survey: _Survey) -> None:
    """The same pixels under two patients would stand in training and in held-out data at once."""
    for places in survey.pixels.values():
        if len({patient for patient, _ in places}) > 1:
            first, *others = sorted(place for _, place in places)
            for other in others:
                survey.note(other, "duplicate-pixels", f"shows the same pixels as {first}, which belongs to another patient")


def _notes(table: Table, survey: _Survey) -> tuple[str, ...]:
    absent = [name for name in USEFUL_COLUMNS if name not in table.columns]
    sparse = Counter(name for row in table.rows for name in USEFUL_COLUMNS if name in row and not row[name])
    notes = [f"column {name!r} is absent" for name in absent]
    notes += [f"column {name!r} is empty in {count} of {len(table.rows)} rows" for name, count in sorted(sparse.items())]
    if survey.masks < survey.images:
        notes.append(f"{survey.images - survey.masks} usable images have no usable mask; they can be distilled from, not scored")
    return tuple(notes)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")) if folder.is_dir() else []


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _reason(error: DataError, folder: Path) -> str:
    """The error's sentence without the folder's path, which the reader knows."""
    return error.message.replace(f"{folder}/", "")

"""A folder as a PACS exports it, read where it lies: nested folders, any file names, series of every kind, masks as segmentations.

Nothing is copied and nothing is written. Patients are told apart by keyed names (fed_node.data.identifiers), files are called by
their number, because folders and files of an export are often named after people. What is not used is counted by reason.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pydicom

from fed_node.data.dataset import HELD_OUT, SPLIT_COLUMN, TRAIN, Dataset, Sample
from fed_node.data.dicom_header import Reason, is_localizer, is_segmentation, read_header, refusal_of
from fed_node.data.export_rules import ExportRules
from fed_node.data.identifiers import Pseudonyms, identifying
from fed_node.data.limits import is_dicom
from fed_node.data.segmentation import segmentation_facts
from fedmentor.errors import DataError, EmptyDataset
from fedmentor.teacher.dicom_silence import silent

MAX_FILES = 1_000_000

TRUTH_ENDINGS = (".truth.png", ".truth.nii.gz", ".truth.nii")
"""A mask that lies beside its image: the image's name without ``.dcm``, and one of these; not what ``fedmentor predict`` writes."""

VIEWS = frozenset({"PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO"})
"""Values of ViewPosition that are kept; the attribute could hold anything."""

COLUMNS = ("id", "patient_id", "view", SPLIT_COLUMN)


@dataclass(frozen=True)
class Picture:
    """One usable radiograph.

    Attributes:
        number: of its file, from 1, among all files of the folder sorted by the bytes of their paths.
        path: never printed.
        image, patient: keyed names.
        view: projection, empty where unknown.
        mask: the file that holds its mask; never printed.
    """

    number: int
    path: Path = field(repr=False)
    image: str
    patient: str
    view: str
    mask: Path | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Export:
    """What a survey found; safe to print but for the paths.

    Attributes:
        files: how many files there are.
        pictures: usable radiographs, sorted by keyed name.
        skipped: how many objects are not used, by reason.
        identifying: how many DICOM files have each identifying attribute.
        burned_in: how many radiographs say YES, NO or nothing about letters burned into the picture.
    """

    files: int
    pictures: tuple[Picture, ...]
    skipped: Mapping[Reason, int]
    identifying: Mapping[str, int]
    burned_in: Mapping[str, int]

    @property
    def patients(self) -> int:
        """Number of different patients."""
        return len({picture.patient for picture in self.pictures})

    @property
    def masks(self) -> int:
        """Number of radiographs with a mask."""
        return sum(picture.mask is not None for picture in self.pictures)

    @property
    def left_out(self) -> str:
        """Counts and reasons of what is not used; empty for nothing."""
        ordered = sorted(self.skipped.items(), key=lambda item: item[0].name)
        return "; ".join(f"{count} {reason.value}" for reason, count in ordered)


@dataclass
class _Survey:
    """What is known half-way."""

    pictures: dict[str, Picture] = field(default_factory=dict)
    drawn: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    skipped: Counter[Reason] = field(default_factory=Counter)
    identifying: Counter[str] = field(default_factory=Counter)
    burned_in: Counter[str] = field(default_factory=Counter)


def survey_export(
    folder: Path,
    pseudonyms: Pseudonyms,
    rules: ExportRules,
    progress: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> Export:
    """Read the header of every file in a folder and all below it; links are not followed, pixels not read.

    Args:
        folder: the export.
        pseudonyms: under the site's key.
        rules: what is used.
        progress: wraps the sequence of files that are worked through, for a progress bar.

    Raises:
        DataError: not a folder, or more than MAX_FILES files.
    """
    files = export_files(folder)
    survey = _Survey()
    with silent():
        for number, path in enumerate(progress(files), 1):
            if not path.name.endswith(TRUTH_ENDINGS):
                reason = _look(path, number, survey, (pseudonyms, rules))
                if reason is not None:
                    survey.skipped[reason] += 1
    pictures = tuple(_masked(survey.pictures[name], survey) for name in sorted(survey.pictures))
    survey.skipped[Reason.STRANGE_MASK] += _strangers(survey)
    return Export(len(files), pictures, +survey.skipped, survey.identifying, survey.burned_in)


def export_files(folder: Path) -> tuple[Path, ...]:
    """Every file below a folder, in the order of ``find FOLDER -type f | LC_ALL=C sort``.

    Raises:
        DataError: not a folder, more than MAX_FILES files, or a folder in it that cannot be opened.
    """
    if not folder.is_dir():
        raise EmptyDataset(f"{folder} is not a folder", cure="give the folder of a PACS export, or one with metadata.csv")
    files: list[Path] = []
    closed: list[OSError] = []
    for place, _, names in os.walk(folder, onerror=closed.append):
        files += [path for name in names if (path := Path(place, name)).is_file() and not path.is_symlink()]
        if len(files) > MAX_FILES:
            raise DataError(f"{folder} has more than {MAX_FILES} files", cure="give a folder with the images of this project only")
    if closed:
        raise DataError(f"{len(closed)} folders of {folder} are closed to the node's user", cure="let it read all of the export")
    return tuple(sorted(files, key=os.fsencode))


def export_dataset(folder: Path, export: Export, pseudonyms: Pseudonyms, held_out: float) -> Dataset:
    """The radiographs as samples with a column ``split``.

    A patient is held out or not by a keyed number of its own, so nobody changes sides when others come. Where that would leave one
    side without a patient who has a mask, the one nearest to the border goes there.

    Raises:
        EmptyDataset: there is no usable radiograph.
    """
    if not export.pictures:
        raise EmptyDataset(
            f"no usable radiograph in {folder}: {export.left_out or 'it holds no file'}", cure="see docs/data.md, PACS exports"
        )
    everybody = {picture.patient for picture in export.pictures}
    # Images without a mask take no part, so it is among the others that both sides need somebody.
    scored = {picture.patient for picture in export.pictures if picture.mask is not None}
    away = held_out_patients(scored, pseudonyms, held_out) | held_out_patients(everybody - scored, pseudonyms, held_out)
    return Dataset(export_samples(folder, export, away), COLUMNS)


def export_samples(folder: Path, export: Export, away: Collection[str] = ()) -> list[Sample]:
    """The radiographs as samples; those of the patients in ``away`` are held out."""
    return [_sample(folder, picture, held_out=picture.patient in away) for picture in export.pictures]


def held_out_patients(patients: Iterable[str], pseudonyms: Pseudonyms, share: float) -> frozenset[str]:
    """Which patients are held out: those whose keyed number is under ``share``; one at least, and not all if there are two."""
    ranked = sorted(patients, key=pseudonyms.share)
    below = sum(pseudonyms.share(patient) < share for patient in ranked)
    return frozenset(ranked[: max(1, min(below, len(ranked) - 1))])


def _look(path: Path, number: int, survey: _Survey, how: tuple[Pseudonyms, ExportRules]) -> Reason | None:
    """Note what one file is; gives the reason where it is not used."""
    if not os.access(path, os.R_OK):
        return Reason.NO_ACCESS
    if not is_dicom(path):
        return Reason.NOT_DICOM
    try:
        header = read_header(path)
        survey.identifying.update(identifying(header))
        if is_segmentation(header):
            return _note_segmentation(path, header, survey, how)
        reason = _reason_against(header, how[1])
        return reason or _note_picture(path, number, survey, (header, how[0]))
    except DataError:
        return Reason.DAMAGED
    except Exception:  # noqa: BLE001 - attributes of a wrong type make pydicom raise whatever it likes
        return Reason.DAMAGED


def _reason_against(header: pydicom.Dataset, rules: ExportRules) -> Reason | None:
    refusal = refusal_of(header)
    if refusal is not None:
        return refusal.reason
    if header.get("Modality") not in rules.modalities:
        return Reason.OTHER_MODALITY
    if is_localizer(header):
        return Reason.LOCALIZER
    return None if header.get("SOPInstanceUID") else Reason.NO_UID


def _note_picture(path: Path, number: int, survey: _Survey, what: tuple[pydicom.Dataset, Pseudonyms]) -> Reason | None:
    header, pseudonyms = what
    patient, image = pseudonyms.patient(header), pseudonyms.image(str(header.SOPInstanceUID))
    if patient is None:
        return Reason.NO_PATIENT
    if image in survey.pictures:
        return Reason.COPY
    view = str(header.get("ViewPosition") or "")
    survey.pictures[image] = Picture(number, path, image, patient, view if view in VIEWS else "")
    flag = header.get("BurnedInAnnotation")
    survey.burned_in[flag if flag in ("YES", "NO") else "not said"] += 1
    for ending in TRUTH_ENDINGS:
        beside = path.with_name(path.name.removesuffix(".dcm") + ending)
        if beside.is_file():
            survey.drawn[image].append(beside)
    return None


def _note_segmentation(path: Path, header: pydicom.Dataset, survey: _Survey, how: tuple[Pseudonyms, ExportRules]) -> Reason | None:
    pseudonyms, rules = how
    facts = segmentation_facts(header)
    if not facts.segments:
        return Reason.UNCLEAR_MASK
    if facts.automatic and not rules.automatic_masks:
        return Reason.AUTOMATIC_MASK
    for uid in facts.references:
        survey.drawn[pseudonyms.image(uid)].append(path)
    return None if facts.references else Reason.STRANGE_MASK


def _masked(picture: Picture, survey: _Survey) -> Picture:
    """A picture with its mask, if it has exactly one."""
    drawn = survey.drawn.get(picture.image, [])
    if len(drawn) > 1:
        survey.skipped[Reason.UNCLEAR_MASK] += len(drawn)
    return Picture(
        picture.number, picture.path, picture.image, picture.patient, picture.view, drawn[0] if len(drawn) == 1 else None
    )


def _strangers(survey: _Survey) -> int:
    """How many masks belong to no picture."""
    at_home = {path for name, paths in survey.drawn.items() if name in survey.pictures for path in paths}
    return len({path for paths in survey.drawn.values() for path in paths} - at_home)


def _sample(folder: Path, picture: Picture, *, held_out: bool) -> Sample:
    row = (picture.image, picture.patient, picture.view, HELD_OUT if held_out else TRAIN)
    return Sample(
        id=picture.image,
        patient_id=picture.patient,
        image=picture.path,
        mask=picture.mask,
        metadata=MappingProxyType(dict(zip(COLUMNS, row, strict=True))),
        label=f"file {picture.number} of {folder} (sorted by path)",
    )

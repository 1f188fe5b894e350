"""``fedmentor predict``: segment radiographs with a student."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fed_node.cli.progress import progress_lines
from fed_node.cli.threads import use_threads
from fedmentor.errors import EXIT_CONFIG, EXIT_OK

if TYPE_CHECKING:
    from fed_node.student.sm_lite import SmLite
    from fedmentor.ids import Digest

FOLDER = click.Path(path_type=Path, file_okay=False)
IN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)

ENDINGS = {"png": ".mask.png", "nifti": ".mask.nii.gz", "seg": ".mask.dcm"}
"""Forms of a mask and the endings of their files; fed_node.student.mask_files makes them."""

OVERLAY = ".overlay.png"

IMAGE_ENDINGS = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".dcm")
"""Endings that are not part of an image's name."""


@click.command()
@click.argument("model", type=IN_FOLDER, metavar="MODEL")
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE...")
@click.option("--out", required=True, type=FOLDER, help="Folder for NAME.mask.* and NAME.overlay.png.")
@click.option(
    "--format",
    "form",
    default="png",
    show_default=True,
    type=click.Choice(list(ENDINGS)),
    help="Of the masks: PNG, NIfTI, or a DICOM segmentation, which needs DICOM images.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an image on standard output.")
def predict(model: Path, images: tuple[Path, ...], out: Path, form: str, threads: int, *, as_json: bool) -> int:
    """Segment each IMAGE (PNG, JPEG, DICOM or NIfTI) with the student in folder MODEL.

    Masks have the image's own size: in PNG 0 for background and 255 for foreground. An image that cannot be used does not keep the
    others from being done; the exit code is then 3.
    """
    names = _names(images)
    _keep_inputs(images, out, names)
    use_threads(threads)
    student, digest = _student(model)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    with progress_lines() as advance:
        for done, (name, image) in enumerate(zip(names, images, strict=True), 1):
            lines.append(_one(_Work(student, digest, out, form), image, name))
            advance("predict", done, len(images), "")
    for line in lines:
        if as_json:
            click.echo(json.dumps(line))
        elif "error" not in line:
            click.echo(f"{line['mask']}: {line['foreground']:.1%} of the image is foreground")
    failed = [line for line in lines if "error" in line]
    if failed:
        _say_failed(failed, len(lines))
    return EXIT_CONFIG if failed else EXIT_OK


def _say_failed(failed: Sequence[dict[str, object]], total: int) -> None:
    click.echo(f"{len(failed)} of {total} images could not be used", err=True)
    for line in failed:
        click.echo(f"error: {line['error']}", err=True)
        if line["cure"]:
            click.echo(f"  try: {line['cure']}", err=True)


def _names(images: Sequence[Path]) -> list[str]:
    """What to call the pictures of each image; two images may not overwrite each other's."""
    from fedmentor.errors import ConfigError

    names = [_stem(image) for image in images]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"two images are called {twice!r}", cure="predict them into different folders")
    return names


def _keep_inputs(images: Sequence[Path], out: Path, names: Sequence[str]) -> None:
    """An image that is still to be read must not be where a picture will be written."""
    from fedmentor.errors import ConfigError

    inputs = {image.absolute() for image in images}
    for name in names:
        for written in (out / f"{name}{ending}" for ending in (*ENDINGS.values(), OVERLAY)):
            if written.absolute() in inputs:
                raise ConfigError(f"{written} is one of the images", cure="choose another folder with --out")


def _stem(image: Path) -> str:
    """The name without an ending that a reader knows; what looks like one may be the last part of a UID."""
    ending = next((ending for ending in IMAGE_ENDINGS if image.name.lower().endswith(ending)), "")
    return image.name[: len(image.name) - len(ending)] or image.name


@dataclass(frozen=True)
class _Work:
    """What is the same for all images."""

    student: SmLite
    digest: Digest
    out: Path
    form: str


def _student(folder: Path) -> tuple[SmLite, Digest]:
    """Read a model folder: the model and its digest.

    Raises:
        WrongArchitecture: the model is no SM-lite.
    """
    from fed_node.student.sm_lite import ARCHITECTURE, load_student
    from fedmentor.errors import WrongArchitecture
    from fedmentor.models import load_model

    tensors, record = load_model(folder)
    if record.architecture != ARCHITECTURE:
        raise WrongArchitecture(f"{folder} holds a {record.architecture!r}, not a {ARCHITECTURE!r}")
    return load_student(tensors), record.digest


def _one(work: _Work, image: Path, name: str) -> dict[str, object]:
    """Segment one image and write its pictures; what was wrong with it where that is impossible."""
    from fedmentor.errors import DataError

    try:
        return _predicted(work, image, name)
    except DataError as error:
        return {"image": str(image), "error": error.message, "cure": error.cure}


def _predicted(work: _Work, image: Path, name: str) -> dict[str, object]:
    from fed_node.data.reading import read_image
    from fed_node.student.mask_files import MAKERS, Predicted
    from fed_node.student.picture import predict
    from fed_node.student.sm_lite import ARCHITECTURE
    from fedmentor import pictures
    from fedmentor.models import write_atomically

    pixels = read_image(image)
    (found,) = predict(work.student, [pixels])
    mask, overlay = work.out / f"{name}{ENDINGS[work.form]}", work.out / f"{name}{OVERLAY}"
    write_atomically(mask, MAKERS[work.form](Predicted(image, found.mask, ARCHITECTURE, work.digest)))
    pictures.save_picture(pictures.overlay(pictures.shrunk(pixels), pictures.shrunk(found.mask)), overlay)
    return {
        "image": str(image),
        "mask": str(mask),
        "overlay": str(overlay),
        "foreground": round(found.foreground, 4),
        "confidence": round(found.confidence, 4),
    }

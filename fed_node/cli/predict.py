"""``fedmentor predict``: segment radiographs with a student."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fed_node.cli.progress import progress_lines
from fed_node.cli.threads import use_threads

if TYPE_CHECKING:
    from fed_node.student.sm_lite import SmLite

FOLDER = click.Path(path_type=Path, file_okay=False)
IN_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("model", type=IN_FOLDER, metavar="MODEL")
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE...")
@click.option("--out", required=True, type=FOLDER, help="Folder for NAME.mask.png and NAME.overlay.png.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an image on standard output.")
def predict(model: Path, images: tuple[Path, ...], out: Path, threads: int, *, as_json: bool) -> None:
    """Segment each IMAGE (PNG, JPEG, DICOM or NIfTI) with the student in folder MODEL.

    Masks have the image's own size, 0 for background and 255 for foreground.
    """
    names = _names(images)
    _keep_inputs(images, out, names)
    use_threads(threads)
    student = _student(model)
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    with progress_lines() as advance:
        for done, (name, image) in enumerate(zip(names, images, strict=True), 1):
            lines.append(_one(student, image, out, name))
            advance("predict", done, len(images), "")
    for line in lines:
        click.echo(json.dumps(line) if as_json else f"{line['mask']}: {line['foreground']:.1%} of the image is foreground")


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
        for written in (out / f"{name}.mask.png", out / f"{name}.overlay.png"):
            if written.absolute() in inputs:
                raise ConfigError(f"{written} is one of the images", cure="choose another folder with --out")


def _stem(image: Path) -> str:
    return image.name.removesuffix(".gz").rpartition(".")[0] or image.name


def _student(folder: Path) -> SmLite:
    """Read a model folder.

    Raises:
        WrongArchitecture: the model is no SM-lite.
    """
    from fed_node.student.sm_lite import ARCHITECTURE, load_student
    from fedmentor.errors import WrongArchitecture
    from fedmentor.models import load_model

    tensors, record = load_model(folder)
    if record.architecture != ARCHITECTURE:
        raise WrongArchitecture(f"{folder} holds a {record.architecture!r}, not a {ARCHITECTURE!r}")
    return load_student(tensors)


def _one(student: SmLite, image: Path, out: Path, name: str) -> dict[str, object]:
    from fed_node.data.reading import read_image
    from fed_node.student.picture import mask_png, predict
    from fedmentor import pictures
    from fedmentor.models import write_atomically

    pixels = read_image(image)
    (found,) = predict(student, [pixels])
    mask, overlay = out / f"{name}.mask.png", out / f"{name}.overlay.png"
    write_atomically(mask, mask_png(found.mask))
    pictures.save_picture(pictures.overlay(pictures.shrunk(pixels), pictures.shrunk(found.mask)), overlay)
    return {
        "image": str(image),
        "mask": str(mask),
        "overlay": str(overlay),
        "foreground": round(found.foreground, 4),
        "confidence": round(found.confidence, 4),
    }

"""The forms in which a predicted mask is written to disk."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fed_node.data.limits import Mask, is_dicom
from fed_node.student.picture import mask_png
from fedmentor.errors import DataError
from fedmentor.ids import Digest


@dataclass(frozen=True)
class Predicted:
    """A mask with what its file may say about it.

    Attributes:
        image: file of the image.
        mask: bool [H, W], of the image's size.
        architecture, digest: of the model.
    """

    image: Path
    mask: Mask
    architecture: str
    digest: Digest


def png_file(predicted: Predicted) -> bytes:
    """0 for background, 255 for foreground."""
    return mask_png(predicted.mask)


def nifti_file(predicted: Predicted) -> bytes:
    """0 and 1, compressed; shape and affine of the image where that is NIfTI, else columns along the first axis and no affine."""
    import nibabel  # noqa: PLC0415 - slow to load, and only this format needs it

    shape, affine = predicted.mask.T.shape, np.eye(4)
    if predicted.image.name.lower().endswith((".nii", ".nii.gz")):
        source = nibabel.load(predicted.image)
        shape, affine = source.shape, source.affine
    image = nibabel.Nifti1Image(predicted.mask.T.astype(np.uint8).reshape(shape), affine)
    return gzip.compress(image.to_bytes(), mtime=0)  # no time inside: the same mask gives the same bytes


def segmentation_file(predicted: Predicted) -> bytes:
    """A DICOM Segmentation that refers to the image.

    Raises:
        DataError: the image is not DICOM, or no segmentation can refer to it.
    """
    from fed_node.data.segmentation_write import Algorithm, segmentation_bytes  # noqa: PLC0415 - slow to load

    if not is_dicom(predicted.image):
        raise DataError(f"{predicted.image} is not DICOM, so no DICOM segmentation can refer to it", cure="ask for png or nifti")
    return segmentation_bytes(predicted.image, predicted.mask, Algorithm(predicted.architecture, predicted.digest))


MAKERS: dict[str, Callable[[Predicted], bytes]] = {"png": png_file, "nifti": nifti_file, "seg": segmentation_file}
"""Who makes each form; fed_node.cli.predict has the endings."""

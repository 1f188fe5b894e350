"""How good a student is on patients it has not seen: Dice, IoU and the 95th percentile Hausdorff distance, averaged over patients.

The patient is the unit: the images of one patient are averaged first, so that somebody who was X-rayed ten times does not count
ten times. Everything is measured on the student's 256 x 256 square.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from torch import Tensor, nn

from fed_node.student.samples import StudentData
from fedmentor.errors import ModelError

BATCH_IMAGES = 16


@dataclass(frozen=True)
class ImageScores:
    """One image's scores.

    Attributes:
        id, patient_id: of the image.
        dice, iou: in [0, 1]; 1 where mask and prediction are both empty.
        hd95: pixels; NaN where mask or prediction is empty, because there is no distance to nothing.
    """

    id: str
    patient_id: str
    dice: float
    iou: float
    hd95: float


@dataclass(frozen=True)
class Evaluation:
    """Means over patients.

    Attributes:
        dice, iou: in [0, 1].
        hd95: pixels at 256 x 256, over the patients for whom it is defined; NaN where it is defined for none.
        patients, images: how many are behind the means.
        hd95_undefined: images that ``hd95`` leaves out.
        per_image: in the order of the data.
    """

    dice: float
    iou: float
    hd95: float
    patients: int
    images: int
    hd95_undefined: int
    per_image: tuple[ImageScores, ...]


def _nothing() -> None:
    pass


def evaluate(model: nn.Module, data: StudentData, between: Callable[[], object] = _nothing) -> Evaluation:
    """Score a model on the images that have a mask; the model's parameters stay as they are.

    Args:
        model: a student.
        data: N images.
        between: called between batches; whatever it raises ends the scoring.

    Raises:
        EmptyDataset: no image has a mask.
        ModelError: the model's output is not finite.
    """
    known = data.with_masks()
    logits = []
    for batch in torch.split(known.images, BATCH_IMAGES):
        between()
        logits.append(predict_logits(model, batch))
    return score(torch.cat(logits) > 0, known, between)


def score(predictions: Tensor, data: StudentData, between: Callable[[], object] = _nothing) -> Evaluation:
    """Compare predictions with masks; ``data`` has a mask for every image.

    Args:
        predictions: bool [N, 1, H, W].
        data: N images.
        between: called between batches; whatever it raises ends the scoring.
    """
    batches = []
    for wanted, truth in zip(torch.split(predictions, BATCH_IMAGES), torch.split(data.masks, BATCH_IMAGES), strict=True):
        between()
        batches.append(image_metrics(wanted, truth))
    rows = torch.cat(batches).tolist()
    images = [ImageScores(id_, patient, *row) for id_, patient, row in zip(data.ids, data.patient_ids, rows, strict=True)]
    return summarise(images)


def summarise(images: Sequence[ImageScores]) -> Evaluation:
    """Average over the images of each patient, then over patients."""
    by_patient: dict[str, list[ImageScores]] = defaultdict(list)
    for image in images:
        by_patient[image.patient_id].append(image)
    return Evaluation(
        dice=_mean_of_means([[image.dice for image in group] for group in by_patient.values()]),
        iou=_mean_of_means([[image.iou for image in group] for group in by_patient.values()]),
        hd95=_mean_of_means([[image.hd95 for image in group] for group in by_patient.values()]),
        patients=len(by_patient),
        images=len(images),
        hd95_undefined=sum(bool(np.isnan(image.hd95)) for image in images),
        per_image=tuple(images),
    )


def image_metrics(predictions: Tensor, truths: Tensor) -> Tensor:
    """MONAI's metrics of each image.

    Args:
        predictions, truths: bool [B, 1, H, W].

    Returns:
        float64 [B, 3]: Dice, IoU, HD95 in pixels (NaN where either is empty).
    """
    guess, truth = predictions.float(), truths.float()
    dice = compute_dice(guess, truth, ignore_empty=False)
    iou = compute_iou(guess, truth, ignore_empty=False)
    distance = torch.full((len(guess), 1), torch.nan, dtype=torch.float64)
    # Asking MONAI about an empty mask gives infinity or NaN and a warning for each.
    defined = (guess.flatten(1).any(1) & truth.flatten(1).any(1)).nonzero().flatten()
    if len(defined):
        distance[defined] = _hausdorff95(guess[defined], truth[defined]).double()
    return torch.cat([dice.double(), iou.double(), distance], 1)


def predict_logits(model: nn.Module, images: Tensor, batch_images: int = BATCH_IMAGES) -> Tensor:
    """The model's logits, without gradients.

    Args:
        model: a student; put into evaluation mode.
        images: float32 [N, 1, H, W] in [0, 1].
        batch_images: images at a time; bounds the memory.

    Returns:
        float32 [N, 1, H, W].

    Raises:
        ModelError: the output is not finite.
    """
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in torch.split(images, batch_images)])
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's output is not finite", cure="use a model from an earlier round, or train it again")
    return logits


def _hausdorff95(guess: Tensor, truth: Tensor) -> Tensor:
    """float32 [B, 1], pixels; no mask is empty."""
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument of its own that it passes to itself.
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        distance: Tensor = compute_hausdorff_distance(guess, truth, include_background=True, percentile=95)
    return distance


def _mean_of_means(groups: Sequence[Sequence[float]]) -> float:
    """Mean over groups of the mean within each, leaving out NaN and groups of nothing but NaN; NaN where nothing is left."""
    means = [np.mean(defined) for group in groups if (defined := [value for value in group if not np.isnan(value)])]
    return float(np.mean(means)) if means else float("nan")

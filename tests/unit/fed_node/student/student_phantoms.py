"""Tiny images for the student's tests: two bright ellipses on noise, 64 x 64, so that a training step takes milliseconds."""

import numpy as np
import torch

from fed_node.student.samples import StudentData

SIDE = 64


def ellipses(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [N, 1, 64, 64] in [0, 1] and masks bool of the same shape."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    images, masks = [], []
    for _ in range(count):
        row, left, right = random.uniform(26, 38), random.uniform(16, 22), random.uniform(42, 48)
        mask = np.zeros((SIDE, SIDE), bool)
        for column in (left, right):
            mask |= ((rows - row) / random.uniform(14, 20)) ** 2 + ((columns - column) / random.uniform(7, 10)) ** 2 < 1
        images.append(np.clip(0.3 + 0.4 * mask + random.normal(0, 0.08, mask.shape), 0, 1))
        masks.append(mask)
    return torch.tensor(np.stack(images)[:, None], dtype=torch.float32), torch.tensor(np.stack(masks)[:, None])


def student_data(count: int, seed: int = 0, *, masked: bool = True, softened: bool = False) -> StudentData:
    """Ellipses as StudentData; soft labels are logits of +-6."""
    images, masks = ellipses(count, seed)
    return StudentData(
        ids=tuple(f"image-{number}" for number in range(count)),
        patient_ids=tuple(f"patient-{number}" for number in range(count)),
        images=images,
        masks=masks if masked else torch.zeros_like(masks),
        has_mask=torch.full((count,), masked),
        soft=(masks.half() * 12 - 6) if softened else None,
    )

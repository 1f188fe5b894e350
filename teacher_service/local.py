"""The teacher in this process: no server, the same contract and the same numbers as behind TorchServe."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from fedmentor.errors import PromptRefused
from fedmentor.ids import Digest
from fedmentor.teacher.contract import Pixels, Prompt, SoftLabels, TeacherCard, check_prompt, image_digest
from fedmentor.teacher.images import check_pixels
from teacher_service.convert import convert_bundled
from teacher_service.embeddings import EmbeddingCache
from teacher_service.models.network import Points
from teacher_service.models.registry import architecture
from teacher_service.weights import Weights, read_weights

EMBEDDING_CACHE_BYTES = 256 << 20
"""Room for about sixty LiteMedSAM or a thousand SAM-Med2D embeddings."""

_F16_MAX = float(np.finfo(np.float16).max)


class LocalTeacher:
    """Implements fedmentor.teacher.contract.Teacher on a network in this process.

    Pictures are encoded one at a time and all objects of a prompt are decoded together, so an answer never depends on what other
    callers ask. Safe to call from several threads; they take turns.
    """

    def __init__(self, weights: Weights, *, device: str = "cpu", cache_bytes: int = EMBEDDING_CACHE_BYTES) -> None:
        self._architecture = architecture(weights.architecture)
        self._network = self._architecture.build(weights.tensors, device)
        self._card = self._architecture.card(weights.digest)
        self._embeddings = EmbeddingCache(cache_bytes)
        self._lock = threading.Lock()

    @property
    def embeddings(self) -> EmbeddingCache:
        """For its counters."""
        return self._embeddings

    def card(self) -> TeacherCard:
        """See Teacher."""
        return self._card

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """See Teacher."""
        check_pixels(pixels)
        size = (pixels.shape[0], pixels.shape[1])
        check_prompt(prompt, size)
        self._check_trained_for(prompt)
        boxes, points = self._on_input(prompt, size)
        image = image_digest(pixels)
        with self._lock:
            start = time.perf_counter()
            embedding, cached = self._embed(pixels, image)
            encoded = time.perf_counter()
            logits, quality = self._network.decode(embedding, boxes, points)
            decoded = time.perf_counter()
        return SoftLabels(
            logits=logits.clamp(-_F16_MAX, _F16_MAX).to("cpu", torch.float16).numpy(),
            predicted_iou=quality.to("cpu", torch.float32).numpy(),
            content=self._content(size),
            image_size=size,
            image_digest=image,
            prompt=prompt,
            teacher=self._card,
            timings_ms={
                "encode": round(1000 * (encoded - start), 3),
                "decode": round(1000 * (decoded - encoded), 3),
                "embedding_cached": float(cached),
            },
        )

    def _check_trained_for(self, prompt: Prompt) -> None:
        for kind, used in (("box", bool(prompt.boxes)), ("point", bool(prompt.points))):
            if used and kind not in self._card.prompts:
                raise PromptRefused(
                    f"{self._card.architecture} was not trained for {kind} prompts",
                    cure=f"prompt it with a {' or a '.join(self._card.prompts)}",
                )

    def _embed(self, pixels: Pixels, image: Digest) -> tuple[torch.Tensor, bool]:
        known = self._embeddings.get(image)
        if known is not None:
            return known, True
        prepared = torch.from_numpy(self._architecture.preprocessing.image(pixels))[None]
        embedding = self._network.encode(prepared)
        self._embeddings.put(image, embedding)
        return embedding, False

    def _on_input(self, prompt: Prompt, size: tuple[int, int]) -> tuple[torch.Tensor | None, Points | None]:
        """The prompt in the network's coordinates. Points alone are one object; with boxes they refine every box."""
        objects = max(1, len(prompt.boxes))
        boxes = points = None
        if prompt.boxes:
            corners = np.array([[(b.x0, b.y0), (b.x1, b.y1)] for b in prompt.boxes], np.float64)
            boxes = self._coordinates(corners, size).reshape(objects, 4)
        if prompt.points:
            clicks = np.array([(p.x, p.y) for p in prompt.points], np.float64)
            labels = torch.tensor([p.label for p in prompt.points], dtype=torch.int32)
            points = (self._coordinates(clicks, size).expand(objects, -1, -1), labels.expand(objects, -1))
        return boxes, points

    def _coordinates(self, xy: npt.NDArray[np.float64], size: tuple[int, int]) -> torch.Tensor:
        return torch.from_numpy(self._architecture.preprocessing.coordinates(xy, size))

    def _content(self, size: tuple[int, int]) -> tuple[int, int]:
        height, width = self._architecture.preprocessing.content(size)
        ratio = self._card.mask_size / self._card.input_size
        return round(height * ratio), round(width * ratio)


def local_teacher(weights: Path | None = None, *, device: str = "cpu") -> LocalTeacher:
    """Load a teacher into this process.

    Args:
        weights: a file that ``fedmentor teacher convert`` wrote; None for the LiteMedSAM that comes with the installation.
        device: where to compute, e.g. ``cpu`` or ``cuda:0``.

    Raises:
        ModelError: not a converted file, or one that fits no architecture.
    """
    if weights is not None:
        return LocalTeacher(read_weights(weights), device=device)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        convert_bundled(path)
        return LocalTeacher(read_weights(path), device=device)

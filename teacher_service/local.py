"""The teacher in this process: no server, the same contract and the same numbers as behind TorchServe."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import torch

from fedmentor.errors import BrokenStore, ConfigError, PromptRefused, UnknownImage
from fedmentor.ids import Digest
from fedmentor.teacher.contract import (
    Answer,
    Extras,
    ObjectPrompt,
    Pixels,
    Prompt,
    SoftLabels,
    TeacherCard,
    check_prompt,
    image_digest,
)
from fedmentor.teacher.encodings import float16_logits
from fedmentor.teacher.images import check_pixels
from teacher_service.compute import FLOAT32, ON_CPU, Compute
from teacher_service.convert import convert_bundled
from teacher_service.embedding_store import EmbeddingStore
from teacher_service.embeddings import EmbeddingCache, Seen
from teacher_service.hints import Frame, boxes_on_input, masks_on_input, points_on_input, together
from teacher_service.models.network import best
from teacher_service.models.registry import architecture
from teacher_service.weights import Weights, read_weights

logger = logging.getLogger(__name__)

EMBEDDING_CACHE_BYTES = 256 << 20
"""Room for about sixty LiteMedSAM or a thousand SAM-Med2D embeddings."""

HINTS_A_TOKEN = 4
"""Pixels of a rough mask along one side of a token of the image's grid (segment_anything.modeling.PromptEncoder)."""


class LocalTeacher:
    """Implements fedmentor.teacher.contract.Foundation on a network in this process.

    Pictures are encoded one at a time and all objects of a prompt are decoded together, so an answer never depends on what other
    callers ask. Safe to call from several threads; they take turns.

    Args:
        weights: of a known architecture.
        compute: where and how.
        cache_bytes: of embeddings in memory.
        kept: embeddings on disk, read before anything is encoded and written after it; None for none.

    Raises:
        WrongArchitecture: the weights do not fit.
        ConfigError: there is no such device here.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        compute: Compute = ON_CPU,
        cache_bytes: int = EMBEDDING_CACHE_BYTES,
        kept: EmbeddingStore | None = None,
    ) -> None:
        _check_device(compute.device)
        self._architecture = architecture(weights.architecture)
        network = self._architecture.build(weights.tensors, compute.device)
        self._network = replace(network, half=None if compute.precision == FLOAT32 else getattr(torch, compute.precision))
        card = self._architecture.card(weights.digest)
        self._card = replace(card, preprocessing=card.preprocessing + compute.mark)
        self._images_at_once = compute.images_at_once
        self._embeddings = EmbeddingCache(cache_bytes)
        self._kept = kept
        self._disk_failed = False
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
        return self.ask(pixels, prompt, Extras()).soft

    def size_of(self, image: Digest) -> tuple[int, int]:
        """See Foundation."""
        with self._lock:
            return self._known(image).size

    def expect(self, images: Sequence[Pixels]) -> None:
        """See Foundation: encodes ``images_at_once`` together, where that is more than one."""
        if self._images_at_once == 1:
            return
        with self._lock:
            named = {image_digest(pixels): pixels for pixels in images}
            new = [name for name in named if not self._holds(name)]
            for first in range(0, len(new), self._images_at_once):
                some = new[first : first + self._images_at_once]
                prepared = np.stack([self._architecture.preprocessing.image(named[name]) for name in some])
                encoded = torch.split(self._network.encode(torch.from_numpy(prepared)), 1)
                for name, embedding in zip(some, encoded, strict=True):
                    self._keep(name, Seen(embedding.clone(), (named[name].shape[0], named[name].shape[1])))

    def ask(self, image: Pixels | Digest, prompt: Prompt, extras: Extras) -> Answer:
        """See Foundation."""
        if extras.candidates and not self._network.multimask:
            raise PromptRefused(f"{self._card.architecture} was not trained to give three masks", cure="ask for one")
        if isinstance(image, str):
            size, name, pixels = self.size_of(image), image, None
        else:
            check_pixels(image)
            size, name, pixels = (image.shape[0], image.shape[1]), image_digest(image), image
        check_prompt(prompt, size)
        self._check_trained_for(prompt)
        with self._lock:
            start = time.perf_counter()
            embedding, cached = self._embed(pixels, name)
            encoded = time.perf_counter()
            masks, quality = self._decode(embedding, prompt.each(), size)
            decoded = time.perf_counter()
        logits, predicted = best(masks, quality)
        soft = SoftLabels(
            logits=float16_logits(_float32(logits)),
            predicted_iou=_float32(predicted),
            content=self._architecture.content(size),
            image_size=size,
            image_digest=name,
            prompt=prompt,
            teacher=self._card,
            timings_ms={
                "encode": round(1000 * (encoded - start), 3),
                "decode": round(1000 * (decoded - encoded), 3),
                "embedding_cached": float(cached),
            },
        )
        return Answer(
            soft,
            candidates=(float16_logits(_float32(masks)), _float32(quality)) if extras.candidates else None,
            embedding=_float32(embedding[0]) if extras.embedding else None,
            exact=_float32(masks if extras.candidates else logits) if extras.exact else None,
        )

    def _check_trained_for(self, prompt: Prompt) -> None:
        used = {kind for each in prompt.each() for kind in each.kinds()}
        for kind in sorted(used - set(self._card.prompts)):
            raise PromptRefused(
                f"{self._card.architecture} was not trained for {kind} prompts",
                cure=f"prompt it with a {' or a '.join(self._card.prompts)}",
            )

    def _known(self, image: Digest) -> Seen:
        seen = self._embeddings.get(image)
        if seen is None:
            raise UnknownImage("the teacher does not hold this image, or no longer", cure="send the image itself")
        return seen

    def _embed(self, pixels: Pixels | None, image: Digest) -> tuple[torch.Tensor, bool]:
        """The embedding, and whether it was there already."""
        if pixels is None:
            return self._known(image).embedding, True
        if (seen := self._embeddings.get(image)) is not None:
            return seen.embedding, True
        size = (pixels.shape[0], pixels.shape[1])
        if (known := self._kept_embedding(image)) is not None:
            embedding = torch.from_numpy(known)[None].to(self._network.position.device)
            self._embeddings.put(image, Seen(embedding, size))
            return embedding, True
        embedding = self._network.encode(torch.from_numpy(self._architecture.preprocessing.image(pixels))[None])
        self._keep(image, Seen(embedding, size))
        return embedding, False

    def _holds(self, image: Digest) -> bool:
        return image in self._embeddings or (self._kept is not None and self._kept.has(image, self._card))

    def _keep(self, image: Digest, seen: Seen) -> None:
        """In memory, and on the disk where that is wanted and works."""
        self._embeddings.put(image, seen)
        if self._kept is not None:
            try:
                self._kept.put(image, self._card, _float32(seen.embedding[0]))
            except (BrokenStore, ConfigError) as error:
                self._without_disk(error)

    def _kept_embedding(self, image: Digest) -> npt.NDArray[np.float32] | None:
        """From the disk, where that is wanted and works."""
        try:
            return None if self._kept is None else self._kept.get(image, self._card)
        except (BrokenStore, ConfigError) as error:
            self._without_disk(error)
            return None

    def _without_disk(self, error: BrokenStore | ConfigError) -> None:
        """An answer does not depend on a disk: what could not be kept is encoded again some day. Said once."""
        if not self._disk_failed:
            logger.warning("%s; answers go on without (%s)", error.message, error.cure)
        self._disk_failed = True

    def _decode(
        self, embedding: torch.Tensor, objects: tuple[ObjectPrompt, ...], size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All masks [K, M, h, w] and qualities [K, M] in the order of the objects."""
        side = self._card.input_size
        hint_side = HINTS_A_TOKEN * self._network.position.shape[-1]
        frame = Frame(self._architecture.preprocessing, side, hint_side, self._architecture.hint_form, size)
        order: list[int] = []
        decoded = []
        for group in together(objects):
            alike = [objects[index] for index in group]
            parts = boxes_on_input(alike, frame), points_on_input(alike, frame), masks_on_input(alike, frame)
            decoded.append(self._network.decode_all(embedding, *parts))
            order += group
        back = torch.tensor(order).argsort()
        masks, quality = (torch.cat(each)[back.to(embedding.device)] for each in zip(*decoded, strict=True))
        return masks, quality


def _float32(values: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = values.to("cpu", torch.float32).contiguous().numpy()
    return array


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
        raise ConfigError(
            f"{device[:40]!r} is no device that this machine computes on", cure="use cpu, or cuda with a GPU"
        ) from error


def local_teacher(
    weights: Path | None = None,
    *,
    compute: Compute = ON_CPU,
    embeddings: Path | None = None,
) -> LocalTeacher:
    """Load a teacher into this process.

    Args:
        weights: a file that ``fedmentor teacher convert`` wrote; None for the LiteMedSAM that comes with the installation.
        compute: where and how.
        embeddings: folder where embeddings are kept; None for memory only.

    Raises:
        ModelError: not a converted file, or one that fits no architecture.
        ConfigError: there is no such device here.
    """
    kept = None if embeddings is None else EmbeddingStore(embeddings)
    if weights is not None:
        return LocalTeacher(read_weights(weights), compute=compute, kept=kept)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        convert_bundled(path)
        return LocalTeacher(read_weights(path), compute=compute, kept=kept)

"""Soft labels, and embeddings if wanted, for a folder of images: asked once, kept by content, found again by whoever needs them.

What lies in the store is skipped, so a batch that was interrupted goes on where it stopped, and a second one over the same images
only looks. Images are read as a site reads them (colour becomes luma), because the digest of what was read is a label's address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fedmentor.errors import ConfigError, DataError, EmptyDataset, LimitExceeded, PromptRefused, UnreadableImage
from fedmentor.teacher.cache import CachedTeacher, FolderStore
from fedmentor.teacher.client import TeacherClient
from fedmentor.teacher.contract import Pixels, image_digest
from fedmentor.teacher.images import MAX_IMAGE_BYTES, read_image
from fedmentor.teacher.question import DEFAULT_AUTO, Question, Wish
from teacher_service.batch_prompts import IMAGES_FOLDER, PromptRule, prompt_rule
from teacher_service.embedding_store import EmbeddingStore

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".npy")

_IMAGE_FAULTS = (DataError, PromptRefused, LimitExceeded)
"""What is wrong with one image. Anything else is wrong with the teacher or the disk, and every image would meet it."""


@dataclass(frozen=True)
class BatchOptions:
    """What is asked about every image.

    Attributes:
        rule: what is asked.
        in_flight: questions to the teacher at a time.
        keep_colour: ask about colour as colour; a student's images are grey.

    Raises:
        ConfigError: out of range.
    """

    rule: PromptRule = field(default_factory=lambda: prompt_rule(DEFAULT_AUTO))
    in_flight: int = 2
    keep_colour: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight <= 64:
            raise ConfigError(f"{self.in_flight} questions at a time are out of range", cure="give 1 to 64")


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    Attributes:
        asked: images that the teacher was asked about.
        known: images whose label lay in the store.
        failures: file name and reason of each image that was left out, in the folder's order.
    """

    asked: int
    known: int
    failures: tuple[tuple[str, str], ...]


Told = Callable[[int, int, str], None]
"""(images done, images in all, what was wrong with the one just done or nothing)."""


def pictures_of(folder: Path) -> list[Path]:
    """The image files of a dataset folder (``images/``) or of a plain one, sorted by name.

    Raises:
        EmptyDataset: none.
    """
    images = folder / IMAGES_FOLDER
    root = images if images.is_dir() else folder
    # A link that leads nowhere counts: it is left out later, and named.
    found = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists()))
    if not found:
        raise EmptyDataset(f"{root} holds no image", cure=f"put {', '.join(SUFFIXES)} files there")
    return found


class Batch:
    """One pass over some images.

    Args:
        client: who is asked.
        store: where labels are kept, and who answered.
        options: what is asked.
        embeddings: where embeddings are kept; None for not at all.
    """

    def __init__(
        self, client: TeacherClient, store: FolderStore, options: BatchOptions, embeddings: EmbeddingStore | None = None
    ) -> None:
        self._client = client
        self._cached = CachedTeacher(client, store)
        self._store = store
        self._options = options
        self._embeddings = embeddings

    def run(self, pictures: Sequence[Path], told: Told) -> BatchResult:
        """Label every picture that is not yet.

        Args:
            pictures: see pictures_of.
            told: called on this thread after every picture, in the order of completion.

        Raises:
            TeacherUnreachable: the teacher stopped answering; what it said before is in the store.
            DigestMismatch: the teacher was replaced meanwhile.
            BrokenStore, ConfigError: the store cannot be written.
        """
        self._store.put_card(self._cached.card())
        failures: dict[int, str] = {}
        with ThreadPoolExecutor(self._options.in_flight, thread_name_prefix="batch") as pool:
            try:
                asked = {pool.submit(self._label, path): index for index, path in enumerate(pictures)}
                for done, future in enumerate(as_completed(asked), 1):
                    fault = _fault(future)
                    if fault:
                        failures[asked[future]] = fault
                    told(done, len(pictures), f"{pictures[asked[future]].name}: {fault}" if fault else "")
            finally:
                # Only those that were already asked are waited for; their answers reach the store.
                pool.shutdown(wait=True, cancel_futures=True)
        return BatchResult(
            asked=self._cached.misses,
            known=self._cached.hits,
            failures=tuple((pictures[index].name, failures[index]) for index in sorted(failures)),
        )

    def _label(self, path: Path) -> None:
        pixels = self._read(path)
        prompt = self._options.rule.prompt(path, (pixels.shape[0], pixels.shape[1]))
        self._cached.soften(pixels, prompt)
        if self._embeddings is None:
            return
        name, card = image_digest(pixels), self._cached.card()
        if not self._embeddings.has(name, card):
            # The teacher has just encoded the image: this costs a decode.
            told = self._client.ask(pixels, Question(prompt, wish=Wish(outputs=("embedding",))))
            self._embeddings.put(name, told.teacher, told.arrays["embedding"])

    def _read(self, path: Path) -> Pixels:
        try:
            size = path.stat().st_size
            if size > MAX_IMAGE_BYTES:
                raise LimitExceeded(f"{size} bytes are over the limit of {MAX_IMAGE_BYTES}")
            pixels = read_image(path.read_bytes())
        except OSError as error:
            raise UnreadableImage(f"it cannot be opened: {error.strerror}") from error
        if pixels.ndim == 2 or self._options.keep_colour:
            return pixels
        return np.asarray(Image.fromarray(pixels).convert("L"), np.uint8)  # ITU-R BT.601


def _fault(future: Future[None]) -> str:
    """What was wrong with an image, or nothing.

    Raises:
        FedMentorError: what is wrong with more than this image.
    """
    try:
        future.result()
    except _IMAGE_FAULTS as error:
        return error.message
    return ""

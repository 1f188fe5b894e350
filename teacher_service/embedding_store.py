"""Embeddings on disk, by content: an image that was encoded once is never encoded again, in whichever process.

``ROOT/ab/abcdef….safetensors``; the address covers image, weights and pre-processing, so nothing in a store is ever stale.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedmentor.disk import disk_failed
from fedmentor.errors import BrokenStore, ConfigError
from fedmentor.ids import Digest
from fedmentor.models import write_atomically
from fedmentor.teacher.contract import TeacherCard

Embedding = npt.NDArray[np.float32]

_NAME = "embedding"


class EmbeddingStore:
    """A folder of embeddings, float32 [C, g, g] each. Safe to use from several threads and processes.

    An embedding shows what is in a patient's image, so folders and files are for their owner only.

    Args:
        root: made when the first embedding is put.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, image: Digest, card: TeacherCard) -> Path:
        """Where an embedding lies."""
        key = hashlib.sha256(f"{image} {card.digest} {card.preprocessing}".encode()).hexdigest()
        return self._root / key[:2] / f"{key}.safetensors"

    def has(self, image: Digest, card: TeacherCard) -> bool:
        """Whether there is a file for it."""
        return self.path(image, card).is_file()

    def get(self, image: Digest, card: TeacherCard) -> Embedding | None:
        """The embedding, or None where there is none or something that is none.

        Raises:
            BrokenStore, ConfigError: the folder cannot be read.
        """
        try:
            found = load(self.path(image, card).read_bytes())[_NAME]
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError):
            return None  # overwritten by the next put
        except OSError as error:
            raise self._broken("read", error) from error
        is_embedding = found.dtype == np.float32 and found.ndim == 3 and bool(np.isfinite(found).all())
        return np.asarray(found, np.float32) if is_embedding else None

    def put(self, image: Digest, card: TeacherCard, embedding: Embedding) -> None:
        """Keep an embedding; after a crash the store holds all of it or nothing.

        Raises:
            BrokenStore, ConfigError: the folder cannot be written.
        """
        path = self.path(image, card)
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_atomically(path, save({_NAME: np.ascontiguousarray(embedding)}), mode=0o600)
        except OSError as error:
            raise self._broken("written", error) from error

    def _broken(self, done: str, error: OSError) -> BrokenStore | ConfigError:
        message = f"the embeddings in {self._root} cannot be {done}: {error.strerror or type(error).__name__}"
        if disk_failed(error):
            return BrokenStore(message, cure="free some space or choose another folder")
        return ConfigError(message, cure="choose another folder")

"""Soft labels that were computed once are never computed again: a teacher's answer costs seconds, a file of 100 kB costs nothing.

An answer's address is fedmentor.teacher.contract.soft_label_key: image, prompt, teacher weights and pre-processing. Change any of
them and it is another answer, so nothing in a cache is ever stale and nothing needs to be invalidated.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from fedmentor.disk import disk_failed
from fedmentor.errors import BrokenStore, ConfigError, DigestMismatch, TeacherUnreachable
from fedmentor.ids import Digest
from fedmentor.models import write_atomically
from fedmentor.teacher.contract import (
    Pixels,
    Prompt,
    SoftLabels,
    Teacher,
    TeacherCard,
    card_from_json,
    check_prompt,
    image_digest,
    soft_label_key,
)
from fedmentor.teacher.images import check_pixels
from fedmentor.teacher.payload import decode_answer, encode_answer

_CARDS = "teachers"


class SoftLabelStore(Protocol):
    """Soft labels by content address. Safe to call from several threads.

    Implementations: FolderStore and MemoryStore; both pass tests/unit/fedmentor/teacher/test_fedmentor_teacher_cache.py.
    """

    def get(self, key: Digest) -> SoftLabels | None:
        """The answer at this address, with empty ``timings_ms``.

        Returns:
            None where there is none, or where what lies there is not what was put.

        Raises:
            BrokenStore: the disk failed.
            ConfigError: the store's folder cannot be used.
        """
        ...

    def put(self, key: Digest, soft: SoftLabels) -> None:
        """Keep an answer; replaces what is there. After a crash the store holds all of it or nothing.

        Raises:
            BrokenStore: the disk failed.
            ConfigError: the store's folder cannot be used.
        """
        ...


class MemoryStore:
    """A store that is gone with its process; for tests and for runs that should leave nothing behind."""

    def __init__(self) -> None:
        self._answers: dict[Digest, SoftLabels] = {}

    def get(self, key: Digest) -> SoftLabels | None:
        """See SoftLabelStore."""
        return self._answers.get(key)

    def put(self, key: Digest, soft: SoftLabels) -> None:
        """See SoftLabelStore."""
        self._answers[key] = replace(soft, timings_ms={})


class FolderStore:
    """``ROOT/ab/abcdef….safetensors``: one file an answer, in the wire format of fedmentor.teacher.payload.

    A soft label shows the outline of a patient's organs, so folders and files are for their owner only.

    Args:
        root: made when the first answer is put.

    Attributes:
        corrupt: files found that were no answer, or another one's; they count as absent and are overwritten.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self.corrupt = 0

    def path(self, key: Digest) -> Path:
        """Where an answer lies. 256 folders keep each of them short even for a million answers."""
        return self._root / key[:2] / f"{key}.safetensors"

    def get(self, key: Digest) -> SoftLabels | None:
        """See SoftLabelStore."""
        try:
            blob = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _broken(self._root, "read", error) from error
        soft = _decoded(blob, key)
        if soft is None:
            with self._lock:
                self.corrupt += 1
        return soft

    def put(self, key: Digest, soft: SoftLabels) -> None:
        """See SoftLabelStore."""
        self._write(self.path(key), encode_answer(replace(soft, timings_ms={})))

    def put_card(self, card: TeacherCard) -> None:
        """Note whose answers are kept, for StoredTeacher. Raises like put."""
        name = hashlib.sha256(f"{card.digest} {card.preprocessing}".encode()).hexdigest()
        self._write(self._root / _CARDS / f"{name}.json", json.dumps(card.to_json(), indent=1).encode())

    def cards(self) -> list[TeacherCard]:
        """Whose answers are kept, by name.

        Raises:
            BrokenStore, ConfigError: see SoftLabelStore.
        """
        try:
            texts = [path.read_bytes() for path in sorted((self._root / _CARDS).glob("*.json"))]
        except OSError as error:
            raise _broken(self._root, "read", error) from error
        cards = []
        for text in texts:
            try:
                cards.append(card_from_json(json.loads(text)))
            except (ValueError, TypeError, KeyError):
                self.corrupt += 1
        return cards

    def _write(self, path: Path, data: bytes) -> None:
        try:
            # mode= of mkdir holds for the last folder only, so the root is made on its own.
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_atomically(path, data, mode=0o600)
        except OSError as error:
            raise _broken(self._root, "written", error) from error


class StoredTeacher:
    """Implements fedmentor.teacher.contract.Teacher from a store alone: what was answered before, and nothing else. Nobody runs.

    Args:
        card: whose answers.
        store: where they are.
    """

    def __init__(self, card: TeacherCard, store: SoftLabelStore) -> None:
        self._card = card
        self._store = store

    def card(self) -> TeacherCard:
        """See Teacher."""
        return self._card

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """See Teacher.

        Raises:
            TeacherUnreachable: the answer is not in the store.
        """
        check_pixels(pixels)
        check_prompt(prompt, (pixels.shape[0], pixels.shape[1]))
        known = self._store.get(soft_label_key(image_digest(pixels), prompt, self._card))
        if known is None:
            raise TeacherUnreachable(
                f"the store holds no answer of {self._card.architecture} to this prompt on image {image_digest(pixels)[:16]}",
                cure="run 'fedmentor teacher batch' on the same images with the same prompt",
            )
        return known


def stored_teacher(root: Path, architecture: str | None = None) -> StoredTeacher:
    """The teacher whose answers a folder holds.

    Args:
        root: of a FolderStore.
        architecture: which of several.

    Raises:
        TeacherUnreachable: none, or more than one that fits.
    """
    store = FolderStore(root)
    cards = [card for card in store.cards() if architecture in (None, card.architecture)]
    if len(cards) != 1:
        found = ", ".join(f"{card.architecture} {card.digest[:12]}" for card in cards) or "none"
        raise TeacherUnreachable(
            f"{root} must hold the answers of one teacher, and holds {found}",
            cure="run 'fedmentor teacher batch' into a folder of its own",
        )
    return StoredTeacher(cards[0], store)


def default_cache() -> Path:
    """The folder that the XDG base directory specification gives to caches."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedmentor" / "soft-labels"


class CachedTeacher:
    """Implements fedmentor.teacher.contract.Teacher: a store in front of another teacher.

    The teacher is asked who it is once; it must run even when every answer is already in the store, because without its card
    there is no address. Safe to call from several threads: two that want the same answer ask once.

    Args:
        teacher: who is asked.
        store: where answers are kept.

    Attributes:
        hits: answers that came from the store.
        misses: answers that the teacher gave.
    """

    def __init__(self, teacher: Teacher, store: SoftLabelStore) -> None:
        self._teacher = teacher
        self._store = store
        self._guard = threading.Lock()
        self._card: TeacherCard | None = None
        # One lock an address, alive while somebody holds it.
        self._asking: weakref.WeakValueDictionary[Digest, threading.Lock] = weakref.WeakValueDictionary()
        self.hits = 0
        self.misses = 0

    def card(self) -> TeacherCard:
        """See Teacher."""
        with self._guard:
            if self._card is None:
                self._card = self._teacher.card()
            return self._card

    def soften(self, pixels: Pixels, prompt: Prompt) -> SoftLabels:
        """See Teacher. Refusals are not kept: the next call asks again.

        Raises:
            DigestMismatch: the answer is about another image, or from another teacher than the card names.
            BrokenStore, ConfigError: see SoftLabelStore.
        """
        key = soft_label_key(image_digest(pixels), prompt, self.card())
        with self._guard:
            turn = self._asking.setdefault(key, threading.Lock())
        with turn:
            known = self._store.get(key)
            if known is not None:
                self._count(hit=True)
                return known
            answer = self._teacher.soften(pixels, prompt)
            if soft_label_key(answer.image_digest, answer.prompt, answer.teacher) != key:
                raise DigestMismatch(
                    "the teacher's answer is about another image or prompt, or from other weights than it named",
                    cure="start again; a teacher that was replaced meanwhile gives other labels",
                )
            self._store.put(key, answer)
            self._count(hit=False)
            return answer

    def _count(self, *, hit: bool) -> None:
        with self._guard:
            self.hits += hit
            self.misses += not hit


def _decoded(blob: bytes, key: Digest) -> SoftLabels | None:
    try:
        soft = decode_answer(blob)
    except TeacherUnreachable:  # what a client says to bytes that are no answer
        return None
    return soft if soft_label_key(soft.image_digest, soft.prompt, soft.teacher) == key else None


def _broken(root: Path, done: str, error: OSError) -> BrokenStore | ConfigError:
    message = f"the soft-label cache {root} cannot be {done}: {error.strerror or type(error).__name__}"
    if disk_failed(error):
        return BrokenStore(message, cure="free some space or choose another folder with --cache")
    return ConfigError(message, cure="choose another folder with --cache")

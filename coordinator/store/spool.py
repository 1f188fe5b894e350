"""Updates on disk: ``SITE/SHA256.part`` while bytes arrive, ``SITE/SHA256.words`` once they are whole, checked and fsynced.

The address is the content, not the round: an update that a failed attempt left here need not be sent again in the next one.
A site has at most one unfinished update; a new one replaces it. Declared sizes are checked by admission before they come here.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmentor.disk import sync_path
from fedmentor.errors import BrokenStore, CoordinatorUnreachable, DigestMismatch
from fedmentor.federation import UpdateHeader
from fedmentor.ids import Digest, SiteId
from fedmentor.secagg.ring import WORD_BYTES, RingWords

_PART, _WHOLE = ".part", ".words"


@dataclass(frozen=True)
class SpooledUpdate:
    """A file of ring words; a coordinator.averaging.WordSource."""

    path: Path
    size_bytes: int

    def words(self, start: int, stop: int) -> RingWords:
        """See WordSource.

        Raises:
            DigestMismatch: the file is gone or shorter than it was.
            BrokenStore: the disk refused to read it.
        """
        try:
            words = np.fromfile(self.path, "<u4", stop - start, offset=start * WORD_BYTES)
        except FileNotFoundError as error:
            raise DigestMismatch("a spooled update is gone") from error
        except OSError as error:
            raise BrokenStore(f"a spooled update cannot be read: {error.strerror}") from error
        if words.size != stop - start:
            raise DigestMismatch("a spooled update is shorter than it was")
        return words.astype(np.uint32, copy=False)


class Spool:
    """A folder of updates; safe to share between threads. An OSError of any kind leaves as BrokenStore."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._locks: dict[SiteId, threading.Lock] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def stored(self, site: SiteId, header: UpdateHeader) -> int:
        """Bytes of this update that are here: where the site goes on. An overlong leftover is dropped and counts as none."""
        with self._site(site) as place:
            if _size(self._whole(site, header)) == header.size_bytes:
                return header.size_bytes
            part = place / f"{header.sha256}{_PART}"
            if _size(part) > header.size_bytes:
                part.unlink()
            return _size(part)

    def append(self, site: SiteId, header: UpdateHeader, offset: int, data: bytes) -> None:
        """Add bytes at the end of an unfinished update.

        Raises:
            CoordinatorUnreachable: the update does not end at ``offset`` (another stream of the site wrote); offer it again.
        """
        with self._site(site) as place:
            part = place / f"{header.sha256}{_PART}"
            stored = _size(part)
            if stored != offset or offset + len(data) > header.size_bytes:
                raise CoordinatorUnreachable(f"the update is at byte {stored}, not {offset}", cure="offer it again")
            if offset == 0:
                place.mkdir(exist_ok=True)
                for other in place.glob(f"*{_PART}"):
                    other.unlink()
            with part.open("ab") as file:
                file.write(data)

    def open(self, site: SiteId, header: UpdateHeader) -> SpooledUpdate:
        """The stored words, whole or not yet sealed."""
        whole = self._whole(site, header)
        path = whole if whole.exists() else whole.with_suffix(_PART)
        return SpooledUpdate(path, header.size_bytes)

    def seal(self, site: SiteId, header: UpdateHeader) -> None:
        """Make a checked update durable; doing it again does nothing.

        Raises:
            DigestMismatch: there is nothing to seal.
        """
        with self._site(site) as place:
            part, whole = place / f"{header.sha256}{_PART}", self._whole(site, header)
            if part.exists():
                sync_path(part)
                part.replace(whole)
            elif not whole.exists():
                raise DigestMismatch("a spooled update is gone")
            # Also on a repeat: the first call may have died between the rename and this line.
            sync_path(place)
            sync_path(self._folder)

    def drop(self, site: SiteId, sha256: Digest) -> None:
        """Remove what there is of an update."""
        with self._site(site) as place:
            for suffix in (_PART, _WHOLE):
                (place / f"{sha256}{suffix}").unlink(missing_ok=True)

    def keep_only(self, accepted: Collection[tuple[SiteId, Digest]]) -> None:
        """Remove every other update, finished or not."""
        for place in self._folder.iterdir():
            with self._site(SiteId(place.name)):
                for path in place.iterdir():
                    if (place.name, path.stem) not in accepted:
                        path.unlink()

    def _whole(self, site: SiteId, header: UpdateHeader) -> Path:
        return self._folder / site / f"{header.sha256}{_WHOLE}"

    @contextmanager
    def _site(self, site: SiteId) -> Iterator[Path]:
        with self._locks.setdefault(site, threading.Lock()):
            try:
                yield self._folder / site
            except OSError as error:
                raise BrokenStore(
                    f"the spool of updates failed: {error.strerror}", cure="check the disk of the state folder, then start again"
                ) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

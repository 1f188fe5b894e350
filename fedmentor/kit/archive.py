"""A kit as a gzipped tar: written the same way every time, read without trust. Bytes in, bytes out; nothing here touches a disk.

The archive has one folder with files side by side. Whatever else a tar may hold (links, devices, folders, sparse files, paths that
lead elsewhere) is refused, and no more is ever unpacked than MAX_UNPACKED_BYTES.
"""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Mapping
from typing import Final

from fedmentor.errors import ConfigError

MAX_KIT_BYTES: Final = 16 << 20
"""Compressed. A manifest of 4 MB, a deny-list of 2 MB and a roster of 1 MB are the largest that a kit can hold."""

MAX_UNPACKED_BYTES: Final = 16 << 20
MAX_FILES: Final = 32

GZIP: Final = 31
"""zlib's window bits for a gzip stream; its header then has no name and no time."""

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_AGAIN = "copy it again, or ask the registrar for another kit"


def pack(folder: str, files: Mapping[str, bytes], secret: frozenset[str]) -> bytes:
    """The archive; the same files make the same bytes.

    Args:
        folder: name of the one folder in it.
        files: content by name.
        secret: names of files that only their owner may read.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(f"{folder}/{name}")  # root's, and of 1970
            member.size, member.mode = len(files[name]), SECRET_MODE if name in secret else PUBLIC_MODE
            archive.addfile(member, io.BytesIO(files[name]))
    deflate = zlib.compressobj(9, zlib.DEFLATED, GZIP)
    return deflate.compress(packed.getvalue()) + deflate.flush()


def unpack(data: bytes) -> dict[str, bytes]:
    """The files of an archive that anybody may have made.

    1. its size; 2. one gzip stream, whole, that unpacks to no more than MAX_UNPACKED_BYTES; 3. a tar of at most MAX_FILES regular
    files, all in one folder, each with a plain name of its own.

    Raises:
        ConfigError: one of these does not hold.
    """
    if len(data) > MAX_KIT_BYTES:  # 1
        raise ConfigError(f"the kit is over {MAX_KIT_BYTES} bytes", cure=_AGAIN)
    plain = _inflated(data)  # 2
    try:
        return _files(plain)  # 3
    except (tarfile.TarError, ValueError) as error:
        raise ConfigError("the kit is not a tar archive, or is damaged", cure=_AGAIN) from error


def _inflated(data: bytes) -> bytes:
    inflate = zlib.decompressobj(GZIP)
    try:
        plain = inflate.decompress(data, MAX_UNPACKED_BYTES + 1)
    except zlib.error as error:
        raise ConfigError("the kit is not a gzip archive, or is damaged", cure=_AGAIN) from error
    if len(plain) > MAX_UNPACKED_BYTES:
        raise ConfigError(f"the kit unpacks to more than {MAX_UNPACKED_BYTES} bytes", cure=_AGAIN)
    if not inflate.eof or inflate.unused_data:
        raise ConfigError("the kit is cut off, or has something after its end", cure=_AGAIN)
    return plain


def _files(plain: bytes) -> dict[str, bytes]:
    """One header after another, as ``pack`` writes them; tarfile's reader follows extended headers, which cost without bound."""
    found: dict[str, bytes] = {}
    folders: set[str] = set()
    place = 0
    while (header := plain[place : place + tarfile.BLOCKSIZE]) != bytes(tarfile.BLOCKSIZE):
        member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        folder, _, name = member.name.partition("/")
        folders.add(folder)
        if member.type != tarfile.REGTYPE or not _NAME.fullmatch(folder) or not _NAME.fullmatch(name) or len(folders) > 1:
            raise ConfigError(f"the kit has an entry that no kit has: {member.name[:80]!r}", cure=_AGAIN)
        if len(found) == MAX_FILES or name in found:
            raise ConfigError("the kit has too many files, or one of them twice", cure=_AGAIN)
        place += tarfile.BLOCKSIZE
        found[name] = plain[place : place + member.size]
        if len(found[name]) != member.size:  # nor is it ever below 0, which a header can say
            raise ConfigError("the kit is cut off", cure=_AGAIN)
        place += -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    if plain[place:].strip(b"\0"):
        raise ConfigError("the kit has something after its end", cure=_AGAIN)
    return found

"""Reading canonical messages: front to back, counts checked against what is there, nothing left over."""

from __future__ import annotations

from fedmentor.secagg.refusal import ProtocolRefused, Reason
from fedmentor.secagg.terms import MAX_SITES


class Reader:
    """Reads a message front to back and insists that it ends where it should."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            ProtocolRefused: MALFORMED, there are not so many.
        """
        if size > len(self._data) - self._at:
            raise malformed("a message ends too early")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def number(self, size: int = 2) -> int:
        """The next little-endian integer."""
        return int.from_bytes(self.take(size), "little")

    def count(self, each: int) -> int:
        """The next number of entries, at most MAX_SITES and as many as fit the rest of the message."""
        entries = self.number()
        if entries > MAX_SITES or entries * each > len(self._data) - self._at:
            raise malformed(f"a message declares {entries} entries that it cannot hold")
        return entries

    def end(self) -> None:
        """Nothing may follow.

        Raises:
            ProtocolRefused: MALFORMED.
        """
        if self._at != len(self._data):
            raise malformed("a message goes on after its end")


def index_bytes(index: int) -> bytes:
    """A roster index or a count of sites, two bytes."""
    return index.to_bytes(2, "little")


def indexes_bytes(indexes: tuple[int, ...]) -> bytes:
    """A count and so many roster indexes."""
    return index_bytes(len(indexes)) + b"".join(map(index_bytes, indexes))


def indexes_from_bytes(data: bytes) -> tuple[int, ...]:
    """Read ``indexes_bytes`` back.

    Raises:
        ProtocolRefused: MALFORMED.
    """
    reader = Reader(data)
    indexes = tuple(reader.number() for _ in range(reader.count(2)))
    reader.end()
    return indexes


def malformed(message: str) -> ProtocolRefused:
    """The refusal of bytes that are no message."""
    return ProtocolRefused(Reason.MALFORMED, message)

"""Text of a peer on its way to a terminal or a log."""

from __future__ import annotations

MAX_LINE_CHARACTERS = 500


def one_line(text: str, limit: int = MAX_LINE_CHARACTERS) -> str:
    """At most ``limit`` characters, with a replacement character for all that do not print: line ends, escapes, direction marks."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:limit])

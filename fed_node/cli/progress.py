"""Progress on standard error: a bar on a terminal, an occasional line elsewhere."""

from fedmentor.cli.progress import LINES, Advance, progress_lines

__all__ = ["LINES", "Advance", "progress_lines"]

"""The process that decodes compressed DICOM; see fed_node.data.decoder. It reads files, writes none, and ends with its parent."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO

from fed_node.data.decoder import REPLY, REQUEST
from fed_node.data.dicom import decoded

MEMORY_BYTES = 6 << 30
"""Of address space: 50 megapixels in the widest form, several times over."""


def main() -> None:
    """Answer requests until the parent hangs up."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a codec prints must not get among the replies
    confine()
    serve(sys.stdin.buffer, replies)


def confine() -> None:
    """Take from this process what decoding does not need: much memory, writing to files, core dumps with a patient's image."""
    for limit, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Read each file that is asked for and reply with its pixels, or with none."""
    while len(length := requests.read(REQUEST.size)) == REQUEST.size:
        path = Path(os.fsdecode(requests.read(*REQUEST.unpack(length))))
        try:
            pixels = decoded(path)
            replies.write(REPLY.pack(True, *pixels.shape) + pixels.tobytes())
        except Exception:  # noqa: BLE001 - codecs raise whatever their plug-ins raise; the parent says it
            replies.write(REPLY.pack(False, 0, 0))
        replies.flush()

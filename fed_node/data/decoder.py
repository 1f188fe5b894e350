"""Decoding compressed DICOM in a process of its own: one wrong byte in a JPEG marker makes GDCM end the process that it runs in.

Hostile bytes may do worse. This side asks, waits a bounded time, and starts another process whenever anything was wrong, because
nobody knows what state a codec is in after that; fed_node.data.decoder_main answers.
"""

from __future__ import annotations

import atexit
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from fed_node.data.limits import GreyImage

DECODE_SECONDS = 120.0
"""For one image; a 50-megapixel one takes about 20 s on a slow core."""

REQUEST, REPLY = struct.Struct("<I"), struct.Struct("<?II")
"""Length of the path that follows; whether there are pixels, rows, columns, and then rows x columns bytes."""

START = "import sys; sys.path[:] = {path!r}; from fed_node.data.decoder_main import main; main()"


class DecoderFailed(Exception):
    """The process refused the file, ended, or did not answer in time."""


class Decoder:
    """Asks one process at a time; calls may come from several threads.

    Args:
        command: what to start.
        patience_s: how long to wait for an answer.
    """

    def __init__(self, command: Sequence[str] = (), patience_s: float = DECODE_SECONDS) -> None:
        # Isolated, so that neither the environment nor the working folder chooses what it imports; its path is ours.
        path = [entry for entry in sys.path if entry]
        self._command = tuple(command) or (sys.executable, "-I", "-c", START.format(path=path))
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def grey(self, path: Path, size: tuple[int, int]) -> GreyImage:
        """Read one image.

        Args:
            path: of the file.
            size: (H, W) in its header, which the caller has checked.

        Returns:
            uint8 [H, W].

        Raises:
            DecoderFailed: there are no pixels to be had.
        """
        with self._lock:
            try:
                return self._ask(path, size)
            except BaseException as error:  # also Ctrl-C: half an answer must not be taken for the next one's beginning
                self._stop()
                if isinstance(error, OSError):
                    raise DecoderFailed(type(error).__name__) from None
                raise

    def close(self) -> None:
        """End the process, if there is one; it can be asked again."""
        with self._lock:
            self._stop()

    def _ask(self, path: Path, size: tuple[int, int]) -> GreyImage:
        process = self._running()
        assert process.stdin is not None  # noqa: S101 - opened with pipes
        name = os.fsencode(path.absolute())
        process.stdin.write(REQUEST.pack(len(name)) + name)
        process.stdin.flush()
        deadline_s = time.monotonic() + self._patience_s
        there, rows, columns = REPLY.unpack(self._read(process, REPLY.size, deadline_s))
        if not there or (rows, columns) != size:
            raise DecoderFailed("no pixels of this size")
        return np.frombuffer(self._read(process, rows * columns, deadline_s), np.uint8).reshape(size)

    def _read(self, process: subprocess.Popen[bytes], count: int, deadline_s: float) -> bytearray:
        assert process.stdout is not None  # noqa: S101 - opened with pipes
        data = bytearray()
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while len(data) < count:
                if not waiting.select(max(0.0, deadline_s - time.monotonic())):
                    raise DecoderFailed("no answer in time")
                more = os.read(process.stdout.fileno(), count - len(data))
                if not more:
                    raise DecoderFailed("it ended")
                data += more
        return data

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # codecs chat there
                start_new_session=True,  # Ctrl-C is for us; it ends when we do
            )
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        process.wait()


DECODER = Decoder()
"""The one of this process; started when the first compressed image is read."""

atexit.register(DECODER.close)

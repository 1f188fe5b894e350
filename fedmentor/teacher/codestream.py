"""What a compressed DICOM frame will expand to, read from its own first bytes before any decoder sees it.

A decoder takes memory for the size in the codestream, not for the one in the DICOM header around it. Both must agree, and the
header's size was checked against the limits before. RLE has no size of its own: its runs are counted.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise

import pydicom
from pydicom.encaps import generate_frames, get_frame
from pydicom.uid import UID

RLE_LOSSLESS = "1.2.840.10008.1.2.5"
JPEG_FAMILY = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))
"""JPEG baseline, extended, lossless (two), and JPEG-LS (two)."""

JPEG_2000 = frozenset({"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})

MAX_TILES = 65535
"""Of a JPEG 2000 codestream: tile numbers have 16 bits (ISO/IEC 15444-1, A.4.2)."""

PADDING_BYTES = 128
"""An RLE segment may end in a run that pads it to even length; more than one run is no padding."""

_RLE_HEADER_BYTES = 64
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length: TEM, RSTn, SOI
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})  # DHT, JPG and DAC stand among the numbers of SOFn
_SOF_JPEG_LS = 0xF7


@dataclass(frozen=True)
class FrameSize:
    """Size of one frame: rows, columns, samples a pixel, bytes a sample."""

    rows: int
    columns: int
    samples: int
    sample_bytes: int


def needs_codec(syntax: str) -> bool:
    """Whether pixels in this transfer syntax are decoded by a library in C++; the others are copied, or unpacked in Python."""
    return syntax in JPEG_FAMILY | JPEG_2000


def check_expansion(dataset: pydicom.Dataset, frame: int | None = None) -> None:
    """Refuse compressed frames that would take memory for another size than the header's, which was checked before.

    Args:
        dataset: a whole file.
        frame: the one that is to be decoded, from 0; None for all.

    Raises:
        ValueError: one would, or nobody can tell.
    """
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if not syntax.is_encapsulated:
        return
    size = FrameSize(
        int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1), (int(dataset.BitsAllocated) + 7) // 8
    )
    offsets = None
    if "ExtendedOffsetTable" in dataset:  # where decoders look first, so that the same bytes are checked that are decoded
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    count = int(dataset.get("NumberOfFrames") or 1)
    if frame is not None:
        check_frame(syntax, get_frame(dataset.PixelData, frame, extended_offsets=offsets, number_of_frames=count), size)
        return
    for each in generate_frames(dataset.PixelData, extended_offsets=offsets, number_of_frames=count):
        check_frame(syntax, each, size)


def check_frame(syntax: str, frame: bytes, expected: FrameSize) -> None:
    """Refuse a compressed frame that would expand to something else than its DICOM header says.

    Args:
        syntax: transfer syntax UID.
        frame: the encapsulated frame.
        expected: from the DICOM header.

    Raises:
        ValueError: not a frame of this syntax, or of another size.
    """
    try:
        if syntax == RLE_LOSSLESS:
            _check_rle(frame, expected)
        elif syntax in JPEG_FAMILY:
            _check_same(_jpeg_size(frame), expected)
        elif syntax in JPEG_2000:
            _check_same(_jpeg_2000_size(frame), expected)
        else:
            raise ValueError("compressed in a way whose size cannot be checked")
    except struct.error as error:
        raise ValueError("cut short") from error


def _check_same(found: FrameSize, expected: FrameSize) -> None:
    if (found.rows, found.columns, found.samples) != (expected.rows, expected.columns, expected.samples):
        raise ValueError("the codestream has another size than the header")
    if found.sample_bytes > expected.sample_bytes:
        raise ValueError("the codestream has deeper samples than the header")


def _jpeg_size(frame: bytes) -> FrameSize:
    """From the first SOFn segment (ITU-T T.81, B.2.2; ITU-T T.87, C.2.2)."""
    if frame[:2] != b"\xff\xd8":
        raise ValueError("no start of image")
    at = 2
    while at + 4 <= len(frame):
        if frame[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _STANDALONE:
            at += 2
            continue
        if marker == _SOF_JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES):
            precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, at + 4)
            return FrameSize(rows, columns, samples, (precision + 7) // 8)
        at += 2 + max(2, int.from_bytes(frame[at + 2 : at + 4], "big"))
    raise ValueError("no frame header")


def _jpeg_2000_size(frame: bytes) -> FrameSize:
    """From the SIZ segment, which follows SOC at once (ISO/IEC 15444-1, A.5.1)."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("no JPEG 2000 codestream")
    x, y, x0, y0, tile_x, tile_y, tile_x0, tile_y0, samples = struct.unpack_from(">8IH", frame, 8)
    if not (tile_x and tile_y and x > x0 and y > y0 and x0 >= tile_x0 and y0 >= tile_y0):
        raise ValueError("an impossible grid")
    if -(-(x - tile_x0) // tile_x) * -(-(y - tile_y0) // tile_y) > MAX_TILES:
        raise ValueError("too many tiles")
    depth, step_x, step_y = struct.unpack_from(">3B", frame, 42)
    if (step_x, step_y) != (1, 1):
        raise ValueError("subsampled")
    return FrameSize(y - y0, x - x0, samples, ((depth & 0x7F) + 8) // 8)


def _check_rle(frame: bytes, expected: FrameSize) -> None:
    """Count what each segment of PackBits runs gives (DICOM PS3.5, annex G)."""
    if len(frame) < _RLE_HEADER_BYTES:
        raise ValueError("no RLE header")
    segments, *offsets = struct.unpack_from("<16L", frame)
    if segments != expected.samples * expected.sample_bytes:
        raise ValueError("another number of segments than the header asks for")
    pixels = expected.rows * expected.columns
    places = [*offsets[:segments], len(frame)]
    for start, end in pairwise(places):
        if unpacked_bytes(frame[start:end], pixels + PADDING_BYTES) > pixels + PADDING_BYTES:
            raise ValueError("a segment that expands past the end of the image")


def unpacked_bytes(packed: bytes, limit: int) -> int:
    """How many bytes PackBits runs expand to; counting ends soon after ``limit``."""
    at, total, end = 0, 0, len(packed)
    while at < end and total <= limit:
        head = packed[at]
        if head < 128:  # head + 1 bytes follow as they are
            total += head + 1
            at += head + 2
        elif head > 128:  # one byte, 257 - head times
            total += 257 - head
            at += 2
        else:
            at += 1
    return total

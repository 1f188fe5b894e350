"""Picture files: limits on the header, before pixels; one clear sentence for each refusal."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from fedmentor.errors import LimitExceeded, UnreadableImage
from fedmentor.teacher.contract import MAX_PIXELS
from fedmentor.teacher.images import MAX_IMAGE_BYTES, MIN_SIDE, View, check_pixels, png_bytes, read_image


def encoded(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def png_header(width, height):
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@given(
    st.one_of(
        arrays.arrays(np.uint8, st.tuples(st.integers(8, 20), st.integers(8, 20))),
        arrays.arrays(np.uint8, st.tuples(st.integers(8, 20), st.integers(8, 20), st.just(3))),
    )
)
def test_png_is_without_loss(pixels):
    assert (read_image(png_bytes(pixels)) == pixels).all()


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("L", (9, 12)), ("1", (9, 12)), ("LA", (9, 12)), ("RGB", (9, 12, 3)), ("RGBA", (9, 12, 3)), ("P", (9, 12, 3))],
)
def test_eight_bit_modes_become_grey_or_rgb(mode, shape):
    pixels = read_image(encoded(Image.new(mode, (12, 9)), format="PNG"))
    assert pixels.shape == shape
    assert pixels.dtype == np.uint8


def test_jpeg_is_read():
    assert read_image(encoded(Image.new("L", (20, 10), 77), format="JPEG")).shape == (10, 20)


def test_sixteen_bits_go_from_the_lowest_to_the_highest_value_or_through_a_window():
    deep = np.linspace(1000, 3000, 200).astype(np.uint16).reshape(10, 20)
    data = encoded(Image.fromarray(deep), format="PNG")
    assert (read_image(data) == np.rint((deep - 1000.0) * 255 / 2000)).all()
    windowed = read_image(data, View(window=(1500, 2500)))
    assert windowed.dtype == np.uint8
    assert (windowed == np.rint(np.clip((deep - 1500.0) / 1000, 0, 1) * 255)).all()


def test_eight_bits_are_kept_unless_a_window_is_named():
    pixels = np.full((9, 9), 100, np.uint8)
    pixels[0] = 50
    assert (read_image(png_bytes(pixels)) == pixels).all()
    assert set(np.unique(read_image(png_bytes(pixels), View(window=(0, 250))))) == {51, 102}


@pytest.mark.parametrize("size", [(20_000, 20_000), (200_000, 200_000), (MAX_PIXELS + 8, 8)])
def test_bombs_are_refused_by_their_header(size):
    with pytest.raises(UnreadableImage, match="pixels"):
        read_image(png_header(*size))


def test_one_pixel_is_no_picture():
    with pytest.raises(UnreadableImage, match="too small"):
        read_image(encoded(Image.new("L", (1, 1)), format="PNG"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        png_header(100, 100),
        png_bytes(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))[:-900],
        b"\x89PNG\r\n\x1a\n",
        encoded(Image.new("L", (20, 10)), format="TIFF"),
        encoded(Image.new("L", (20, 10)), format="GIF"),
    ],
    ids=["empty", "text", "too little data", "cut", "signature only", "TIFF", "GIF"],
)
def test_what_is_no_whole_png_or_jpeg_is_refused(data):
    with pytest.raises(UnreadableImage):
        read_image(data)


def test_bytes_are_counted_before_they_are_looked_at():
    with pytest.raises(LimitExceeded):
        read_image(bytes(MAX_IMAGE_BYTES + 1))


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((16, 16), np.float32),
        np.full((16, 16), np.nan),
        np.zeros((16, 16), np.uint16),
        np.zeros(16, np.uint8),
        np.zeros((16, 16, 4), np.uint8),
        np.zeros((MIN_SIDE - 1, 100), np.uint8),
        np.broadcast_to(np.uint8(0), (20_000, 20_000)),
    ],
    ids=["float", "NaN", "16 bit", "line", "four channels", "too small", "too large"],
)
def test_pixels_no_teacher_can_look_at(pixels):
    with pytest.raises(UnreadableImage):
        check_pixels(pixels)

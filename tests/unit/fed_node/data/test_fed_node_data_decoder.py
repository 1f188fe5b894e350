"""The process that decodes: whatever happens to it, the node goes on, and the next image is read."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dicom_samples import SIZE, compressed, radiograph

from fed_node.data.decoder import DECODER, REPLY, REQUEST, Decoder, DecoderFailed
from fed_node.data.decoder_main import serve
from fed_node.data.reading import read_image
from fedmentor.errors import UnreadableImage

NAME = "JPEGLosslessProcess14_1"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    radiograph(tmp_path / "plain")
    return compressed(tmp_path / "plain", tmp_path / "good", NAME)


def playing(code: str, patience_s: float = 20.0) -> Decoder:
    """A decoder whose process does something else."""
    return Decoder((sys.executable, "-I", "-c", f"import sys, time; {code}"), patience_s)


def test_a_byte_that_ends_the_codecs_process_does_not_end_ours(tmp_path, good):
    content = bytearray(good.read_bytes())
    place = content.index(b"\xff\xd8\xff", content.rindex(b"\xe0\x7f\x10\x00"))
    content[place + 15] = 0  # the marker of the Huffman table
    (tmp_path / "bad").write_bytes(content)
    code = f"from pathlib import Path; from fed_node.data.dicom import decoded; decoded(Path({str(tmp_path / 'bad')!r}))"
    alone = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL)
    assert alone.returncode < 0, "GDCM has learned to raise: this page of the design can go"
    with pytest.raises(UnreadableImage, match="DecoderFailed"):
        read_image(tmp_path / "bad")
    assert np.array_equal(read_image(good), read_image(tmp_path / "plain"))


def test_the_same_process_reads_one_image_after_another(good):
    read_image(good)
    assert DECODER._process is not None
    first = DECODER._process.pid
    read_image(good)
    assert DECODER._process.pid == first


def test_it_ends_when_it_is_closed_and_can_be_asked_again(good):
    decoder = Decoder()
    assert decoder.grey(good, SIZE).shape == SIZE
    process = decoder._process
    decoder.close()
    assert process.returncode is not None
    assert decoder.grey(good, SIZE).shape == SIZE
    decoder.close()
    decoder.close()


def test_it_ends_with_its_parent(good):
    code = (
        "import os; from pathlib import Path; from fed_node.data.decoder import DECODER; "
        f"DECODER.grey(Path({str(good)!r}), {SIZE}); print(DECODER._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stdout
    deadline = time.monotonic() + 20
    while Path(f"/proc/{int(said)}/cmdline").exists() and Path(f"/proc/{int(said)}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "code",
    [
        "sys.exit()",
        "sys.stdin.buffer.read(4); sys.exit(1)",
        "sys.stdin.buffer.read(4); sys.stdout.buffer.write(bytes(3))",
        f"sys.stdout.buffer.write({REPLY.pack(True, 60000, 60000)!r})",
        f"sys.stdout.buffer.write({REPLY.pack(True, *SIZE)!r} + bytes(99))",
        f"sys.stdout.buffer.write({REPLY.pack(False, 0, 0)!r})",
    ],
    ids=["not there", "dies", "torn", "another size", "too few pixels", "none"],
)
def test_a_process_that_fails_is_a_file_that_cannot_be_read(good, code):
    decoder = playing(code)
    with pytest.raises(DecoderFailed):
        decoder.grey(good, SIZE)
    assert decoder._process is None


def test_a_process_that_hangs_is_given_up(good):
    decoder = playing("time.sleep(600)", patience_s=0.3)
    with pytest.raises(DecoderFailed):
        decoder.grey(good, SIZE)
    assert decoder._process is None


def test_a_program_that_is_not_there(good):
    with pytest.raises(DecoderFailed):
        Decoder(("/nowhere/python",)).grey(good, SIZE)


def test_it_can_write_no_file(tmp_path):
    code = (
        "from pathlib import Path; from fed_node.data.decoder_main import confine; confine(); "
        f"Path({str(tmp_path / 'x')!r}).write_text('x')"
    )
    said = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert said.returncode != 0
    assert "File too large" in said.stderr
    assert (tmp_path / "x").read_bytes() == b""


def test_requests_are_answered_in_order_and_bad_ones_too(tmp_path, good):
    names = [str(path).encode() for path in (good, tmp_path / "none", good)]
    replies = io.BytesIO()
    serve(io.BytesIO(b"".join(REQUEST.pack(len(name)) + name for name in names)), replies)
    pixels = read_image(good).tobytes()
    assert replies.getvalue() == REPLY.pack(True, *SIZE) + pixels + REPLY.pack(False, 0, 0) + REPLY.pack(True, *SIZE) + pixels

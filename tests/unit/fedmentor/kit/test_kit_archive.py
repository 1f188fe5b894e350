"""Archives: the same bytes each time, and nothing but plain files out of any that somebody made."""

from __future__ import annotations

import io
import tarfile
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmentor.errors import ConfigError
from fedmentor.kit import archive
from fedmentor.kit.archive import GZIP, MAX_FILES, MAX_KIT_BYTES, MAX_UNPACKED_BYTES, pack, unpack

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)


def gzipped(data: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, GZIP)
    return deflate.compress(data) + deflate.flush()


def tar_of(*members: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    """A gzipped tar of these members, each with as many zeros as it declares."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as made:
        for member in members:
            made.addfile(member, io.BytesIO(bytes(member.size)))
    return gzipped(packed.getvalue())


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for field, value in values.items():
        setattr(made, field, value)
    return made


@given(st.dictionaries(NAMES, st.binary(max_size=2000), max_size=MAX_FILES))
def test_what_is_packed_is_unpacked_and_the_order_does_not_matter(files):
    data = pack("fedmentor-a", files, frozenset())
    assert unpack(data) == files
    assert pack("fedmentor-a", dict(reversed(files.items())), frozenset()) == data


def test_owner_time_and_modes_are_fixed():
    data = pack("fedmentor-a", {"README.txt": b"x", "invite": b"y"}, frozenset({"invite"}))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as found:
        members = found.getmembers()
    assert [(one.name, one.mode) for one in members] == [("fedmentor-a/README.txt", 0o644), ("fedmentor-a/invite", 0o600)]
    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in members} == {(0, 0, "", "", 0)}
    assert data[4:8] == bytes(4)


STRANGERS = {
    "a path upwards": [member("kit/../../etc/passwd", size=3)],
    "an absolute path": [member("/etc/passwd", size=3)],
    "a folder upwards": [member("../kit", size=3)],
    "a file without a folder": [member("README.txt", size=3)],
    "a folder in the folder": [member("kit/x/y", size=3)],
    "a hidden file": [member("kit/.profile", size=3)],
    "two folders": [member("kit/a", size=3), member("other/b", size=3)],
    "a symbolic link": [member("kit/a", tarfile.SYMTYPE, linkname="/etc/passwd")],
    "a hard link": [member("kit/a", size=3), member("kit/b", tarfile.LNKTYPE, linkname="kit/a")],
    "a device": [member("kit/a", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a pipe": [member("kit/a", tarfile.FIFOTYPE)],
    "a folder entry": [member("kit", tarfile.DIRTYPE)],
    "a name of 300 letters": [member("kit/" + "a" * 300, size=3)],
    "a name with a line end": [member("kit/a\nb", size=3)],
    "one file twice": [member("kit/a", size=3), member("kit/a", size=4)],
    "too many files": [member(f"kit/{number}", size=1) for number in range(MAX_FILES + 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_with_anything_but_plain_files_is_refused(name, form):
    with pytest.raises(ConfigError, match=r"entry that no kit has|too many files") as caught:
        unpack(tar_of(*STRANGERS[name], form=form))
    assert caught.value.cure


def test_a_sparse_file_that_declares_gigabytes_is_refused():
    sparse = member(
        "kit/a", size=512, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9999999999", "GNU.sparse.numblocks": "1"}
    )
    with pytest.raises(ConfigError):
        unpack(tar_of(sparse, form=tarfile.PAX_FORMAT))


def extended(kind: bytes, content: bytes) -> bytes:
    """An extended header, which says something of what comes behind it."""
    header = member("x", kind, size=len(content)).tobuf(tarfile.USTAR_FORMAT)
    return header + content + bytes(-len(content) % tarfile.BLOCKSIZE)


@pytest.mark.parametrize(
    "headers",
    [
        extended(tarfile.XHDTYPE, b"1" * (2 << 20)),  # a regular expression of tarfile's takes hours over it (CVE-2024-6232)
        extended(tarfile.XGLTYPE, b"8 a=bcd\n" * 200_000) + 300 * extended(tarfile.XHDTYPE, b"8 a=bcd\n"),  # nested copies
        extended(tarfile.XHDTYPE, b"14 path=kit/b\n"),
        extended(tarfile.GNUTYPE_LONGNAME, b"kit/b\0"),
    ],
    ids=["digits", "nested", "another path", "a long name"],
)
def test_extended_headers_are_refused_unread(headers):
    plain = member("kit/a", size=512).tobuf(tarfile.USTAR_FORMAT) + bytes(3 * tarfile.BLOCKSIZE)
    assert unpack(gzipped(plain)) == {"a": bytes(512)}
    with pytest.raises(ConfigError, match="entry that no kit has"):
        unpack(gzipped(headers + plain))


def test_a_size_below_zero_is_refused():
    header = bytearray(member("kit/a").tobuf(tarfile.USTAR_FORMAT))
    header[124:136] = b"\xff" + (-512).to_bytes(11, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ConfigError, match="cut off"):
        unpack(gzipped(bytes(header) + bytes(1024)))


def test_behind_the_end_of_the_tar_there_is_nothing():
    plain = member("kit/a").tobuf(tarfile.USTAR_FORMAT) + bytes(1024)
    with pytest.raises(ConfigError, match="after its end"):
        unpack(gzipped(plain + b"more"))
    with pytest.raises(ConfigError, match="not a tar archive"):
        unpack(gzipped(plain[:-1024]))


def test_an_archive_that_unpacks_without_end_is_refused_before_it_does():
    with pytest.raises(ConfigError, match="unpacks to more than"):
        unpack(gzipped(bytes(MAX_UNPACKED_BYTES + 1)))
    with pytest.raises(ConfigError, match="is over"):
        unpack(bytes(MAX_KIT_BYTES + 1))


@pytest.mark.parametrize("data", [b"", b"no archive", gzipped(b""), gzipped(b"no tar at all" * 100), gzipped(bytes(1024))[:-9]])
def test_what_is_no_archive_is_refused(data):
    with pytest.raises(ConfigError):
        unpack(data)


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_changed_byte_is_never_something_else_than_a_refusal_or_files(place, change):
    good = pack("fedmentor-a", {"README.txt": b"some text", "kit.json": b"{}"}, frozenset())
    bad = bytearray(good)
    bad[place % len(bad)] ^= change
    with suppress(ConfigError):
        assert isinstance(unpack(bytes(bad)), dict)


@given(st.integers(0, 2047), st.binary(min_size=1, max_size=12))
def test_a_tar_with_any_header_is_never_something_else_either(place, change):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for name in ("kit/a", "kit/b"):
            made.addfile(member(name, size=9), io.BytesIO(bytes(9)))
    plain = bytearray(packed.getvalue())
    plain[place : place + len(change)] = change
    header = plain[:512]
    header[148:156] = b" " * 8
    plain[148:156] = b"%06o\0 " % sum(header)  # so that the change gets past the checksum
    with suppress(ConfigError):
        assert isinstance(unpack(gzipped(bytes(plain))), dict)


def test_after_its_end_there_is_nothing():
    good = pack("fedmentor-a", {"README.txt": b"x"}, frozenset())
    for bad in (good + b"x", good + good, good[:-1]):
        with pytest.raises(ConfigError, match="cut off"):
            unpack(bad)


def test_the_limit_is_above_what_a_kit_can_hold():
    assert archive.MAX_UNPACKED_BYTES > (4 + 1 + 2 + 1) << 20

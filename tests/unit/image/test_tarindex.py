"""The outer tar's index agrees with Python's tarfile, and refuses what would cost memory or lead astray."""

import io
import random
import tarfile

import pytest

from layerfs.errors import InvalidArchive
from layerfs.image.tarindex import Member, read_index
from tests.unit.image.make import tar


def index(data: bytes) -> list[Member]:
    return list(read_index(lambda at, count: data[at : at + count], len(data)))


def write(form: int, *infos: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["a", "d/" * 40 + "n" * 90, "é/ü", "x" * 99])
def test_it_agrees_with_tarfile(form: int, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = 777
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, name[:100] if form == tarfile.USTAR_FORMAT else name * 2
    data = write(form, info, link)
    first, second = index(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = archive.getmembers()
    assert (first.name, first.offset, first.size, first.is_file) == (name, theirs[0].offset_data, 777, True)
    assert (second.name, second.link, second.is_symlink) == ("link", theirs[1].linkname, True)


def test_kinds() -> None:
    found = {member.name: member for member in index(tar({"d/": None, "f": b"", "l": "f"}))}
    assert (found["f"].is_file, found["d/"].is_file, found["l"].link) == (True, False, "f")


def test_a_size_over_8_gib_is_understood() -> None:
    info = tarfile.TarInfo("big")
    info.size = 9 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    found = next(read_index(lambda at, count: header[at : at + count], 10 << 30))
    assert found.size == 9 << 30


def huge_pax() -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2 << 20
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(2 << 20)


BAD = {
    "nothing": b"",
    "zeros": bytes(1024),
    "text": b"hello " * 200,
    "half a header": tar({"a": b""})[:300],
    "data past the end": tar({"a": bytes(5000)})[:2000],
    "a header of 2 MiB": huge_pax(),
    "checksum": tar({"a": b"1"}).replace(b"a\0", b"b\0", 1),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_tar_is_refused(name: str) -> None:
    with pytest.raises(InvalidArchive, match="not a readable tar archive"):
        index(BAD[name])


def test_any_bytes_give_members_or_a_refusal() -> None:
    info = tarfile.TarInfo("p" * 150)
    info.pax_headers = {"size": "5", "comment": "x"}
    data, chance = write(tarfile.PAX_FORMAT, info) + tar({"b": b"1"}), random.Random(3)
    for _ in range(2000):
        bad = bytearray(data)
        at = chance.randrange(len(bad) - 512)
        bad[at : at + 3] = bytes(chance.randrange(256) for _ in range(3))
        start = at // 512 * 512  # a right checksum, so that the fields are looked at
        block = bytes(bad[start : start + 148]) + b" " * 8 + bytes(bad[start + 156 : start + 512])
        bad[start + 148 : start + 156] = b"%06o\0 " % sum(block)
        try:
            index(bytes(bad))
        except InvalidArchive as error:
            assert "\n" not in error.message

from __future__ import annotations

import pytest

from layerfs._pure.tar import Member, TarReader
from layerfs.errors import InvalidArchive
from tests.trees import entry, extension, layer, record


class Notes:
    """A sink that writes down what it is told."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.files: list[bytes] = []
        self.bytes = b""

    def raw(self, data: bytes) -> None:
        self.bytes += data

    def begin(self, member: Member) -> None:
        self.members.append(member)
        if member.type == b"0":
            self.files.append(b"")

    def data(self, data: bytes) -> None:
        self.files[-1] += data
        self.bytes += data

    def end(self) -> None:
        self.files[-1] += b"."


def read(tar: bytes, chunk: int = 1 << 20) -> Notes:
    notes = Notes()
    reader = TarReader(notes)
    for at in range(0, len(tar), chunk):
        reader.feed(tar[at : at + chunk])
    reader.close()
    return notes


TAR = layer(entry("a", data=b"hello" * 300), entry("b", b"5"), entry("c", pax={b"mtime": b"2"})) + b"rest" * 1000


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 513, 100_000])
def test_every_byte_is_told_once_whatever_the_chunks(chunk: int) -> None:
    notes = read(TAR, chunk)
    assert notes.bytes == TAR
    assert notes.files == [b"hello" * 300 + b".", b"."]
    assert [member.path for member in notes.members] == [b"a", b"b", b"c"]


def test_an_archive_may_have_no_end_marker() -> None:
    assert [member.path for member in read(entry("x")).members] == [b"x"]
    assert read(b"").members == []


@pytest.mark.parametrize("cut", [1112, 1113, 1535])
def test_the_last_padding_may_be_missing(cut: int) -> None:
    archive = entry("x", data=b"y" * 600)[:cut]
    notes = read(archive)
    assert notes.bytes == archive and notes.files == [b"y" * 600 + b"."]
    for kind in b"x", b"L":
        with pytest.raises(InvalidArchive):
            read(extension(kind, record(b"path", b"name"))[:600])


@pytest.mark.parametrize("cut", [1, 511, 513, 1023, 1024, 1100, 1111])
def test_truncation_is_seen(cut: int) -> None:
    with pytest.raises(InvalidArchive):
        read(entry("x", data=b"y" * 600)[:cut])


def test_extensions_apply_to_one_member() -> None:
    notes = read(layer(extension(b"L", b"long"), entry("a"), entry("b")))
    assert [member.path for member in notes.members] == [b"long", b"b"]


def test_a_volume_label_takes_its_extensions_with_it() -> None:
    notes = read(layer(extension(b"x", record(b"path", b"label")), entry("v", b"V", data=b"1"), entry("b")))
    assert [member.path for member in notes.members] == [b"b"]


def test_the_limit_of_sizes_holds_before_any_data() -> None:
    reader = TarReader(Notes(), max_size=1000)
    with pytest.raises(InvalidArchive):
        reader.feed(entry("x", size=1001))


def test_memory_does_not_follow_the_stream() -> None:
    reader = TarReader(Notes())
    reader.feed(entry("big", size=1 << 30))
    for _ in range(100):
        reader.feed(bytes(1 << 16))
        assert len(reader._buffer) < 1 << 20

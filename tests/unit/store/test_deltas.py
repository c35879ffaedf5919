"""Delta objects by themselves: both readers of layers name them alike, and any ranges give the right bytes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerfs import _native, _pure
from layerfs.errors import Corrupt, InvalidInput
from layerfs.layer.blocks import _joined
from layerfs.native import hash_fd, hash_pieces, sha256, xxh64
from layerfs.store.delta import Delta, DeltaHead, data_extents, open_object, write_delta
from layerfs.store.format import KIND_OBJECT, UNKNOWN, new_contents
from tests.golden.layers import sparse_1_0
from tests.trees import entry, layer

DATA = b"d" * 140_000
OTHER = b"o" * 150_000
modules = pytest.mark.parametrize("module", [_native, _pure], ids=["native", "pure"])


def read(
    module: ModuleType, folder: Path, tar: bytes, known: Callable[[bytes], bytes] | None = None
) -> list[tuple[object, ...]]:
    """Feeds a tar of which the first file is kept as a delta; (kind, flags, size) of what is new."""
    (folder / "objects").mkdir()
    (folder / "objects" / ".delta-7").write_bytes(b"a delta")
    pack, objects = os.open(folder / "pack", os.O_RDWR | os.O_CREAT), os.open(folder / "objects", os.O_RDONLY)
    reader = module.LayerReader(
        pack_fd=pack, pack_id=1, objects_fd=objects, lookup=known or (lambda identities: bytes(len(identities)))
    )
    reader.delta(7)
    for at in range(0, len(tar), 10_000):
        reader.feed(tar[at : at + 10_000])
    result = reader.finish(str(folder / "tree"))
    reader.close()
    os.close(pack)
    os.close(objects)
    return [(new.identity, new.kind, new.flags, new.size, new.xxh64) for new in new_contents(result.contents)]


@modules
def test_the_next_big_file_is_only_hashed(module: ModuleType, tmp_path: Path) -> None:
    tar = layer(
        entry("small", data=b"small"), entry("one", data=DATA), entry("two", data=OTHER), entry("three", data=DATA)
    )
    rows = read(module, tmp_path, tar)
    assert [row[1:4] for row in rows] == [(1, 0, 5), (KIND_OBJECT, 2, len(DATA)), (KIND_OBJECT, 0, len(OTHER))]
    assert rows[1][0] == sha256(DATA)
    found = {path.name: path.read_bytes() for path in (tmp_path / "objects").iterdir()}
    assert found == {sha256(DATA).hex(): b"a delta", sha256(OTHER).hex(): OTHER}


@modules
def test_a_known_content_needs_no_delta(module: ModuleType, tmp_path: Path) -> None:
    row = bytes([KIND_OBJECT, 2]) + bytes(14) + len(DATA).to_bytes(8, "little") + bytes(8)
    rows = read(module, tmp_path, layer(entry("one", data=DATA)), lambda ids: row if ids == sha256(DATA) else UNKNOWN)
    assert (rows, list((tmp_path / "objects").iterdir())) == ([], [])


@modules
def test_a_content_that_the_layer_has_already_needs_no_delta(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = read(module, tmp_path / "one", layer(entry("one", data=DATA)))
    again = read(module, tmp_path, layer(entry("one", data=DATA), entry("two", data=DATA)))
    assert first == again
    assert len(list((tmp_path / "objects").iterdir())) == 1


def _fed_by_ranges(module: ModuleType, folder: Path, tar: bytes, cuts: list[int], short: int = 0) -> tuple[object, ...]:
    """A file's bytes come from files: (diff ID, tar size, its row)."""
    (folder / "objects").mkdir(parents=True)
    (folder / "objects" / ".delta-7").write_bytes(b"a delta")
    start = tar.index(DATA[:512])
    (folder / "base").write_bytes(b"?" * 5000 + DATA[: len(DATA) - short])
    with contextlib.ExitStack() as stack:
        pack = stack.enter_context((folder / "pack").open("wb"))
        base = stack.enter_context((folder / "base").open("rb"))
        objects = os.open(folder / "objects", os.O_RDONLY)
        stack.callback(os.close, objects)
        lookup = lambda identities: bytes(len(identities))  # noqa: E731
        reader = module.LayerReader(pack_fd=pack.fileno(), pack_id=1, objects_fd=objects, lookup=lookup)
        stack.callback(reader.close)
        reader.delta(7)
        reader.feed(tar[:start])
        for at, end in itertools.pairwise([0, *cuts, len(DATA)]):
            middle = (at + end) // 2
            parts = [(base.fileno(), 5000 + at, middle - at), (base.fileno(), 5000 + middle, end - middle)]
            reader.feed_ranges(b"".join(struct.pack("<qQQ", *part) for part in parts))
        reader.feed(tar[start + len(DATA) :])
        result = reader.finish(str(folder / "tree"))
        return result.diff_id, result.tar_size, list(new_contents(result.contents))


@modules
def test_a_delta_s_bytes_may_come_from_files(module: ModuleType, tmp_path: Path) -> None:
    tar = layer(entry("one", data=DATA), entry("two", data=b"behind"))
    for number, cuts in enumerate(([], [1], [70_001, 139_999], [4096, 8192])):
        diff_id, size, rows = _fed_by_ranges(module, tmp_path / str(number), tar, cuts)
        assert (diff_id, size) == (sha256(tar), len(tar))
        assert [(row.identity, row.flags, row.xxh64) for row in rows[:1]] == [(sha256(DATA), 2, xxh64(DATA))]


@modules
def test_an_object_that_is_too_short_is_damage(module: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="ends early"):
        _fed_by_ranges(module, tmp_path / "short", layer(entry("one", data=DATA)), [], short=5000)


def test_ranges_may_be_zeros_and_hundreds_of_pages(tmp_path: Path) -> None:
    size = 9 << 20
    data = bytes(200_000) + os.urandom(size - 200_000)
    tar = layer(entry("one", data=data))
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / ".delta-1").write_bytes(b"")
    (tmp_path / "base").write_bytes(data)
    with (tmp_path / "pack").open("wb") as pack, (tmp_path / "base").open("rb") as base:
        objects = os.open(tmp_path / "objects", os.O_RDONLY)
        reader = _native.LayerReader(
            pack_fd=pack.fileno(), pack_id=1, objects_fd=objects, lookup=lambda ids: bytes(len(ids))
        )
        reader.delta(1)
        start = tar.index(data[190_000:210_000]) - 190_000
        reader.feed(tar[:start])
        reader.feed_ranges(struct.pack("<qQQqQQ", -1, 0, 200_000, base.fileno(), 200_000, size - 200_000))
        reader.feed(tar[start + size :])
        assert reader.finish(str(tmp_path / "tree")).diff_id == sha256(tar)
        reader.close()
        os.close(objects)


def test_ranges_are_for_files_that_are_only_hashed(tmp_path: Path) -> None:
    tar = layer(entry("one", data=DATA))
    (tmp_path / "objects").mkdir()
    with (tmp_path / "pack").open("wb") as pack:
        objects = os.open(tmp_path / "objects", os.O_RDONLY)
        for before in (0, tar.index(DATA[:512])):  # between members; a file that is to be stored
            reader = _native.LayerReader(
                pack_fd=pack.fileno(), pack_id=1, objects_fd=objects, lookup=lambda ids: bytes(len(ids))
            )
            reader.feed(tar[:before])
            with pytest.raises(InvalidInput):
                reader.feed_ranges(struct.pack("<qQQ", -1, 0, 512))
            with pytest.raises(ValueError, match="24 bytes"):
                reader.feed_ranges(b"short")
            reader.close()
        os.close(objects)


def test_both_hash_sparse_ones_alike(tmp_path: Path) -> None:
    (tmp_path / "pure").mkdir()
    (tmp_path / "native").mkdir()
    tar = layer(sparse_1_0("holes", 3 << 20, [(4096, b"x" * 5000), (2 << 20, b"y" * 300), ((3 << 20) - 7, b"z" * 7)]))
    pure, native = read(_pure, tmp_path / "pure", tar), read(_native, tmp_path / "native", tar)
    assert pure == native
    assert pure[0][2] == 3


sizes = st.integers(1, 60_000)
spans = st.lists(st.tuples(st.integers(0, 60_000), st.integers(1, 9000)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    size=sizes,
    base_size=sizes,
    valid=sizes,
    spans=spans,
    seeks=st.lists(st.tuples(st.integers(0, 70_000), sizes), max_size=8),
)
def test_any_ranges_give_the_right_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    base_size: int,
    valid: int,
    spans: list[tuple[int, int]],
    seeks: list[tuple[int, int]],
) -> None:
    objects = tmp_path_factory.mktemp("objects")
    base = bytes(number % 251 + 1 for number in range(base_size))
    valid = min(valid, size, base_size)
    ranges = _joined([(at, min(count, size - at)) for at, count in spans if at < size])
    wanted = bytearray(base[:valid].ljust(size, b"\0"))
    for number, (at, count) in enumerate(ranges):
        wanted[at : at + count] = bytes([200 + number]) * count
    for name in ("aa", "bb"):
        (objects / name).mkdir()
    (objects / "aa" / ("a" * 62)).write_bytes(base)
    head = DeltaHead(b"\xaa" * 32, size, valid, ranges)
    write_delta(objects / "bb" / ("b" * 62 + ".delta"), head, [bytes(wanted[at : at + count]) for at, count in ranges])
    delta = open_object(objects, b"\xbb" * 32)
    try:
        assert isinstance(delta, Delta)
        assert delta.pread(size + 5, 0) == wanted
        for at, count in seeks:
            assert delta.pread(count, at) == wanted[at : at + count]
        shown = bytearray(size)
        for at, count in delta.extents():
            shown[at : at + count] = delta.pread(count, at)
        assert shown == wanted
        (objects / "plain").write_bytes(wanted)
        with (objects / "plain").open("rb") as plain:
            for sparse in (False, True):
                assert delta.hash(sparse=sparse) == hash_fd(plain.fileno(), sparse)
    finally:
        delta.close()


def test_bytes_that_are_missing_are_refused(tmp_path: Path) -> None:
    head = DeltaHead(bytes(32), 10_000, 10_000, ((0, 100),))
    with pytest.raises(Corrupt):
        write_delta(tmp_path / "short", head, [b"x" * 99])


def test_pieces_hash_as_the_whole() -> None:
    assert hash_pieces(10, [(2, b"ab"), (5, b"c")], sparse=False)[0] == sha256(b"\0\0ab\0c\0\0\0\0")


def test_an_error_of_the_disk_is_no_hole(tmp_path, monkeypatch):
    """SEEK_DATA says ENXIO where nothing follows; anything else means that nobody knows."""
    file = tmp_path / "file"
    file.write_bytes(DATA)
    broken = [errno.ENXIO, errno.EIO]

    def seek(fd: int, at: int, how: int) -> int:
        raise OSError(broken[0], os.strerror(broken[0]))

    with file.open("rb") as opened:
        assert list(data_extents(opened.fileno(), len(DATA))) == [(0, len(DATA))]
        monkeypatch.setattr(os, "lseek", seek)
        assert list(data_extents(opened.fileno(), len(DATA))) == []
        broken.pop(0)
        with pytest.raises(OSError, match="Input/output error"):
            list(data_extents(opened.fileno(), len(DATA)))

"""LayerReader of the C core: what it asks the store, what it writes, and what it leaves behind when it fails."""

from __future__ import annotations

import errno
import gc
import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerfs.errors import Corrupt, InvalidArchive, InvalidInput, NoSpace
from layerfs.layer.tree import Tree
from tests.looking import eventually, open_files

native: Any = pytest.importorskip("layerfs._native")

PACK_MAX, MEDIUM_MAX = 131072, 16 << 20


def unknown(identities: bytes) -> bytes:
    return bytes(len(identities))


def tar(*files: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124], block[136:148], block[148:156] = b"0000644\0" + b"0000000\0" * 2, b"%011o\0" % 0, b" " * 8
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class Desk:
    """A reader with its pack and objects in a folder."""

    def __init__(self, folder: Path, lookup: Callable[[bytes], bytes] = unknown, **limits: int) -> None:
        self.objects, self.pack, self.tree_path = folder / "objects", folder / "pack", folder / "tree"
        self.objects.mkdir()
        self.asked: list[bytes] = []
        self._lookup = lookup
        pack_fd = os.open(self.pack, os.O_RDWR | os.O_CREAT)
        objects_fd = os.open(self.objects, os.O_RDONLY)
        self.reader = native.LayerReader(pack_fd=pack_fd, pack_id=7, objects_fd=objects_fd, lookup=self._ask, **limits)
        os.close(pack_fd)  # it has its own
        os.close(objects_fd)

    def _ask(self, identities: bytes) -> bytes:
        self.asked.append(identities)
        return self._lookup(identities)

    def read(self, data: bytes, step: int = 1 << 20) -> Any:
        for at in range(0, len(data), step):
            self.reader.feed(data[at : at + step])
        return self.reader.finish(str(self.tree_path))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.objects.iterdir())

    def tree(self) -> Tree:
        return Tree.open(str(self.tree_path))


def rows(result: Any) -> list[tuple[bytes, int, int, int, int, int]]:
    """identity, size, xxh64, block, kind, flags"""
    return [tuple(row) for row in struct.iter_unpack("<32sQQQBB6x", result.contents)]  # type: ignore[misc]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# --- where contents go ---


def test_sizes_decide_between_pack_and_object(desk: Desk) -> None:
    sizes = [1, 4096, 4097, PACK_MAX, PACK_MAX + 1, MEDIUM_MAX, MEDIUM_MAX + 1]
    contents = [noise(size, size) for size in sizes]
    result = desk.read(tar(*((f"f{size}", data) for size, data in zip(sizes, contents, strict=True))), 1 << 18)
    found = rows(result)
    assert [row[0] for row in found] == [hashlib.sha256(data).digest() for data in contents]
    assert [row[2] for row in found] == [native.xxh64(data) for data in contents]
    assert [row[3:5] for row in found] == [(0, 1), (1, 1), (2, 1), (4, 1), (0, 2), (0, 2), (0, 2)]
    assert result.pack_blocks == 36 and desk.pack.stat().st_size == 36 * 4096
    pack = desk.pack.read_bytes()
    assert pack[2 * 4096 : 2 * 4096 + 4097] == contents[2] and not pack[3 * 4096 + 1 : 4 * 4096].strip(b"\0")
    assert desk.names() == sorted(hashlib.sha256(data).hexdigest() for data in contents[4:])
    for data in contents[4:]:
        path = desk.objects / hashlib.sha256(data).hexdigest()
        assert path.read_bytes() == data and path.stat().st_mode & 0o7777 == 0o400


def test_the_umask_does_not_matter(desk: Desk) -> None:
    before = os.umask(0o777)
    try:
        desk.read(tar(("f", noise(PACK_MAX + 1)), ("g", noise(MEDIUM_MAX + 1))))
    finally:
        os.umask(before)
    assert {(desk.objects / name).stat().st_mode & 0o7777 for name in desk.names()} == {0o400}


def test_equal_contents_are_kept_once(desk: Desk) -> None:
    small, medium, big = noise(5000), noise(PACK_MAX + 1), noise(MEDIUM_MAX + 1)
    files = [
        (f"{name}{number}", data) for number in range(3) for name, data in zip("smb", (small, medium, big), strict=True)
    ]
    result = desk.read(tar(*files))
    assert len(rows(result)) == 3 and result.pack_blocks == 2 and len(desk.names()) == 2
    assert sum(len(batch) for batch in desk.asked) == 3 * 32
    assert result.content_size == 3 * (len(small) + len(medium) + len(big))


def test_known_contents_are_not_written_and_the_tree_points_to_them(tmp_path: Path) -> None:
    files = {name: noise(size, size) for name, size in [("s", 100), ("m", PACK_MAX + 1), ("b", MEDIUM_MAX + 1)]}
    known = {hashlib.sha256(data).digest(): len(data) for data in files.values()}

    def lookup(identities: bytes) -> bytes:
        size = known[identities]
        return struct.pack("<BBHIQQQ", 1 if size <= PACK_MAX else 2, 0, 0, 55, 99 if size <= PACK_MAX else 0, size, 0)

    desk = Desk(tmp_path, lambda asked: b"".join(lookup(asked[at : at + 32]) for at in range(0, len(asked), 32)))
    result = desk.read(tar(*files.items()))
    assert (result.contents, result.pack_blocks, desk.names(), desk.pack.stat().st_size) == (b"", 0, [], 0)
    tree = desk.tree()
    places = {path: tree.place(inode) for path, inode in tree.walk()}
    assert (places[b"s"].pack_id, places[b"s"].block) == (99, 55)
    assert {places[b"m"].kind, places[b"b"].kind} == {2}


def test_small_files_are_looked_up_together(desk: Desk) -> None:
    desk.read(tar(*((f"f{number}", b"%d" % number) for number in range(2500))))
    assert [len(batch) // 32 for batch in desk.asked] == [1024, 1024, 452]


def test_nothing_is_asked_for_a_layer_without_contents(desk: Desk) -> None:
    result = desk.read(tar(("empty", b"")))
    assert (desk.asked, result.contents, result.entries) == ([], b"", 1)


def test_contents_of_entries_that_vanish_are_kept_for_the_record(desk: Desk) -> None:
    result = desk.read(tar(("f", b"one"), ("f", b"two"), (".wh.x", b"three"), (".wh..wh.plnk/1", b"four")))
    assert [row[0] for row in rows(result)] == [hashlib.sha256(d).digest() for d in (b"one", b"two", b"three", b"four")]
    assert result.entries == 2  # f and the whiteout


# --- sparse files ---


def sparse_tar(size: int, *pieces: tuple[int, bytes]) -> bytes:
    text = b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % (at, len(data)) for at, data in pieces)
    stored = text.ljust(-(-len(text) // 512) * 512, b"\0") + b"".join(data for _, data in pieces)
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(size)}
    info = tarfile.TarInfo("f")
    info.size, info.pax_headers = len(stored), records
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(stored))
    return out.getvalue()


def test_declared_holes_stay_holes(desk: Desk) -> None:
    result = desk.read(sparse_tar(1 << 40, (5000, noise(6 << 20)), (1 << 39, b"end")), 4096)
    ((identity, size, _, _, kind, flags),) = rows(result)
    path = desk.objects / identity.hex()
    assert (size, kind, flags) == (1 << 40, 2, 1)
    assert path.stat().st_size == 1 << 40 and path.stat().st_blocks * 512 < 7 << 20
    with path.open("rb") as file:
        assert native.hash_fd(file.fileno(), True)[0] == identity
        assert os.pread(file.fileno(), 6 << 20, 5000) == noise(6 << 20)


def test_small_holes_are_zeros_like_others(desk: Desk) -> None:
    result = desk.read(sparse_tar(900_000, (1000, b"a" * 500), (899_000, b"b")))
    whole = bytes(1000) + b"a" * 500 + bytes(897_500) + b"b" + bytes(999)
    assert rows(result)[0][0] == hashlib.sha256(whole).digest()
    assert (desk.objects / desk.names()[0]).read_bytes() == whole


def test_a_megabyte_of_holes_makes_a_content_sparse(tmp_path: Path) -> None:
    for number, (size, flag) in enumerate([((1 << 20) + 99, 0), ((1 << 20) + 100, 1)]):
        (tmp_path / str(number)).mkdir()
        result = Desk(tmp_path / str(number)).read(sparse_tar(size, (0, b"x" * 100)))
        assert rows(result)[0][5] == flag


# --- any way of feeding ---


def test_chunks_do_not_matter(tmp_path: Path) -> None:
    data = tar(*((f"d{size}/f", noise(size, size)) for size in (0, 1, 511, 512, 513, 5000, PACK_MAX + 7)))
    found = []
    for step in (1, 63, 512, 4096, len(data)):
        folder = tmp_path / str(step)
        folder.mkdir()
        desk = Desk(folder)
        result = desk.read(data, step)
        assert result.diff_id == hashlib.sha256(data).digest()
        found.append((result, desk.reader.take_split(), desk.tree_path.read_bytes(), desk.pack.read_bytes()))
    assert all(other == found[0] for other in found)


def test_without_the_cpus_instructions_all_is_the_same(tmp_path: Path) -> None:
    data, found = tar(("a", noise(100_000)), ("b", noise(300_000))), []
    for portable in (False, True):
        (tmp_path / str(portable)).mkdir()
        desk = Desk(tmp_path / str(portable))
        native._portable_hashes(portable)
        try:
            found.append((desk.read(data, 1000), desk.tree_path.read_bytes()))
        finally:
            native._portable_hashes(False)
    assert found[0] == found[1]


def test_long_raw_stretches_are_cut_at_a_mebibyte(desk: Desk) -> None:
    desk.read(tar(("f", b"x")) + bytes(3 << 20))
    split = desk.reader.take_split()
    ends = split.index(b"\2", 8 + 5 + 512) + 49
    assert split[ends : ends + 5] == struct.pack("<BI", 1, 1 << 20)
    assert desk.reader.take_split() == b""


@pytest.mark.parametrize("size", [1, 511, 513, 700, 1023])
def test_an_archive_that_ends_too_early_is_refused(size: int, desk: Desk) -> None:
    with pytest.raises(InvalidArchive, match="truncated"):
        desk.read(tar(("f", noise(600)))[:size])


@pytest.mark.parametrize("size", [1112, 1113, 1535])
def test_an_archive_may_lack_its_last_padding(size: int, desk: Desk) -> None:
    """As `umoci insert` makes them, whose writer is never closed."""
    desk.read(tar(("f", noise(600)))[:size])


def test_an_archive_may_end_after_a_member(tmp_path: Path) -> None:
    for number, size in enumerate((0, 1536, 2048)):
        (tmp_path / str(number)).mkdir()
        Desk(tmp_path / str(number)).read(tar(("f", noise(600)))[:size])


# --- refusals ---


def test_errors_name_the_member_and_the_place(desk: Desk) -> None:
    with pytest.raises(InvalidArchive, match=r"header at byte 1024: a\\x0ab/\.wh\.: whiteout of nothing"):
        desk.read(tar(("fine", b"x"), ("a\nb/.wh.", b"")))


def test_a_limit_of_the_tree_names_the_member(desk: Desk) -> None:
    with pytest.raises(InvalidArchive, match="h: "):
        desk.read(header(b"d/", 0, b"5") + header(b"h", 0, b"1"))  # a hard link to nothing at all


def test_the_file_size_limit_holds_before_anything_is_written(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_file_size=1000)
    with pytest.raises(InvalidArchive, match="f: file of 17179869184 bytes, over the limit of 1000"):
        desk.reader.feed(header(b"f", 1 << 34))
    assert desk.names() == []


def test_the_limit_of_entries_counts_members_and_names(tmp_path: Path) -> None:
    for name, files in {"members": ["f"] * 4, "names": ["a/b/c/d"]}.items():
        (tmp_path / name).mkdir()
        with pytest.raises(InvalidArchive, match=f"more than 3 {name}"):
            Desk(tmp_path / name, max_entries=3).read(tar(*((file, b"") for file in files)))


def test_after_an_error_it_stays_refused(desk: Desk) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArchive, match="header at byte 0"):
            desk.reader.feed(b"x" * 512)
    with pytest.raises(InvalidArchive):
        desk.reader.finish(str(desk.tree_path))
    assert not desk.tree_path.exists()


def test_a_finished_layer_takes_nothing_more(desk: Desk) -> None:
    desk.read(tar(("f", b"x")))
    with pytest.raises(InvalidInput, match="finished"):
        desk.reader.feed(b"")
    with pytest.raises(InvalidInput, match="finished"):
        desk.reader.finish(str(desk.tree_path))


def test_a_tree_file_is_never_replaced(desk: Desk) -> None:
    desk.tree_path.write_text("mine")
    with pytest.raises(FileExistsError):
        desk.read(tar(("f", b"x")))
    assert desk.tree_path.read_text() == "mine"


def test_metadata_that_memory_would_have_to_hold_is_bounded(desk: Desk) -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {f"SCHILY.xattr.user.{number}": "x" * 60_000 for number in range(4)}
    member = info.tobuf(tarfile.PAX_FORMAT)
    with pytest.raises(InvalidArchive, match="too many extended attributes"):
        for _ in range(1200):
            desk.reader.feed(member)


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError):
        native.LayerReader(pack_id=1, lookup=unknown)
    with pytest.raises(TypeError):
        native.LayerReader(1, 2, 3)
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.LayerReader(pack_fd=999, pack_id=1, objects_fd=999, lookup=unknown)
    reader = native.LayerReader.__new__(native.LayerReader)
    with pytest.raises(RuntimeError, match="closed"):
        reader.feed(b"")


# --- the lookup ---


def test_an_exception_of_the_lookup_comes_through(tmp_path: Path) -> None:
    def lookup(identities: bytes) -> bytes:
        raise KeyError("lost")

    desk = Desk(tmp_path, lookup)
    with pytest.raises(KeyError, match="lost"):
        desk.read(tar(("f", noise(100)), ("big", noise(MEDIUM_MAX + 1)), ("g", b"x")))
    del desk.reader
    assert desk.names() == []


def test_an_answer_of_the_wrong_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lookup of 1 identities answered 3 bytes"):
        Desk(tmp_path, lambda identities: b"abc").read(tar(("f", b"x")))


def test_an_index_that_disagrees_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="index is damaged"):
        Desk(tmp_path, lambda identities: struct.pack("<BBHIQQQ", 1, 0, 0, 0, 1, 999, 0)).read(tar(("f", b"x")))


def test_the_lookup_cannot_use_the_reader(tmp_path: Path) -> None:
    desk = Desk(tmp_path, lambda identities: desk.reader.feed(b"") or b"")
    with pytest.raises(RuntimeError, match="in use"):
        desk.read(tar(("f", b"x")))


def test_a_reader_that_its_lookup_refers_to_is_collected(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.reader.feed(header(b"f", MEDIUM_MAX * 2) + bytes(1 << 20))
    assert len(desk.names()) == 1
    objects = desk.objects
    del desk
    gc.collect()
    assert list(objects.iterdir()) == []


# --- the host ---


@pytest.fixture
def little_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    native.mount("none", str(place), "tmpfs", 0, "size=3m")
    yield place
    gc.collect()
    native.umount(str(place), 0)


@pytest.mark.root
@pytest.mark.parametrize("size", [PACK_MAX, MEDIUM_MAX // 4, MEDIUM_MAX * 2], ids=["pack", "object", "big object"])
def test_a_full_disk_is_one_clear_error(size: int, little_disk: Path) -> None:
    desk = Desk(little_disk)
    with pytest.raises(NoSpace, match=r"cannot write an? (pack|object): No space left on device$") as caught:
        desk.read(tar(*((f"f{number}", noise(size, number)) for number in range(1 + (8 << 20) // size))))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename is None
    del desk.reader
    assert not [name for name in desk.names() if name.startswith(".")]


@pytest.mark.root
def test_a_tree_that_does_not_fit_is_the_same_error(little_disk: Path) -> None:
    desk = Desk(little_disk)
    (little_disk / "filler").write_bytes(bytes((3 << 20) - 8192))
    with pytest.raises(NoSpace):
        desk.read(tar(*((f"f{number:0200}", b"") for number in range(200))))
    assert not desk.tree_path.exists()


def test_a_content_too_big_for_the_file_system_is_an_error(desk: Desk) -> None:
    try:
        os.truncate(desk.pack, 1 << 44)
    except OSError as error:
        assert error.errno == errno.EFBIG
    else:
        pytest.skip("this file system has room for files of 16 TiB")
    with pytest.raises(OSError, match="cannot write an object of 17592186044416 bytes: File too large"):
        desk.read(sparse_tar(1 << 44, (0, b"x")))
    del desk.reader
    assert desk.names() == []


def test_no_descriptors_or_threads_are_left(tmp_path: Path) -> None:
    def there() -> set[Any]:
        return open_files() | {path.name for path in Path("/proc/self/task").iterdir()}

    data = tar(("a", noise(100)), ("b", noise(PACK_MAX + 1)), ("c", noise(MEDIUM_MAX + 1)))
    gc.collect()
    before = there()
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        desk = Desk(tmp_path / str(number))
        desk.reader.feed(data[: len(data) * number // 6])  # given up in different places
        del desk
        gc.collect()
    assert eventually(lambda: there() <= before), there() - before  # who is joined is there for a moment still


def test_close_removes_what_is_half_written(desk: Desk) -> None:
    desk.reader.feed(header(b"f", MEDIUM_MAX * 2) + bytes(12 << 20))
    assert len(desk.names()) == 1
    desk.reader.close()
    desk.reader.close()
    assert desk.names() == []
    with pytest.raises(RuntimeError, match="closed"):
        desk.reader.feed(b"")


def test_two_layers_at_once_in_one_folder(tmp_path: Path) -> None:
    data = tar(*((f"f{number}", noise(200_000, number % 7)) for number in range(40)))
    results = {}

    def work(name: str) -> None:
        with (tmp_path / f"pack-{name}").open("wb") as pack:
            fd = os.open(tmp_path, os.O_RDONLY)
            reader = native.LayerReader(pack_fd=pack.fileno(), pack_id=1, objects_fd=fd, lookup=unknown)
            os.close(fd)
            for at in range(0, len(data), 50_000):
                reader.feed(data[at : at + 50_000])
            results[name] = reader.finish(str(tmp_path / f"tree-{name}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["a"] == results["b"] == results["c"]
    assert len([path for path in tmp_path.iterdir() if len(path.name) == 64]) == 7


def test_a_child_process_gets_out_with_a_reader_at_work(desk: Desk) -> None:
    desk.reader.feed(tar(*((f"f{number}", noise(1 << 20, number)) for number in range(20))))
    child = os.fork()
    if not child:
        del desk.reader  # its thread is the parent's
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    desk.reader.finish(str(desk.tree_path))
    assert len(desk.names()) == 20


MEMORY = """
import os, re, struct, sys
from layerfs import _native
pack, objects = os.open(sys.argv[1] + "/pack", os.O_RDWR | os.O_CREAT), os.open(sys.argv[1], os.O_RDONLY)
size = 1 << 24
known = lambda asked: struct.pack("<BBHIQQQ", 2, 0, 0, 0, 0, size, 0) * (len(asked) // 32)
reader = _native.LayerReader(pack_fd=pack, pack_id=1, objects_fd=objects, lookup=known)
block = bytearray(1 << 20)
def member(number, size):
    head = bytearray(512)
    head[:8] = b"%08d" % number
    head[100:156] = b"0000644\\0" + b"0000000\\0" * 2 + b"%011o\\0" % size + b"%011o\\0" % 0 + b" " * 8
    head[156:157], head[257:265] = b"0", b"ustar\\x0000"
    head[148:156] = b"%06o\\0 " % sum(head)
    reader.feed(head)
    for at in range(0, size, len(block)):
        block[:8] = struct.pack("<Q", number * size + at)
        reader.feed(block)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
for number in range(4):
    member(number, size)
before = peak()
for number in range(4, 50):
    member(number, size)
    reader.take_split()
reader.finish(sys.argv[1] + "/tree")
print(before, peak())
"""


def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], check=True, capture_output=True, text=True)
    before, after = map(int, run.stdout.split())
    assert before < 150 and after - before < 30  # MiB

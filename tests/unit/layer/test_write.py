"""The canonical tar: read back by the oracle, by tarfile and by GNU tar, and never more than it needs."""

import io
import os
import stat
import subprocess
import tarfile

import pytest

from layerfs.errors import InUse, InvalidInput
from layerfs.layer import sparse
from layerfs.layer.entry import BytesContent, Entry, FileContent, whiteout
from layerfs.layer.write import TarWriter
from tests.oracle.applier import apply, listing

FILE = stat.S_IFREG | 0o644


def tar_of(*entries, **options):
    sink = io.BytesIO()
    writer = TarWriter(sink.write, **options)
    writer.add_all(entries)
    writer.finish()
    assert writer.size == len(sink.getvalue())
    return sink.getvalue()


def file(path, data=b"", **fields):
    return Entry(path, fields.pop("mode", FILE), size=len(data), content=BytesContent(data), **fields)


def directory(path, **fields):
    return Entry(path, fields.pop("mode", stat.S_IFDIR | 0o755), **fields)


def seen(*entries):
    return listing(apply([tar_of(*entries)]))


def members(tar):
    with tarfile.TarFile(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        return archive.getmembers()


def test_a_plain_file_is_one_ustar_header_and_its_blocks():
    tar = tar_of(file(b"f", b"hello", uid=3, gid=4, mtime_ns=5_000_000_000))
    assert len(tar) == 512 + 512 + 1024
    assert tar[257:265] == b"ustar\x0000" and tar[265:329] == bytes(64)
    (member,) = members(tar)
    assert (member.name, member.uid, member.gid, member.mtime, member.mode) == ("f", 3, 4, 5, 0o644)


def test_every_type_comes_back():
    entries = [
        directory(b"d", mode=stat.S_IFDIR | 0o1777),
        Entry(b"d/b", stat.S_IFBLK | 0o660, rdev=os.makedev(8, 300)),
        Entry(b"d/c", stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3)),
        file(b"d/f", b"x" * 513, mode=stat.S_IFREG | 0o6755),
        Entry(b"d/l", stat.S_IFLNK | 0o777, target=b"../somewhere"),
        Entry(b"d/p", stat.S_IFIFO | 0o600),
    ]
    got = seen(*entries)
    for entry in entries:
        assert got[b"/" + entry.path]["mode"] == entry.mode
    assert got[b"/d/b"]["rdev"] == (8, 300)
    assert got[b"/d/l"]["target"] == b"../somewhere"


@pytest.mark.parametrize(
    "path",
    [
        b"n" * 100,
        b"n" * 101,
        b"n" * 255,
        b"d" * 100 + b"/" + b"n" * 100,
        b"d" * 155 + b"/" + b"n" * 100,
        b"d" * 156 + b"/" + b"n" * 100,
        b"/".join([b"d" * 200] * 20),
        "größe/名前".encode(),
        b"\xff\xfe" * 60,
        b"new\nline\\and\x01",
        b"d" * 99 + b"/n",
    ],
)
def test_names_of_every_kind_come_back(path):
    assert b"/" + path in seen(file(path, b"x"))
    assert b"/" + path in seen(directory(path))
    got = seen(file(path, b"x"), file(b"z", b"x").linked(b"z", path), Entry(b"l", stat.S_IFLNK, target=path[-4000:]))
    assert got[b"/z"]["first"] == got[b"/" + path]["first"]
    assert got[b"/l"]["target"] == path[-4000:]


@pytest.mark.parametrize(
    ("mtime_ns", "text"),
    [
        (1_500_000_000_123_456_789, "1500000000.123456789"),
        (1_500_000_000_500_000_000, "1500000000.5"),
        (-1, "-0.000000001"),
        (-1_250_000_000, "-1.25"),
        (-2_000_000_000, "-2"),
        ((1 << 33) * 1_000_000_000, "8589934592"),
    ],
)
def test_times_keep_every_digit(mtime_ns, text):
    tar = tar_of(file(b"f", mtime_ns=mtime_ns))
    assert members(tar)[0].pax_headers["mtime"] == text
    assert listing(apply([tar]))[b"/f"]["mtime_ns"] == mtime_ns


def test_whole_seconds_need_no_pax_header():
    assert len(tar_of(file(b"f", mtime_ns=10**18))) == 512 + 1024


def test_times_can_be_limited():
    tar = tar_of(file(b"f", mtime_ns=99_500_000_000), file(b"g", mtime_ns=3 * 10**9), latest_ns=50 * 10**9)
    assert [member.mtime for member in members(tar)] == [50, 3]


def test_large_owners_are_kept():
    got = seen(file(b"f", uid=4_000_000_000, gid=2_097_152))
    assert got[b"/f"]["owner"] == (4_000_000_000, 2_097_152)


def test_xattrs_come_back_and_private_ones_stay_out():
    xattrs = {
        b"security.capability": bytes(range(20)),
        b"user.a=b": b"=\n\0",
        b"user.long": b"v" * 5000,
        b"user.e": b"",
    }
    private = {b"trusted.overlay.opaque": b"y", b"user.overlay.redirect": b"/etc"}
    assert seen(file(b"f", b"x", xattrs=tuple({**xattrs, **private}.items())))[b"/f"]["xattrs"] == xattrs


def test_whiteouts_and_opaque_directories():
    lower = tar_of(directory(b"a"), file(b"a/old", b"1"), directory(b"b"), file(b"b/old", b"2"))
    upper = tar_of(directory(b"a", opaque=True, mode=stat.S_IFDIR | 0o700, uid=7), file(b"a/new"), whiteout(b"b/old"))
    assert set(listing(apply([lower, upper]))) == {b"", b"/a", b"/a/new", b"/b"}
    names = {member.name: member for member in members(upper)}
    assert (names["a/.wh..wh..opq"].mode, names["a/.wh..wh..opq"].uid) == (0o700, 7)
    assert (names["b/.wh.old"].mode, names["b/.wh.old"].mtime, names["b/.wh.old"].size) == (0o600, 0, 0)


def test_an_opaque_root():
    upper = tar_of(directory(b"", opaque=True), file(b"n"))
    assert set(listing(apply([tar_of(file(b"old")), upper]))) == {b"", b"/n"}
    assert members(upper)[0].name == "."


@pytest.mark.parametrize("path", [b".wh.test", b"sub/.wh.test", b".wh.d/f", b".wh..wh..opq"])
def test_names_that_would_be_whiteouts_are_refused_by_name(path):
    with pytest.raises(InvalidInput, match=os.fsdecode(path)):
        tar_of(file(path))


@pytest.mark.parametrize("path", [b"n" * 256, b"d/" + b"n" * 300, b"/".join([b"d" * 200] * 21)])
def test_names_over_the_limits_are_refused(path):
    with pytest.raises(InvalidInput, match="255"):
        tar_of(file(path))


def test_sockets_are_refused():
    with pytest.raises(InvalidInput):
        tar_of(Entry(b"s", stat.S_IFSOCK | 0o600))


def sparse_file(tmp_path, size, pieces):
    with (tmp_path / "sparse").open("wb") as out:
        out.truncate(size)
        for offset, data in pieces.items():
            out.seek(offset)
            out.write(data)
    folder = os.open(tmp_path, os.O_RDONLY)
    status = (tmp_path / "sparse").stat()
    return folder, Entry(b"big", FILE, size=size, content=FileContent(folder, b"sparse", status, b"big"))


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (1 << 40, {(1 << 40) - 4096: b"end" * 1000}),
        (1 << 40, {}),
        (5_000_001, {0: b"a" * 10_000, 3_000_000: b"b"}),
        (5_000_001, {1_500_000: b"", 5_000_000: b"c"}),
    ],
)
def test_holes_cost_nothing_and_come_back(tmp_path, size, pieces):
    folder, entry = sparse_file(tmp_path, size, pieces)
    tar = tar_of(entry)
    os.close(folder)
    assert len(tar) < 100_000
    got = listing(apply([tar]))[b"/big"]
    assert got["size"] == size
    for offset, data in pieces.items():
        block = got["data"].get(offset - offset % 4096, bytes(4096))
        assert block[offset % 4096 :][: len(data)] == data[: 4096 - offset % 4096]


def test_a_sparse_member_does_not_depend_on_how_the_host_keeps_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    folder, entry = sparse_file(tmp_path / "a", 8 << 20, {5 << 20: b"x"})
    other, same = sparse_file(tmp_path / "b", 8 << 20, {1 << 20: bytes(1 << 20), 5 << 20: b"x" + bytes(300_000)})
    assert tar_of(entry) == tar_of(same)
    os.close(folder)
    os.close(other)


@pytest.mark.parametrize("most", [100, 20, 8, 2])
def test_many_pieces_are_joined_the_same_way_however_they_come(monkeypatch, most):
    monkeypatch.setattr(sparse, "MAX_EXTENTS", most)
    groups = [group * 60_000 - group * 60_000 % 4096 for group in range(7)]
    starts = [*(group + piece * 8192 for group in groups for piece in range(7)), 1 << 21]
    data = bytearray((1 << 21) + 4096)
    for start in starts:
        data[start] = 1
    content = BytesContent(bytes(data))
    got = sparse.canonical_extents(content, ((0, len(data)),))
    wanted = [(start, 4096) for start in starts]
    gap = 0
    while len(wanted) > most:
        gap = 4 * (gap or 4096)
        wanted = list(sparse.join_extents(wanted, gap))
    assert list(got) == wanted and len(got) <= most


def test_short_holes_stay_dense(tmp_path):
    folder, entry = sparse_file(tmp_path, 900_000, {800_000: b"x"})
    assert len(tar_of(entry)) > 900_000
    os.close(folder)


def test_gnu_tar_reads_it_all(tmp_path):
    folder, sparse = sparse_file(tmp_path, 3 << 20, {2 << 20: b"data"})
    tar = tar_of(
        sparse,
        directory(b"d"),
        file(b"d/" + b"\xff" * 150, b"latin"),
        file("d/ü".encode(), b"utf-8", mtime_ns=10**18 + 5, xattrs=((b"user.x", b"1"),)),
        file(b"h").linked(b"d/h", "d/ü".encode()),
    )
    os.close(folder)
    (tmp_path / "out").mkdir()
    done = subprocess.run(["tar", "xf", "-", "-C", tmp_path / "out"], input=tar, capture_output=True, check=True)
    assert b"Exiting" not in done.stderr
    assert (tmp_path / "out/d/h").read_bytes() == b"utf-8"
    assert (tmp_path / "out/d/h").stat().st_mtime_ns == 10**18 + 5
    assert os.fsencode(tmp_path) + b"/out/d/" + b"\xff" * 150 in [
        e.path for e in os.scandir(os.fsencode(tmp_path) + b"/out/d")
    ]
    assert (tmp_path / "out/big").stat().st_size == 3 << 20
    assert (tmp_path / "out/big").read_bytes()[2 << 20 :][:4] == b"data"


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path):
    target = tmp_path / "f"
    target.write_bytes(b"x" * 100)
    folder = os.open(tmp_path, os.O_RDONLY)
    entry = Entry(b"etc/f", FILE, size=100, content=FileContent(folder, b"f", target.stat(), b"etc/f"))
    target.write_bytes(b"y" * 101)
    with pytest.raises(InUse, match="/etc/f"):
        tar_of(entry)
    os.close(folder)

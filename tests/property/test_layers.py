"""Laws of layers: write(read(tar)) = tar; apply(commit(a, b), a) = b; equal trees give equal layers."""

import contextlib
import ctypes
import io
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerfs import mount
from layerfs.errors import LayerfsError
from layerfs.layer import (
    BytesContent,
    Entry,
    TarWriter,
    commit_layer,
    import_directory,
    merged_tree,
    open_layer,
    read_layer,
    store_entries,
)
from layerfs.snapshot.kernel import mount_kernel
from layerfs.store import StoreRoot
from tests.oracle.applier import apply, listing
from tests.oracle.host import host_listing

QUICK = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = StoreRoot.open(tmp_path_factory.mktemp("law") / "store")
    yield root
    root.close()


def tar_of(entries):
    sink = io.BytesIO()
    writer = TarWriter(sink.write)
    writer.add_all(entries)
    writer.finish()
    return sink.getvalue()


# --- write(read(tar)) = tar ---

names = st.lists(st.sampled_from(["a", "b", "ü", "\udcff", "n" * 120, "x y", "c" * 60]), min_size=1, max_size=4).map(
    "/".join
)
members = st.tuples(
    names,
    st.sampled_from(["0", "1", "2", "5", "6", "3"]),
    st.binary(max_size=1500) | st.just(b"x" * 200_000),
    st.sampled_from([0, 1, 1.5, 2**33, -5]),
    st.sampled_from([0, 1000, 3_000_000]),
    st.dictionaries(st.sampled_from(["user.a", "security.capability"]), st.text("ab\n=", max_size=5), max_size=2),
)


def foreign_tar(rows, form):
    """A tar as Python's tarfile writes it: GNU, PAX or ustar."""
    sink = io.BytesIO()
    with tarfile.TarFile(fileobj=sink, mode="w", format=form, errors="surrogateescape") as archive:
        for name, kind, data, mtime, owner, xattrs in rows:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.uid = kind.encode(), mtime, owner
            info.size = len(data) if kind == "0" else 0
            info.linkname = rows[0][0] if kind in "12" else ""
            info.devmajor = info.devminor = 7 if kind == "3" else 0
            if form == tarfile.PAX_FORMAT:
                info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in xattrs.items()}
            with contextlib.suppress(ValueError):  # what ustar cannot say
                archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@QUICK
@given(
    st.lists(members, max_size=8),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]),
    st.binary(max_size=600),
)
def test_a_layer_that_can_be_read_is_written_back_byte_for_byte(store, rows, form, garbage):
    tar = foreign_tar(rows, form) + garbage
    with store.leases.acquire("test") as lease, contextlib.suppress(LayerfsError):
        layer = read_layer(store, io.BytesIO(tar), lease=lease)
        assert open_layer(store, layer.diff_id).read() == tar


@QUICK
@given(st.lists(members, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_damaged_tar_is_an_error_or_comes_back_as_it_is(store, rows, chance):
    tar = bytearray(foreign_tar(rows, tarfile.PAX_FORMAT))
    for _ in range(chance.randrange(1, 4)):
        tar[chance.randrange(len(tar))] = chance.randrange(256)
    with store.leases.acquire("test") as lease, contextlib.suppress(LayerfsError):
        layer = read_layer(store, io.BytesIO(tar[: chance.randrange(len(tar)) or None]), lease=lease)
        assert open_layer(store, layer.diff_id).read() == tar[: layer.tar_size]


# --- trees written by us, judged by the oracle ---

plain_name = st.binary(min_size=1, max_size=140).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"-"))
usable = plain_name.filter(lambda name: name not in (b".", b"..") and not name.startswith(b".wh."))
xattr_name = st.binary(min_size=1, max_size=20).map(lambda raw: b"user." + raw.replace(b"\0", b"0"))
xattr_name = xattr_name.filter(lambda name: not name.startswith(b"user.overlay."))  # overlayfs's own: in no layer
xattrs = st.dictionaries(xattr_name, st.binary(min_size=1, max_size=40), max_size=2)
xattrs |= st.just({b"user.\xff": b""})
attributes = {
    "uid": st.integers(0, 2**32 - 1),
    "gid": st.sampled_from([0, 5, 2**21, 2**32 - 1]),
    "mtime_ns": st.integers(-(2**62), 2**62),
    "xattrs": xattrs.map(lambda found: tuple(sorted(found.items()))),
}
files = st.builds(
    lambda data, mode, **rest: Entry(b"", stat.S_IFREG | mode, size=len(data), content=BytesContent(data), **rest),
    st.binary(max_size=2000),
    st.integers(0, 0o7777),
    **attributes,
)
others = st.one_of(
    st.builds(lambda mode, **rest: Entry(b"", stat.S_IFDIR | mode, **rest), st.integers(0, 0o7777), **attributes),
    st.builds(lambda to, **rest: Entry(b"", stat.S_IFLNK | 0o777, target=to, **rest), plain_name, **attributes),
    st.builds(lambda mode, **rest: Entry(b"", stat.S_IFIFO | mode, **rest), st.integers(0, 0o777), **attributes),
    st.builds(
        lambda rdev, **rest: Entry(b"", stat.S_IFBLK | 0o600, rdev=rdev, **rest),
        st.integers(1, 2**20 - 1),
        **attributes,
    ),
)
flat_trees = st.dictionaries(usable, files | others, max_size=6)


def named(tree):
    from dataclasses import replace

    return [replace(entry, path=name) for name, entry in sorted(tree.items())]


@QUICK
@given(flat_trees)
def test_what_the_writer_writes_the_oracle_and_the_store_read(store, tree):
    entries = named(tree)
    tar = tar_of(entries)
    got = listing(apply([tar]))
    assert set(got) == {b"", *(b"/" + entry.path for entry in entries)}
    with store.leases.acquire("test") as lease:
        layer = store_entries(store, entries, lease=lease)
    assert open_layer(store, layer.diff_id).read() == tar
    shown = merged_tree(store, [layer.diff_id])
    for entry in entries:
        inode, judged = shown.resolve(entry.path), got[b"/" + entry.path]
        assert (inode.mode, inode.uid, inode.gid, inode.mtime_ns) == (entry.mode, entry.uid, entry.gid, entry.mtime_ns)
        assert (judged["mode"], judged["owner"]) == (entry.mode, (entry.uid, entry.gid))
        assert judged["mtime_ns"] == entry.mtime_ns
        assert shown.xattrs(inode) == judged["xattrs"] == dict(entry.xattrs)
        assert shown.content(inode) is None or store.contents.read(shown.content(inode)) == entry.content.data


# --- apply(commit(a, b), a) = b, with the kernel's overlayfs as the one that makes b ---

BASE = [b"a/b/one", b"a/two", b"c/d/three", b"four", b"c/five"]
spots = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"n"]), min_size=1, max_size=3).map(b"/".join)
spots |= st.sampled_from([*BASE, b"a", b"a/b", b"c", b"c/d", b"link"])
operations = st.lists(
    st.tuples(
        st.sampled_from(
            ["write", "append", "mkdir", "remove", "rename", "rename", "link", "chmod", "symlink", "xattr", "time"]
        ),
        spots,
        spots,
    ),
    max_size=14,
)


def operate(top, kind, one, two):
    """One operation; what the file system refuses is no operation."""
    path, other = os.path.join(top, one), os.path.join(top, two)  # noqa: PTH118
    with contextlib.suppress(OSError):
        if kind in ("write", "append"):
            with open(path, "wb" if kind == "write" else "ab") as out:  # noqa: PTH123
                out.write(two)
        elif kind == "mkdir":
            os.makedirs(path)  # noqa: PTH103
        elif kind == "remove":
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)  # noqa: PTH108, PTH112, PTH114
        elif kind == "rename":
            os.rename(path, other)  # noqa: PTH104
        elif kind == "link":
            os.link(path, other, follow_symlinks=False)
        elif kind == "chmod":
            os.chmod(path, 0o640 if len(two) % 2 else 0o755)  # noqa: PTH101
        elif kind == "symlink":
            os.symlink(two, path)  # noqa: PTH211
        elif kind == "xattr":
            os.setxattr(path, b"user.x", two, follow_symlinks=False)
        elif kind == "time":
            os.utime(path, ns=(5, 1_000_000_000 + len(two)), follow_symlinks=False)


class Ground:
    def __init__(self, base, store):
        self.store, self.lower = store, base / "lower"
        for path in BASE:
            place = self.lower / os.fsdecode(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path * 10)
        os.link(self.lower / "a/two", self.lower / "c/d/hard")
        os.link(self.lower / "a/two", self.lower / "link")
        with store.leases.acquire("test") as lease:
            layer = import_directory(store, self.lower, lease=lease)
        self.tree, self.tar = merged_tree(store, [layer.diff_id]), open_layer(store, layer.diff_id).read()


@pytest.fixture(scope="module")
def ground(tmp_path_factory, store):
    return Ground(tmp_path_factory.mktemp("ground"), store)


@pytest.mark.root
@QUICK
@given(operations)
def test_a_commit_applied_gives_what_the_mount_showed(ground, store, steps):
    base = Path(tempfile.mkdtemp(dir=ground.lower.parent))
    for name in ("work", "merged"):
        (base / name).mkdir()
    (base / "upper").mkdir()
    shutil.copystat(ground.lower, base / "upper")
    packs = [store.contents.pack_path(pack) for pack in ground.tree.packs]
    upper = mount.Upper(base / "upper", base / "work")
    where = {"tree": Path(ground.tree.path), "packs": packs, "objects": store.path / "objects"}
    mount_kernel(base / "merged", **where, upper=upper, source="law")
    try:
        for step in steps:
            operate(os.fsencode(base / "merged"), *step)
        wanted = host_listing(base / "merged")
        with store.leases.acquire("test") as lease:
            layer = commit_layer(store, base / "upper", ground.tree, lease=lease, index=base / "work/index")
    finally:
        libc.umount2(os.fsencode(base / "merged"), 2)
        shutil.rmtree(base)
    tars = [ground.tar, open_layer(store, layer.diff_id).read()] if layer else [ground.tar]
    got = listing(apply(tars))
    if layer is None:
        wanted[b""]["mtime_ns"] = got[b""]["mtime_ns"]
    assert got == wanted


# --- equal trees give equal layers ---


@pytest.mark.root
@QUICK
@given(st.lists(st.sampled_from([b"a", b"b", b"c/d", b"c/e", b"f"]), unique=True), st.randoms(use_true_random=False))
def test_layers_do_not_depend_on_the_order_of_inodes(ground, store, paths, chance):
    layers = []
    for _ in range(2):
        base = Path(tempfile.mkdtemp(dir=ground.lower.parent))
        umask, shuffled = chance.choice([0, 0o22, 0o77]), chance.sample(paths, len(paths))
        old = os.umask(umask)
        try:
            for path in shuffled:
                place = base / os.fsdecode(path)
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(path)
                place.chmod(0o644)
        finally:
            os.umask(old)
        for place in [*sorted(base.rglob("*"), reverse=True), base]:
            place.chmod(0o755)
            os.utime(place, ns=(0, 7))
        with store.leases.acquire("test") as lease:
            layers.append(import_directory(store, base, lease=lease))
        shutil.rmtree(base)
    assert layers[0] == layers[1]

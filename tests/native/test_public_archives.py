"""The public archives beside the project give what their table says, through both implementations."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from layerfs import _pure
from layerfs.errors import InvalidArchive
from layerfs.layer.tree import Inode, Tree
from tests.conftest import PROJECT
from tests.trees import Shelf, native, unpacked

DATA = PROJECT.parent / "shared" / "data"
ARCHIVES = sorted(path for part in ("tar", "layer") for path in (DATA / part).glob("*"))
MODULES = {"pure": _pure, "native": native()}
pytestmark = pytest.mark.skipif(not ARCHIVES, reason="no shared/ beside the project: the public archives are not here")

REFUSED = {
    "issue10968.tar", "issue11169.tar", "issue12435.tar", "neg-size.tar", "pax-bad-hdr-file.tar",
    "pax-bad-hdr-large.tar.bz2", "pax-bad-mtime-file.tar", "pax-nul-path.tar", "pax-nul-xattrs.tar",
    "pax-path-hdr.tar", "writer-big.tar",
    "writer-big-long.tar",
}  # fmt: skip
NAMES = {  # how many names the tree has, implicit parents included, the root not
    "asm_extranils.tar.gz": 1, "asm_fatlonglink.tar.gz": 22, "asm_iso-8859.tar.gz": 2, "asm_longlink.tar.gz": 18,
    "asm_notenoughnils.tar.gz": 1, "asm_t.tar.gz": 2, "broken.tar": 10, "content.tar.zst": 2, "gnu.tar": 2,
    "hardlink.tar": 2, "hdr-only.tar": 8, "moby_46af_layer.tar": 9, "moby_5111_empty_layer.tar": 0, "v7.tar": 2,
    "writer.tar": 3,
}  # fmt: skip
LONG = b"/".join([b"123456789"] * 30)


@pytest.fixture(params=MODULES)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    if MODULES[request.param] is None:
        pytest.skip("the compiled part is not built")
    return Shelf(tmp_path, MODULES[request.param])


def read(shelf: Shelf, name: str) -> Tree:
    return shelf.read(unpacked(next(path for path in ARCHIVES if path.name == name)))


def at(tree: Tree, path: bytes) -> Inode:
    found = tree.resolve(path)
    assert found is not None
    return found


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.name)
def test_is_read_or_refused(shelf: Shelf, path: Path) -> None:
    if path.name in REFUSED:
        with pytest.raises(InvalidArchive):
            shelf.read(unpacked(path))
        return
    tree = shelf.read(unpacked(path))
    assert tree.entries == NAMES.get(path.name, tree.entries)
    if "-big" not in path.name and "gnu-incremental" not in path.name:  # gigabytes of holes
        assert shelf.replay(0) == unpacked(path)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gnu-long-nul.tar", b"0123456789"),
        ("gnu-multi-hdrs.tar", b"GNU2/GNU2/long-path-name"),
        ("gnu-not-utf8.tar", b"hi\x80\x81\x82\x83bye"),
        ("asm_iso-8859.tar.gz", b"data/file-with-german-umlaut-ae-\xe4"),
        ("pax-multi-hdrs.tar", b"bar"),
        ("pax-global-records.tar", b"global1"),
        ("trailing-slash.tar", LONG),
        (
            "broken.tar",
            b"root/.cpanm/work/1395823785.24209/Plack-1.0030/blib/man3/Plack::Middleware::LighttpdScriptNameFix.3pm",
        ),
    ],
)
def test_names(shelf: Shelf, name: str, path: bytes) -> None:
    at(read(shelf, name), path)


def test_types_and_links(shelf: Shelf) -> None:
    assert stat.S_ISDIR(at(read(shelf, "trailing-slash.tar"), LONG).mode)
    assert stat.S_ISDIR(at(read(shelf, "gnu-incremental.tar"), b"test2").mode)
    tree = read(shelf, "pax-multi-hdrs.tar")
    assert tree.readlink(at(tree, b"bar")) == b"PAX4/PAX4/long-linkpath-name"
    assert at(read(shelf, "hardlink.tar"), b"hard.txt").nlink == 2
    assert at(read(shelf, "ustar-file-devs.tar"), b"file").rdev == 0
    tree = read(shelf, "hdr-only.tar")
    assert stat.S_ISBLK(at(tree, b"sda").mode)
    assert at(tree, b"hardlink").nlink == 2


def test_numbers(shelf: Shelf) -> None:
    assert at(read(shelf, "nil-uid.tar"), b"P1050238.JPG.log").uid == 0
    assert at(read(shelf, "pax-pos-size-file.tar"), b"foo").size == 999
    tree = read(shelf, "pax-global-records.tar")
    times = [at(tree, name).mtime_ns for name in (b"global1", b"file2", b"file3", b"file4")]
    assert times == [1_500_000_000 * 10**9] * 3 + [1_400_000_000 * 10**9]
    tree = read(shelf, "xattrs.tar")
    assert at(tree, b"small.txt").mtime_ns == 1386065770448252320


def test_xattrs(shelf: Shelf) -> None:
    tree = read(shelf, "xattrs.tar")
    selinux = b"unconfined_u:object_r:default_t:s0\0"
    wanted = {b"user.key": b"value", b"user.key2": b"value2", b"security.selinux": selinux}
    assert tree.xattrs(at(tree, b"small.txt")) == wanted
    tree = read(shelf, "moby_xattr_layer.tar")
    assert tree.xattrs(at(tree, b"file")) == {b"security.capability": b"\1\0\0\2\xc0" + bytes(15)}


def test_sparse_files(shelf: Shelf) -> None:
    tree = read(shelf, "sparse-formats.tar")
    kinds = (b"gnu", b"posix-0.0", b"posix-0.1", b"posix-1.0")
    assert len({tree.content(at(tree, b"sparse-" + kind)) for kind in kinds}) == 1
    for name in (
        "gnu-nil-sparse-data.tar",
        "pax-nil-sparse-data.tar",
        "gnu-nil-sparse-hole.tar",
        "pax-nil-sparse-hole.tar",
    ):
        tree = read(shelf, name)
        data = shelf.data(tree, at(tree, b"sparse.db"))
        assert len(data) == 1000
        assert data.strip(b"\0") == (b"" if "hole" in name else data)


@pytest.mark.parametrize("name", ["gnu-sparse-big.tar", "pax-sparse-big.tar"])
def test_sixty_gigabytes_of_holes_stay_holes(shelf: Shelf, name: str) -> None:
    tree = read(shelf, name)
    assert tree.content_size == 60_000_000_000
    (path,) = (shelf.folder / "objects").iterdir()
    assert path.stat().st_size == 60_000_000_000
    assert path.stat().st_blocks * 512 < 100_000
    with pytest.raises(InvalidArchive):
        shelf.read(unpacked(DATA / "tar" / name), max_file_size=1 << 30)


def test_like_tars_make_unlike_trees(shelf: Shelf) -> None:
    trees = [Path(read(shelf, f"moby_collision-{number}.tar").path).read_bytes() for number in range(4)]
    assert len(set(trees)) == 4

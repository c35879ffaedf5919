from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from layerfs.errors import Corrupt, StoreVersionError
from layerfs.layer.tree import Inode, Tree
from tests.golden.layers import BIG_DIRECTORY, LINKS, LOWER, TREES, WHITEOUTS, XATTRS
from tests.looking import open_files
from tests.trees import Shelf, entry, layer


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def at(tree: Tree, path: bytes) -> Inode:
    found = tree.resolve(path)
    assert found is not None
    return found


def test_says_what_it_is(shelf: Shelf) -> None:
    tree = shelf.read(LOWER)
    merged = shelf.merge()
    assert (tree.kind, tree.subject) == ("layer", shelf.results[0].diff_id)
    assert (merged.kind, merged.subject) == ("merged", bytes(range(32)))
    assert (merged.entries, merged.content_size, merged.packs) == (9, 3, (1,))


def test_closes(shelf: Shelf) -> None:
    with shelf.read(LOWER) as tree:
        assert tree.root.nlink == 4
    with pytest.raises(ValueError):
        tree.resolve(b"dir")


def test_keeps_no_descriptor_where_python_allows(shelf: Shelf) -> None:
    path = shelf.read(LOWER).path
    before = open_files()
    tree = Tree.open(path)
    assert len(open_files() - before) == (0 if sys.version_info >= (3, 13) else 1)
    tree.close()


def test_resolves_without_following_symlinks(shelf: Shelf) -> None:
    tree = shelf.read(LOWER)
    assert at(tree, b"").nid == tree.root.nid
    assert at(tree, b"/dir//./a/") == at(tree, b"dir/a")
    assert tree.resolve(b"abs/a") is None
    assert tree.resolve(b"dir/a/x") is None
    assert tree.resolve(b"dir/none") is None
    assert tree.readlink(at(tree, b"sym")) == b"dir/sub"


def test_looks_names_up_in_directories_of_any_size(shelf: Shelf) -> None:
    tree = shelf.read(BIG_DIRECTORY)
    directory = at(tree, b"d")
    names = [item.name for item in tree.listdir(directory)]
    assert len(names) == 202
    assert names == sorted(names)
    assert [tree.lookup(directory, name) for name in names] == [
        tree.inode(item.nid) for item in tree.listdir(directory)
    ]
    for name in (b"", b"\0", b"~", b"1", names[5] + b"x", b"x" * 300):
        assert tree.lookup(directory, name) is None
    assert tree.lookup(directory, b"..") == tree.root


def test_lists_types(shelf: Shelf) -> None:
    tree = shelf.read(TREES["attributes"][0])
    found = {item.name: item.type for item in tree.listdir(tree.root)}
    assert found == {path: stat.S_IFMT(inode.mode) for path, inode in tree.walk() if path}


def test_walks_in_byte_order_of_paths(shelf: Shelf) -> None:
    tree = shelf.read(layer(*(entry(name) for name in ("a/b/c", "a.b/x", "a/b.c", "a-", "a/b-/y", "a0"))))
    paths = [path for path, _ in tree.walk()]
    assert paths == sorted(paths)
    assert set(paths) >= {b"", b"a", b"a/b", b"a/b/c", b"a.b/x", b"a/b.c", b"a-", b"a/b-/y", b"a0"}


def test_shows_the_user_no_marks(shelf: Shelf) -> None:
    tree = shelf.read(XATTRS)
    big = at(tree, b"big")
    assert tree.xattrs(big) == {b"trusted.a": b"1", b"user.z": b"2"}
    assert set(tree.raw_xattrs(big)) > set(tree.xattrs(big))
    assert tree.xattrs(at(tree, b"f"))[b"user.raw"] == b"\0\1=\xff\n"


def test_finds_all_names_of_an_inode(shelf: Shelf) -> None:
    tree = shelf.read(LINKS)
    assert tree.links(at(tree, b"g")) == [b"f", b"g", b"h/deep"]
    assert tree.links(at(tree, b"c/below")) == []


def test_says_where_contents_are(shelf: Shelf) -> None:
    tree = shelf.read(TREES["contents"][0])
    one, two, over, empty = (at(tree, name) for name in (b"one", b"two", b"over", b"empty"))
    assert tree.place(one) == tree.place(two) == (1, 1, 0)
    assert tree.place(over)[0] == 2
    assert (tree.place(empty)[0], tree.content(empty)) == (0, None)
    assert tree.content(one) == tree.content(two) != tree.content(over)
    assert len(tree.contents()) % 32 == 0
    assert tree.content(tree.root) is None


def test_knows_the_marks_of_layers(shelf: Shelf) -> None:
    tree = shelf.read(WHITEOUTS)
    assert tree.is_whiteout(at(tree, b"a/gone"))
    assert not tree.is_whiteout(at(tree, b"stays"))
    assert tree.is_opaque(at(tree, b"opaque"))
    assert tree.is_implicit(at(tree, b"opaque"))
    assert not tree.is_implicit(at(tree, b"fresh"))
    other = shelf.read(LINKS)
    assert other.link_target(at(other, b"lower")) == b"other/path"
    assert other.link_target(at(other, b"f")) is None


def test_rdev_is_the_hosts(shelf: Shelf) -> None:
    tree = shelf.read(TREES["attributes"][0])
    assert at(tree, b"big").rdev == os.makedev(4095, 1048575)
    assert at(tree, b"null").rdev == os.makedev(1, 3)
    assert at(tree, b"fifo").rdev == 0


def test_wrong_kinds_are_refused(shelf: Shelf) -> None:
    tree = shelf.read(LOWER)
    with pytest.raises(NotADirectoryError):
        list(tree.listdir(at(tree, b"file")))
    with pytest.raises(OSError) as caught:
        tree.readlink(at(tree, b"file"))
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(Corrupt):
        tree.inode(1 << 40)


def test_reads_from_many_threads(shelf: Shelf) -> None:
    tree = shelf.read(LINKS)

    def look(_: int) -> list[object]:
        return [(path, inode, tree.links(inode), tree.raw_xattrs(inode)) for path, inode in tree.walk()]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(look, range(40)))
    assert all(result == results[0] for result in results)


def test_what_is_no_tree_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tree.open(tmp_path / "missing")
    path = tmp_path / "file"
    for data in (b"", b"x", bytes(8192), b"LAYERFS\0" + bytes(8184)):
        path.write_bytes(data)
        with pytest.raises(Corrupt):
            Tree.open(path)


def test_a_newer_format_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    data = bytearray(Path(shelf.read(LOWER).path).read_bytes())
    data[8] = 2
    (tmp_path / "newer").write_bytes(data)
    with pytest.raises(StoreVersionError):
        Tree.open(tmp_path / "newer")


def everything(path: Path) -> None:
    with Tree.open(path) as tree:
        for _, inode in tree.walk():
            tree.raw_xattrs(inode)
            tree.content(inode)
            tree.place(inode)
            tree.links(inode)
            tree.link_target(inode)
            if stat.S_ISLNK(inode.mode):
                tree.readlink(inode)
            if stat.S_ISDIR(inode.mode):
                tree.lookup(inode, b"dir")


@pytest.mark.parametrize("seed", range(40))
def test_damage_raises_corrupt_and_nothing_else(shelf: Shelf, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    name = dice.choice(["links", "xattrs", "whiteouts", "big-directory", "contents"])
    shelf.read(TREES[name][-1])
    whole = Path(shelf.trees[0]).read_bytes()
    path = tmp_path / "damaged"
    for _ in range(25):
        data = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3, 20])):
            where = dice.choice(
                [dice.randrange(len(data)), dice.randrange(4096, 4096 + 1024), dice.randrange(1024, 1200)]
            )
            data[where] = dice.choice([0, 1, 0x7F, 0xFF, dice.randrange(256)])
        if dice.random() < 0.1:
            del data[4096 * dice.randrange(1, len(data) // 4096 + 1) :]
        path.write_bytes(data)
        with contextlib.suppress(Corrupt, StoreVersionError):
            everything(path)

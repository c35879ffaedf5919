from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from layerfs._pure import LayerReader, hash_fd, sha256
from layerfs.errors import Corrupt, InvalidArchive
from layerfs.layer.tree import Tree
from tests.golden.layers import CONTENTS, SPARSE, sparse_1_0
from tests.trees import Shelf, entry, layer


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_says_what_was_read(shelf: Shelf) -> None:
    shelf.read(CONTENTS)
    result = shelf.results[0]
    assert (result.diff_id, result.tar_size) == (sha256(CONTENTS), len(CONTENTS))
    assert (result.entries, result.unresolved_links) == (8, 0)
    assert result.content_size == 4 + 4 + 12 + 131072 + 2 * 131073 + 4097


def test_each_new_content_is_recorded_once_in_order(shelf: Shelf) -> None:
    shelf.read(CONTENTS)
    contents = shelf.results[0].contents
    sizes = [int.from_bytes(contents[at + 32 : at + 40], "little") for at in range(0, len(contents), 64)]
    assert sizes == [4, 11, 12, 131072, 131073, 4097]
    assert shelf.results[0].pack_blocks == 1 + 1 + 1 + 32 + 2
    assert shelf.packs[1].stat().st_size == 37 * 4096


def test_known_contents_are_not_written_again(shelf: Shelf) -> None:
    shelf.read(CONTENTS)
    tree = shelf.read(layer(entry("again", data=b"same"), entry("more", data=b"p" * 131073), entry("new", data=b"new")))
    assert shelf.packs[2].stat().st_size == 4096
    assert len(shelf.results[1].contents) == 64
    assert tree.packs == (1, 2)
    assert shelf.data(tree, tree.resolve(b"again")) == b"same"  # type: ignore[arg-type]


def test_objects_are_named_and_protected(shelf: Shelf) -> None:
    shelf.read(CONTENTS)
    (path,) = (shelf.folder / "objects").iterdir()
    assert path.name == sha256(b"p" * 131073).hex()
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_sparse_objects_are_sparse_and_hash_as_files_do(shelf: Shelf) -> None:
    tree = shelf.read(SPARSE)
    for name in (b"holes", b"nothing"):
        inode = tree.resolve(name)
        assert inode is not None
        identity = tree.content(inode)
        assert identity is not None
        path = shelf.folder / "objects" / identity.hex()
        assert path.stat().st_size == inode.size
        assert path.stat().st_blocks * 512 < 64 * 1024
        with path.open("rb") as file:
            assert hash_fd(file.fileno(), True)[0] == identity


def test_a_failed_read_leaves_no_half_object(shelf: Shelf) -> None:
    for tar in (entry("big", size=1 << 20) + bytes(5000), layer(sparse_1_0("x", 9 << 20, [(0, b"x" * 9000)]))[:4000]):
        with pytest.raises(InvalidArchive):
            shelf.read(tar)
    assert list((shelf.folder / "objects").iterdir()) == []
    assert not list(shelf.folder.glob("layer-*"))


def test_a_reader_that_failed_is_of_no_further_use(tmp_path: Path) -> None:
    pack, objects = os.open(tmp_path / "pack", os.O_RDWR | os.O_CREAT), os.open(tmp_path, os.O_RDONLY)
    reader = LayerReader(pack_fd=pack, pack_id=1, objects_fd=objects, lookup=lambda asked: bytes(len(asked)))
    with pytest.raises(InvalidArchive):
        reader.feed(b"x" * 512)
    for call in (lambda: reader.feed(b""), lambda: reader.finish(str(tmp_path / "tree"))):
        with pytest.raises(ValueError):
            call()
    os.close(pack)
    os.close(objects)


def test_limits(shelf: Shelf) -> None:
    three = layer(entry("a"), entry("b"), entry("c"))
    shelf.read(three, max_entries=3)
    with pytest.raises(InvalidArchive):
        shelf.read(three, max_entries=2)
    with pytest.raises(InvalidArchive):
        shelf.read(layer(entry("a/b/c/d/e")), max_entries=4)
    with pytest.raises(InvalidArchive):
        shelf.read(layer(entry("a", data=b"xx")), max_file_size=1)


def test_raw_bytes_are_recorded_in_pieces_of_a_mebibyte(shelf: Shelf) -> None:
    tar = layer(entry("a")) + b"junk" * (1 << 19)
    shelf.read(tar)
    split = shelf.splits[0]
    assert split[8:13] == b"\1" + (1 << 20).to_bytes(4, "little")
    assert shelf.replay(0) == tar


def test_a_tree_is_never_overwritten(shelf: Shelf) -> None:
    tree = shelf.read(CONTENTS)
    before = Path(tree.path).read_bytes()
    with pytest.raises(FileExistsError):
        shelf.module.merge_trees(shelf.trees, tree.path, bytes(32))
    assert Path(tree.path).read_bytes() == before
    assert stat.S_IMODE(Path(tree.path).stat().st_mode) == 0o444


def test_a_damaged_tree_is_not_merged(shelf: Shelf) -> None:
    path = Path(shelf.read(CONTENTS).path)
    data = bytearray(path.read_bytes())
    data[1024] ^= 1
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        shelf.merge()


def test_many_packs_need_a_longer_device_table(shelf: Shelf) -> None:
    for number in range(40):
        shelf.read(layer(entry(f"f{number}", data=b"%d" % number)))
    tree = shelf.merge()
    assert tree.packs == tuple(range(1, 41))
    assert all(shelf.data(tree, tree.resolve(b"f%d" % n)) == b"%d" % n for n in range(40))  # type: ignore[arg-type]
    assert isinstance(tree, Tree)

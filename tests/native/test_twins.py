"""The compiled core and its plain-Python twin agree byte for byte."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layerfs import _pure
from layerfs._pure.hashes import crc32c
from layerfs.errors import Corrupt, InvalidArchive
from layerfs.layer.tree import Tree
from tests.conftest import PROJECT
from tests.golden.layers import REFUSED, TREES
from tests.trees import Shelf, entry, layer, load_module, native, sealed, unpacked

CORE: Any = native()
pytestmark = pytest.mark.skipif(CORE is None, reason="the compiled part is not built: nothing to compare")

SHARED = PROJECT.parent / "shared"
ARCHIVES = sorted(path for part in ("tar", "layer") for path in (SHARED / "data" / part).glob("*"))
SUITE = SHARED / "suites" / "nasty_layers.py"
NASTY = {name: case["layers"] for name, case in load_module(SUITE).C.items()} if SUITE.is_file() else {}
STACKS = {**TREES, **REFUSED, **{f"nasty-{name}": layers for name, layers in NASTY.items()}}


def files(folder: Path) -> dict[str, Any]:
    """Everything below a folder: what an implementation left behind."""
    return {str(path.relative_to(folder)): held(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def held(path: Path) -> Any:
    """Mode, size and the blocks that are not zero (some objects are 60 GB of nothing)."""
    with path.open("rb") as file:
        status, extents, at = os.fstat(file.fileno()), [], 0
        while at < status.st_size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - at, at)
            blocks = ((at + start, data[start : start + 4096]) for start in range(0, len(data), 4096))
            extents += [block for block in blocks if block[1].strip(b"\0")]
            at = end
        return status.st_mode, status.st_size, extents


def outcome(module: Any, folder: Path, layers: list[bytes], chunk: int = 0) -> Any:
    """All that one implementation makes of a stack; or that it refuses it."""
    shelf = Shelf(folder, module)
    try:
        for tar in layers:
            shelf.read(tar, chunks=[chunk] * (len(tar) // chunk) if chunk else ())
        merged = shelf.merge()
    except InvalidArchive:
        return "refused"
    results = [tuple(result) for result in shelf.results]
    return results, shelf.splits, files(folder), (merged.entries, merged.content_size)


def test_both_exist() -> None:
    names = [name for name in _pure.__all__ if name != "LayerResult" and not hasattr(CORE, name)]
    assert names == []


@pytest.mark.parametrize("name", STACKS)
def test_stacks(name: str, tmp_path: Path) -> None:
    pure = outcome(_pure, tmp_path / "pure", STACKS[name])
    assert outcome(CORE, tmp_path / "core", STACKS[name]) == pure
    if name in REFUSED:
        assert pure == "refused"


@pytest.mark.parametrize("length", [41, 42, 43, 60, 72, 73, 74])
def test_a_root_whose_listing_hardly_fits_beside_it(length: int, tmp_path: Path) -> None:
    """Any other inode moves to the next block then; the root has to be where it always is."""
    names = [*(b"%04d" % number for number in range(245)), b"z" * length]
    stack = [layer(*(entry(name) for name in names))]
    assert outcome(CORE, tmp_path / "core", stack) == outcome(_pure, tmp_path / "pure", stack)
    for kind in ("core/layer-1", "pure/merged"):
        tree = Tree.open(tmp_path / kind)
        assert [name for name, _ in tree.walk() if name] == names


@pytest.mark.skipif(not ARCHIVES, reason="no shared/ beside the project: the public archives are not here")
@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.name)
def test_public_archives_in_chunks(path: Path, tmp_path: Path) -> None:
    layers = [unpacked(path)]
    pure = outcome(_pure, tmp_path / "pure", layers)
    assert outcome(CORE, tmp_path / "core", layers, 777) == pure
    assert outcome(_pure, tmp_path / "again", layers, 1013) == pure


ALL = [tar for layers in STACKS.values() for tar in layers if len(tar) < 100_000]


@pytest.mark.parametrize("seed", range(300))
def test_mutated_headers(seed: int, tmp_path: Path) -> None:
    """A byte or a field of a header or an extension is changed and the checksum made right again."""
    dice = random.Random(seed)
    tar = bytearray(dice.choice(ALL))
    blocks = [at for at in range(0, len(tar) - 511, 512) if tar[at + 257 : at + 262] == b"ustar"]
    for _ in range(dice.choice([1, 1, 2, 5])):
        at = dice.choice(blocks or [0])
        where = at + dice.choice([dice.randrange(512), 156, dice.randrange(100, 157), 512 + dice.randrange(60)])
        if where < len(tar):
            tar[where] = dice.choice(
                [0, 0x20, 0x2F, 0x2E, 0x30, 0x31, 0x35, 0x37, 0x39, 0x80, 0xFF, dice.randrange(256)]
            )
        if at + 512 <= len(tar):
            tar[at : at + 512] = sealed(tar[at : at + 512])
    pure = outcome(_pure, tmp_path / "pure", [bytes(tar)])
    assert outcome(CORE, tmp_path / "core", [bytes(tar)]) == pure


PARTS = ["a", "b", "c", "d", "a", "b", ".", "..", "", "e" * 60]
MARKERS = [".wh.a", ".wh.b", ".wh.c", ".wh..wh..opq", ".wh..wh.x"]
LINKED = ["a", "b/c", "../b", "/c", "..", "/", "d/../../a", "a/b/c", "./a", "c/..", "a/missing/../b"]


def random_layer(dice: random.Random) -> bytes:
    """A few members that meet each other: symlinks as parents, links to anything, markers anywhere, replacing."""
    members, files = [], ["a"]
    for _ in range(dice.randrange(1, 9)):
        parts = [dice.choice(PARTS) for _ in range(dice.choice([0, 0, 1, 1, 2, 3]))]
        parts.append(dice.choice("abcd") if dice.random() < 0.8 else dice.choice(MARKERS))
        kind = dice.choice([b"0", b"0", b"0", b"5", b"5", b"2", b"2", b"1", b"6", b"3"])
        path, link = "/".join(parts), dice.choice(LINKED).encode()
        if kind == b"0" and ".wh." not in path:
            files.append(path)
        if kind == b"1" and dice.random() < 0.9:
            link = dice.choice(files).encode()
        data = dice.choice([b"", b"1", b"22", b"3" * 5000]) if kind == b"0" else b""
        extra = {b"SCHILY.xattr.user.x": b"y" * dice.choice([1, 1000, 5000])} if dice.random() < 0.1 else None
        mode, device = dice.randrange(0o10000), (1, dice.randrange(3))
        members.append(entry(path, kind, data, link=link, mode=mode, device=device, pax=extra))
    return layer(*members)


@pytest.mark.parametrize("seed", range(300))
def test_random_stacks(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    layers = [random_layer(dice) for _ in range(dice.randrange(1, 5))]
    pure = outcome(_pure, tmp_path / "pure", layers)
    assert outcome(CORE, tmp_path / "core", layers) == pure


@pytest.mark.parametrize("name", TREES)
def test_remapping_and_verifying(name: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    trees = [*(shelf.read(layer) for layer in TREES[name]), shelf.merge()]
    for number, tree in enumerate(trees):
        places = {tree.place(inode) for _, inode in tree.walk()}
        packed = sorted((place.pack_id, place.block) for place in places if place.kind == 1)
        mapping = b"".join(
            pack.to_bytes(8, "little") + block.to_bytes(4, "little") + (1000 - index).to_bytes(4, "little")
            + (7 + index % 2).to_bytes(8, "little") + bytes(8)
            for index, (pack, block) in enumerate(packed) if index % 3
        )  # fmt: skip
        out = [tmp_path / f"{number}-{module.__name__}" for module in (_pure, CORE)]
        for module, path in zip((_pure, CORE), out, strict=True):
            module.remap_tree(tree.path, str(path), mapping)
            assert all(judge.verify_tree(str(path)) for judge in (_pure, CORE))
        assert out[0].read_bytes() == out[1].read_bytes()


@pytest.mark.parametrize("at", [0, 12, 20, 30, 40, 73, 81, 66, 1024, 1030, 1060, 1064, 1100, 1152, 4096, 5000, 8191])
def test_a_damaged_tree_is_seen_by_both(at: int, tmp_path: Path) -> None:
    data = bytearray(Path(Shelf(tmp_path).read(TREES["attributes"][0]).path).read_bytes())
    data[at] ^= 0x55
    path = tmp_path / "damaged"
    path.write_bytes(data)
    assert not _pure.verify_tree(str(path))
    assert not CORE.verify_tree(str(path))


@pytest.mark.parametrize("seed", range(60))
def test_damage_under_right_checksums_is_survived_by_both(seed: int, tmp_path: Path) -> None:
    """And what the twin calls sound (the very bytes a writer makes) the core does too."""
    dice = random.Random(seed)
    shelf = Shelf(tmp_path / "shelf")
    shelf.read(dice.choice([layers[0] for layers in TREES.values()]))
    whole = Path(shelf.trees[0]).read_bytes()
    path, out = tmp_path / "damaged", tmp_path / "out"
    for _ in range(10):
        data = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            where = dice.choice(
                [dice.randrange(4096, len(data)), dice.randrange(4096, 4700), dice.randrange(1024, 1200)]
            )
            data[where] = dice.choice([0, 1, 0x7F, 0xFF, dice.randrange(256)])
        data[1028:1032] = bytes(4)
        data[1028:1032] = crc32c(data[1024:4096]).to_bytes(4, "little")
        data[64:72] = _pure.xxh64(data[1024:]).to_bytes(8, "little")
        path.write_bytes(data)
        assert CORE.verify_tree(str(path)) or not _pure.verify_tree(str(path))
        for module in (_pure, CORE):
            for use in (module.merge_trees, module.remap_tree):
                with contextlib.suppress(Corrupt, InvalidArchive):
                    use([str(path)], str(out), bytes(32)) if use is module.merge_trees else use(
                        str(path), str(out), b""
                    )
                out.unlink(missing_ok=True)


def test_a_newer_tree_is_refused_by_both(tmp_path: Path) -> None:
    data = bytearray(Path(Shelf(tmp_path).read(TREES["attributes"][0]).path).read_bytes())
    data[8] = 2
    path = tmp_path / "newer"
    path.write_bytes(data)
    for module in (_pure, CORE):
        with pytest.raises(OSError) as caught:
            module.verify_tree(str(path))
        assert caught.value.errno == errno.EPROTONOSUPPORT


@given(st.binary(max_size=5000), st.integers(0, 70))
@settings(deadline=None, max_examples=50)
@example(b"", 0)
def test_hashes(data: bytes, times: int) -> None:
    data = data * times
    assert CORE.sha256(data) == _pure.sha256(data)
    assert CORE.xxh64(data) == _pure.xxh64(data)


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.binary(min_size=1, max_size=9000)), max_size=6),
    st.integers(0, 60_000),
)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_identities_of_files(tmp_path: Path, writes: list[tuple[int, bytes]], size: int) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.ftruncate(fd, size)
        for at, data in writes:
            os.pwrite(fd, data, at)
        for sparse in (False, True):
            assert CORE.hash_fd(fd, sparse) == _pure.hash_fd(fd, sparse)
    finally:
        os.close(fd)


def test_a_sparse_identity_does_not_depend_on_where_holes_are(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(100_000) + b"x" * 5000 + bytes(50_001)
    path.write_bytes(data)
    full = os.open(path, os.O_RDONLY)
    holed = os.open(tmp_path / "holed", os.O_RDWR | os.O_CREAT)
    os.pwrite(holed, b"x" * 5000, 100_000)
    os.ftruncate(holed, len(data))
    found = {module.hash_fd(fd, True) for module in (_pure, CORE) for fd in (full, holed)}
    os.close(full)
    os.close(holed)
    assert len(found) == 1
